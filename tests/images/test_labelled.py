"""Photos to judge by: which of a folder's are taken, and which are known to have been trained on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_up import rewrite
from small_bundle import LABELS, copy_bundle, link_bundle

from rrr_edge.bundle.folder import Bundle
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.images.dataset import scan
from rrr_edge.images.labelled import held_in, photos_of, read_labelled


@pytest.fixture
def classes(shapes: Path, tmp_path: Path) -> Path:
    """Twelve photos of each class in a folder of its name."""
    return Path(shutil.copytree(shapes / "train", tmp_path / "classes"))


def test_of_the_folder_that_it_was_made_from_only_what_was_held_out_is_taken(
    shared_bundle: Bundle, classes: Path, tmp_path: Path
) -> None:
    preprocess = shared_bundle.manifest.preprocess
    dataset = scan(classes, preprocess, seed=shared_bundle.manifest.recipe.seed)
    manifest = shared_bundle.manifest
    provenance = manifest.provenance.model_copy(update={"data_sha256": dataset.digest})
    bundle = rewrite(
        copy_bundle(shared_bundle, tmp_path / "x.rrr"), manifest.model_copy(update={"provenance": provenance})
    )
    found = read_labelled(classes, bundle)
    assert found.names == dataset.test.files
    np.testing.assert_array_equal(found.images, dataset.test.images)
    np.testing.assert_array_equal(found.labels, dataset.test.labels)
    assert found.are_held_out
    (classes / LABELS[0] / "0.png").unlink()  # then it is another data set
    found = read_labelled(classes, bundle)
    assert (len(found.labels), found.are_held_out) == (35, False)
    assert found.notes[0].startswith("At least 35 of these photos were trained on")


def test_of_splits_only_the_test_photos_are_taken_and_these_are_the_bundles(
    shared_bundle: Bundle, shapes: Path
) -> None:
    found, own = read_labelled(shapes, shared_bundle), photos_of(shared_bundle)
    assert {name.split("/")[0] for name in found.names} == {"test"}
    held = held_in(found, shared_bundle)
    assert held is not None
    np.testing.assert_array_equal(found.images[held], own.images)
    larger = shared_bundle.manifest.preprocess.model_copy(update={"image_size": 48})
    expected = scan(shapes, larger).test.images
    np.testing.assert_array_equal(found.fitted(larger)[held], expected)
    for change, said in (
        ({"image_size": 48}, "at 32 pixels only, and they are wanted at 48 pixels"),
        ({"fit": "squash"}, "with --fit crop only, and they are wanted with --fit squash"),
        ({"decoding": "full"}, "with reduced decoding only, and they are wanted with full decoding"),
    ):
        with pytest.raises(UsageError, match=said):
            own.fitted(own.preprocess.model_copy(update=change))
    assert own.fitted(own.preprocess.model_copy(update={"mean": (0.5, 0.5, 0.5)})) is own.images  # in the graph
    assert held_in(read_labelled(shapes / "train", shared_bundle), shared_bundle) is None


def test_a_class_without_photos_and_unreadable_files_are_said(
    shared_bundle: Bundle, classes: Path, tmp_path: Path
) -> None:
    shutil.rmtree(classes / LABELS[1])
    (classes / LABELS[0] / "bad.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="1 of 25 pictures"):
        read_labelled(classes, shared_bundle)
    found = read_labelled(classes, shared_bundle, max_bad=0.1)
    assert found.notes[0] == f"There are no photos of {LABELS[1]}."
    assert "bad.png" in found.notes[1]
    assert len(found.labels) == len(found.names) == 24


def test_photos_without_a_class_are_refused(shared_bundle: Bundle, classes: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no folder of a class"):
        read_labelled(classes / LABELS[0], shared_bundle)
    (classes / LABELS[0]).rename(classes / "ring")
    with pytest.raises(BadInput, match="does not know: ring"):
        read_labelled(classes, shared_bundle)
    bare = link_bundle(shared_bundle, tmp_path)
    bare.reference.labels[:] = -1
    with pytest.raises(BadInput, match="no labels"):
        photos_of(bare)
