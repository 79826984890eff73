import tomllib
from pathlib import Path

import pytest
from small_bundle import write_target

from rrr_edge.bundle.target import PACKAGED, PRECISIONS, Target, target_names
from rrr_edge.errors import BadInput, CannotRunHere, UsageError

FILES = sorted((Path(__file__).parents[2] / "targets").glob("*.toml"))


def test_the_shipped_targets_are_found_by_their_files_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(FILES) >= 10
    assert (
        target_names() == sorted(file.stem for file in FILES) == sorted(file.stem for file in PACKAGED.glob("*.toml"))
    )
    for file in FILES:
        target = Target.load(file.stem)
        assert target.name == file.stem
        assert target == Target.load(file) == Target.load(str(file))
        told, stored = tomllib.loads(file.read_text()), target.document()
        assert {key: stored[key] for key in told} == told
        assert target.notes


def test_the_papers_machines_are_there() -> None:
    assert Target.load("rtx-2080ti").gpu == "RTX 2080 Ti"
    assert Target.load("xeon-gold-6126").cpu == "Gold 6126"


def test_the_engine_is_called_after_target_and_precision() -> None:
    assert [Target(name="box", backend="x", precision=p).engine_name for p in PRECISIONS] == [
        "box-fp32",
        "box-bf16",
        "box-fp16",
        "box-int8",
        "box-fp8",
    ]


def test_a_target_in_the_working_folder_goes_before_the_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    write_target(tmp_path / "targets", "openvino", precision="fp32", threads=3)
    write_target(tmp_path / "targets", "porch")
    assert Target.load("openvino").threads == 3
    assert Target.load("porch").name == "porch"
    assert {"openvino", "porch", "tensorrt"} <= set(target_names())


def test_a_near_miss_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(UsageError, match=r"There is no target 'openvno'. Did you mean 'openvino'\?") as caught:
        Target.load("openvno")
    assert caught.value.exit_code == 2
    assert "Known: onnxruntime, openvino" in caught.value.advice


def test_a_far_miss_is_refused_without_a_guess() -> None:
    with pytest.raises(UsageError, match=r"There is no target 'toaster'\.$"):
        Target.load("toaster")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no target file .*porch\.toml"):
        Target.load(tmp_path / "porch.toml")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "int9"}, "precision: input should be 'fp32', 'bf16', 'fp16', 'int8' or 'fp8'"),
        ({"batch": 0}, "batch: input should be greater than or equal to 1"),
        ({"batch": 10**12}, "batch: 1000000000000 is more than 1024"),
        ({"threads": -1}, "threads: input should be greater than or equal to 0"),
        ({"speed": "fast"}, "speed: extra inputs are not permitted"),
        ({"name": "../escape"}, "name: string should match pattern"),
        ({"name": ".hidden"}, "name: string should match pattern"),
    ],
)
def test_a_file_that_is_no_target_is_bad_input_that_names_file_and_key(
    tmp_path: Path, settings: dict[str, str | int], said: str
) -> None:
    path = write_target(tmp_path, "porch", **settings)
    with pytest.raises(BadInput, match=said) as caught:
        Target.load(path)
    assert str(path) in str(caught.value)


def test_records_of_older_engines_may_have_larger_batches() -> None:
    """The limit is one of what is asked for now."""
    target = Target(name="t", backend="tensorrt", batch=2048)
    assert Target.parse(target.document(), "engine.json").largest_batch == 2048


@pytest.mark.parametrize(("cpu", "fits"), [("", True), ("Gold 6126", True), ("gold 6126", True), ("Gold 6127", False)])
def test_the_cpu_must_have_the_words_that_the_target_names(
    monkeypatch: pytest.MonkeyPatch, cpu: str, fits: bool
) -> None:
    monkeypatch.setattr("rrr_edge.bundle.target.cpu_info", lambda: ("Intel(R) Xeon(R) Gold 6126 CPU @ 2.60GHz", ()))
    target = Target(name="t", backend="openvino", cpu=cpu)
    if fits:
        target.require_device()
        return
    with pytest.raises(CannotRunHere, match=r"'t' is a 'Gold 6127' CPU; this machine is Intel\(R\) Xeon") as caught:
        target.require_device()
    assert caught.value.exit_code == 4
