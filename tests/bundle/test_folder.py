import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import rewrite, write_bundle, write_engine
from PIL import Image
from safetensors.numpy import load_file
from small_bundle import LABELS, flip_a_byte

from rrr_edge.bundle.commands import compiling
from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import Bundle, writing_engine
from rrr_edge.bundle.record import SCHEMA, UNSEALED
from rrr_edge.bundle.target import Target
from rrr_edge.errors import BadInput, CorruptArtifact, UsageError, pip_install
from rrr_edge.images.fit import fit
from rrr_edge.images.picture import load

TARGET = Target(name="test", backend="fake")


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    bundle = write_bundle(tmp_path / "small.rrr")
    write_engine(bundle, TARGET, ("model.bin", b"an engine"))
    return bundle


def test_a_fresh_bundle_holds_what_the_design_says(shared_bundle: Bundle) -> None:
    names = {"manifest.json", "weights.safetensors", "model.onnx", "reference.npz", "calibration.npz", "training.csv"}
    assert set(os.listdir(shared_bundle.path)) == names
    assert {entry.name for entry in shared_bundle.manifest.files} == names - {"manifest.json"}
    shared_bundle.check()


def test_all_its_files_may_be_read_by_others(shared_bundle: Bundle) -> None:
    """A container runs as another user than the one who compressed."""
    umask = os.umask(0)
    os.umask(umask)
    for file in shared_bundle.path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o666 & ~umask, file.name


def test_the_manifest_tells_the_truth(shared_bundle: Bundle) -> None:
    manifest = shared_bundle.manifest
    weights = load_file(shared_bundle.weights)
    learned = [name for name in weights if "running" not in name and "num_batches" not in name]
    assert manifest.cost.params == sum(weights[name].size for name in learned)
    assert manifest.cost.weights_bytes == sum(tensor.nbytes for tensor in weights.values())
    assert manifest.labels == LABELS
    assert manifest.provenance.images == {"train": 36, "test": 24}
    accuracy, reference = manifest.accuracy, shared_bundle.reference
    assert accuracy
    assert accuracy.correct == (reference.probabilities.argmax(1) == reference.labels).sum()
    assert accuracy.accuracy == accuracy.correct / accuracy.images


def test_calibration_images_are_training_images_and_reference_images_are_test_images(
    shared_bundle: Bundle, shapes: Path
) -> None:
    def pictures(split: str) -> set[bytes]:
        return {fit(load(file), 32).tobytes() for file in (shapes / split).glob("*/*.png")}

    assert {image.tobytes() for image in shared_bundle.calibration} == pictures("train")
    assert {image.tobytes() for image in shared_bundle.reference.images} == pictures("test")


def test_what_was_written_reads_back_the_same(shared_bundle: Bundle) -> None:
    again = Bundle.open(str(shared_bundle.path))
    assert again.manifest == shared_bundle.manifest
    assert type(again.manifest).parse(json.loads(again.manifest.to_json()), "it") == again.manifest


@pytest.mark.parametrize("kind", ["absent", "empty folder", "file"])
def test_what_is_no_bundle_is_said(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.rrr"
    if kind == "empty folder":
        path.mkdir()
    if kind == "file":
        Image.new("RGB", (2, 2)).save(path, "PNG")
    said = "There is no bundle" if kind == "absent" else "is not a bundle: it has no manifest.json"
    with pytest.raises(BadInput, match=said) as caught:
        Bundle.open(path)
    makes = f"Make one with: rrr-edge compress PHOTOS -o {path}"
    gives = "Give the folder that `rrr-edge compress` wrote."
    assert caught.value.advice == (makes if kind == "absent" else gives)


@pytest.mark.parametrize("name", ["manifest.json", "engines/test-fp32/engine.json"])
def test_no_flipped_byte_of_a_card_goes_unnoticed(small: Bundle, name: str) -> None:
    file = small.path / name
    original = file.read_bytes()
    unnoticed = []
    for place in range(0, len(original), 3):
        file.write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
        with suppress(CorruptArtifact):
            Bundle.open(small.path).engine(TARGET)
            unnoticed.append(place)
    assert unnoticed == []
    file.write_bytes(original)
    assert Bundle.open(small.path).engine(TARGET) == small.engine(TARGET)


@pytest.mark.parametrize("seal", [None, UNSEALED, hashlib.sha256(b"another").hexdigest()])
def test_a_card_whose_seal_is_gone_or_anothers_is_refused(small: Bundle, seal: str | None) -> None:
    file = small.path / "manifest.json"
    data = json.loads(file.read_text())
    del data["seal"]
    file.write_text(json.dumps(data if seal is None else {"seal": seal} | data))
    with pytest.raises(CorruptArtifact, match="its seal differs"):
        Bundle.open(small.path)


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", "\xff"])
def test_a_manifest_that_is_no_manifest_is_corrupt(small: Bundle, damage: str) -> None:
    (small.path / "manifest.json").write_text(damage, "latin-1")
    with pytest.raises(CorruptArtifact, match=r"manifest\.json (cannot be read|is not a valid Manifest)"):
        Bundle.open(small.path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.pop("labels"), "labels: field required"),
        (lambda m: m.update(surprise=1), "surprise: extra inputs are not permitted"),
        (lambda m: m["spec"].update(depths=[1, 1, 1, 99]), "conv5_x keeps 99 blocks"),
        (lambda m: m["labels"].pop(), "2 labels for 3 classes"),
        (lambda m: m.update(kind="something else"), "kind: input should be 'rrr-edge bundle'"),
    ],
)
def test_an_edited_manifest_is_refused_with_the_wrong_key(small: Bundle, change, said: str) -> None:
    rewrite(small.path / "manifest.json", change)
    with pytest.raises(CorruptArtifact, match=said):
        Bundle.open(small.path)


def test_a_newer_schema_asks_for_a_newer_rrr_edge(small: Bundle) -> None:
    """Whatever else a later version may have put in."""
    rewrite(small.path / "manifest.json", lambda m: m.update(schema=SCHEMA + 1, surprise=1))
    with pytest.raises(CorruptArtifact, match=f"schema {SCHEMA + 1}; this rrr-edge reads up to {SCHEMA}") as caught:
        Bundle.open(small.path)
    assert pip_install(upgrade=True) in caught.value.advice


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("model.onnx", lambda b: b.model),
        ("weights.safetensors", lambda b: b.weights),
        ("reference.npz", lambda b: b.reference),
        ("calibration.npz", lambda b: b.calibration),
    ],
)
def test_a_flipped_byte_is_noticed_before_the_file_is_used(small: Bundle, file: str, read) -> None:
    flip_a_byte(small.path / file)
    bundle = Bundle.open(small.path)
    for look in (read, Bundle.check):
        with pytest.raises(CorruptArtifact, match=rf"{file} has changed since it was written") as caught:
            look(bundle)
        assert caught.value.exit_code == 5


def test_arrays_are_read_without_running_code(small: Bundle) -> None:
    """A pickle in reference.npz stays shut, even where the manifest vouches for it."""
    np.savez(small.path / "calibration.npz", images=np.array([{"a": 1}], object))
    content = (small.path / "calibration.npz").read_bytes()

    def vouch(manifest: dict[str, Any]) -> None:
        entry = next(entry for entry in manifest["files"] if entry["name"] == "calibration.npz")
        entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    rewrite(small.path / "manifest.json", vouch)
    with pytest.raises(CorruptArtifact, match="cannot be read: Object arrays cannot be loaded"):
        _ = Bundle.open(small.path).calibration


@pytest.mark.parametrize("damage", ["flip", "remove", "truncate"])
def test_a_damaged_engine_is_refused_with_the_command_that_repairs_it(small: Bundle, damage: str) -> None:
    file = small.engine_folder("test-fp32") / "model.bin"
    {"flip": flip_a_byte, "remove": Path.unlink, "truncate": lambda f: f.write_bytes(b"an")}[damage](file)
    said = {"flip": "has changed", "remove": "is missing", "truncate": "has 2 bytes instead of 9"}[damage]
    with pytest.raises(CorruptArtifact, match=f"model.bin {said}") as caught:
        small.engine(TARGET)
    assert caught.value.advice == f"Run: {compiling(small.path, TARGET)}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e.update(model_sha256="0" * 64), "was compiled from another model.onnx"),
        (lambda e: e.update(schema=SCHEMA + 1), "this rrr-edge reads up to"),
        (lambda e: e["target"].update(precision="int4"), "target.precision: input should be"),
        (lambda e: e["target"].update(precision="int8"), "holds another engine, test-int8"),
    ],
)
def test_an_engine_that_is_not_this_bundles_is_refused(small: Bundle, change, said: str) -> None:
    rewrite(small.engine_folder("test-fp32") / "engine.json", change)
    with pytest.raises(CorruptArtifact, match=said):
        small.engine(TARGET)


def test_an_absent_engine_is_a_usage_error_that_lists_those_that_are_there(small: Bundle) -> None:
    with pytest.raises(UsageError, match=r"has no test-int8 engine \(it has: test-fp32\)"):
        small.engine(TARGET.model_copy(update={"precision": "int8"}))


def test_what_an_interrupted_compile_left_behind_is_no_engine(small: Bundle) -> None:
    folder = small.engine_folder(".test-int8.partial")
    folder.mkdir()
    (folder / "engine.json").touch()
    assert small.engine_names() == ["test-fp32"]


def test_an_engine_being_written_is_not_there_before_it_is_whole(small: Bundle) -> None:
    with writing_engine(small, "test-fp32") as folder:
        (folder / "new").touch()
        assert small.engine(TARGET)
    assert os.listdir(small.engine_folder("test-fp32")) == ["new"]


@pytest.mark.parametrize("schema", [True, "1", 1.0, 0, -1, None, [1]])
def test_a_schema_that_is_no_version_is_refused(small: Bundle, schema: object) -> None:
    rewrite(small.path / "manifest.json", lambda data: data.update(schema=schema))
    with pytest.raises(CorruptArtifact, match="schema"):
        Bundle.open(small.path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "null", '{"name": "\\ud800"}'])
def test_json_that_is_nested_too_deeply_or_no_record_is_one_sentence(small: Bundle, text: str) -> None:
    (small.path / "manifest.json").write_text(text)
    with pytest.raises(CorruptArtifact, match=r"manifest\.json"):
        Bundle.open(small.path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("preprocess", {"image_size": 0}, "greater than or equal to 1"),
        ("preprocess", {"image_size": -5}, "greater than or equal to 1"),
        ("preprocess", {"image_size": 10**12}, "less than or equal to"),
        ("labels", ["dark", "bright"], "2 labels for 3 classes"),
        ("labels", ["dark", "dark", "bright"], "'dark' is there more than once"),
        ("files", [], "does not list calibration.npz, model.onnx"),
        ("files", [{"name": "../x", "bytes": 1, "sha256": 64 * "a"}], "no plain file name"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_when_it_is_opened(
    small: Bundle, key: str, value: object, said: str
) -> None:
    rewrite(small.path / "manifest.json", lambda data: data.update({key: value}))
    with pytest.raises(CorruptArtifact, match=said):
        Bundle.open(small.path)


@pytest.mark.parametrize("name", ["images", "labels", "probabilities", "branch_probabilities", "files"])
def test_references_of_another_shape_are_refused(small: Bundle, name: str) -> None:
    path = small.path / "reference.npz"
    with np.load(path) as arrays:
        changed = {"files": np.array([f"{index}.png" for index in range(6)]), **arrays}
    changed[name] = changed[name][..., :2]
    np.savez(path, **changed)
    entry = describe_file(path).model_dump()
    rewrite(
        small.path / "manifest.json",
        lambda data: data.update(files=[f for f in data["files"] if f["name"] != path.name] + [entry]),
    )
    with pytest.raises(CorruptArtifact, match=f"contradict each other: {name} is"):
        _ = Bundle.open(small.path).reference


@pytest.mark.parametrize("part", ["engines", "engines/test-fp32", "profiles", "baselines"])
def test_links_in_a_bundle_are_not_followed(small: Bundle, tmp_path: Path, part: str) -> None:
    outside, inside = tmp_path / "outside", small.path / part
    if inside.exists():
        inside.rename(outside)
    else:
        outside.mkdir()
    inside.symlink_to(outside)
    place = {
        "engines": lambda: small.engine(TARGET),
        "engines/test-fp32": lambda: small.engine(TARGET),
        "profiles": lambda: small.profile_folder("x"),
        "baselines": lambda: small.baseline,
    }[part]
    with pytest.raises(CorruptArtifact, match="is a link; in a bundle links are not followed"):
        place()
