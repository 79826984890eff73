"""Photos to judge by: which of a folder's are taken, and which are known to have been trained on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_bundle import write_bundle
from made_up import rewrite
from small_bundle import LABELS, copy_bundle, link_bundle, with_held_out

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Ancestor
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.images.dataset import scan
from rrr_edge.images.labelled import held_in, photos_of, read_labelled, require_unseen
from rrr_edge.images.layouts import HeldOut


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


@pytest.mark.parametrize("layout", ["splits", "classes"])
def test_of_the_folder_that_it_was_made_from_what_validated_it_is_taken(
    layout: str, shared_bundle: Bundle, shapes: Path, classes: Path, tmp_path: Path
) -> None:
    photos = Path(shutil.copytree(shapes, tmp_path / "shapes")) if layout == "splits" else classes
    bundle, dataset = with_held_out(copy_bundle(shared_bundle, tmp_path / "x.rrr"), photos, 0.25)
    assert dataset.val
    found = read_labelled(photos, bundle, split="val")
    assert found.names == dataset.val.files
    assert not {*found.names} & {*dataset.train.files, *dataset.test.files}
    np.testing.assert_array_equal(found.images, dataset.val.images)
    np.testing.assert_array_equal(found.labels, dataset.val.labels)
    assert found.are_held_out
    assert found.source == f"the photos of {photos.name} that were held out to validate"
    assert f"{len(found.names)} photos of {photos.name} that were held out of the training" in found.notes[0]
    require_unseen(found, bundle)
    assert read_labelled(photos, bundle).names == dataset.test.files
    # In another order of the names others are held out; of photos of a train/ the digest does not say so.
    first = photos / dataset.train.files[0]
    first.rename(first.with_name("z.png"))
    if layout == "splits":
        with pytest.raises(BadInput, match="has no val/, and none of its photos are known to have been held out"):
            read_labelled(photos, bundle, split="val")
    else:
        assert not read_labelled(photos, bundle, split="val").are_held_out


def test_what_an_earlier_bundle_learned_from_and_copies_did_not_validate(
    shared_bundle: Bundle, classes: Path, tmp_path: Path
) -> None:
    for photo in list(classes.glob("*/[0-3].png")):
        shutil.copy(photo, photo.with_name(f"copy-{photo.name}"))
    bundle, dataset = with_held_out(copy_bundle(shared_bundle, tmp_path / "x.rrr"), classes, 0.4)
    assert dataset.val
    known = {image.tobytes() for split in (dataset.train, dataset.test) for image in split.images}
    alone = [
        file for file, image in zip(dataset.val.files, dataset.val.images, strict=True) if image.tobytes() not in known
    ]
    assert 0 < len(alone) < len(dataset.val.files)
    assert read_labelled(classes, bundle, split="val").names == tuple(alone)
    manifest = bundle.manifest

    def going_on_from(share: float | None, **changes: str) -> Bundle:
        training = manifest.recipe.training.model_copy(update={"validation_share": share})
        fields = {"name": "a.rrr", "weights_sha256": "", "data_sha256": dataset.digest, "params": 1, "accuracy": None}
        recipe = manifest.recipe.model_copy(update={"training": training})
        ancestor = Ancestor.model_validate({**fields, "recipe": recipe, "duration_s": 0, **changes})
        return rewrite(bundle, manifest.model_copy(update={"chain": (ancestor,)}))

    less = scan(classes, manifest.preprocess, seed=manifest.recipe.seed, held_out=HeldOut(0.2)).val
    assert less
    both = tuple(file for file in alone if file in less.files)
    assert 0 < len(both) < len(alone)
    assert read_labelled(classes, going_on_from(0.2), split="val").names == both
    for earlier in (going_on_from(None), going_on_from(0.4, data_sha256="0" * 64)):
        with pytest.raises(BadInput, match="none of its photos are known to have been held out"):
            read_labelled(classes, earlier, split="val")


def test_of_splits_only_the_test_photos_are_taken_and_these_are_the_bundles(
    shared_bundle: Bundle, shapes: Path
) -> None:
    found, own = read_labelled(shapes, shared_bundle), photos_of(shared_bundle)
    assert {name.split("/")[0] for name in found.names} == {"test"}
    held = held_in(found, shared_bundle)
    assert held is not None
    np.testing.assert_array_equal(found.images[held], own.images)
    assert own.names == tuple(found.names[row] for row in held)
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


def test_photos_of_a_bundle_are_named_by_their_files_where_it_knows_them(shared_bundle: Bundle, tmp_path: Path) -> None:
    assert photos_of(write_bundle(tmp_path / "older.rrr")).names == tuple(f"#{index}" for index in range(6))
    renamed = link_bundle(shared_bundle, tmp_path)
    renamed.reference.files[0] = "\x1b[31m"
    assert photos_of(renamed).names[0] == r"\x1b[31m"


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
