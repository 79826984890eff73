import os
import shutil
import time
from pathlib import Path

import pytest
from fake_bundle import rewrite, write_bundle, write_engine
from small_bundle import flip_a_byte, link_bundle

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.fake import Fake
from rrr_edge.bundle.commands import compiling
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.target import Target
from rrr_edge.errors import BadInput, CorruptArtifact, pip_install
from rrr_edge.runtime.doctor import Finding, examine

TARGET = Target(name="test", backend="fake")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    class NeverOpened(Fake):
        def open(self, folder, target):
            pytest.fail("doctor touched an engine")

    monkeypatch.setitem(BACKENDS, "fake", NeverOpened.always([1, 0, 0]))
    bundle = write_bundle(tmp_path / "small.rrr")
    write_engine(bundle, TARGET, ("model.bin", b"an engine"))
    return bundle


def engine_finding(bundle: Bundle) -> Finding:
    whole, engine = examine(bundle.path)
    assert whole == Finding(str(bundle.path), "load")
    return engine


def edit_engine(bundle: Bundle, name: str = "test-fp32", **changes: object) -> None:
    card = bundle.engine_folder(name) / "engine.json"
    rewrite(card, lambda engine: engine.update(changes))


def test_a_real_bundle_is_sound_in_under_a_second_and_unchanged(compiled: Bundle) -> None:
    examine(compiled.path)  # imports
    before = {file: file.stat().st_mtime_ns for file in compiled.path.rglob("*")}
    start = time.process_time()
    findings = examine(compiled.path)
    assert time.process_time() - start < 1
    assert [finding.what for finding in findings[1:]] == ["onnxruntime-fp32", "openvino-fp32", "openvino-int8"]
    assert {finding.verdict for finding in findings} == {"load"}
    assert {file: file.stat().st_mtime_ns for file in compiled.path.rglob("*")} == before


def test_a_bundle_without_engines_loads_and_the_repair_compiles_one(small: Bundle) -> None:
    shutil.rmtree(small.path / "engines")
    (whole,) = examine(small.path)
    assert (whole.verdict, whole.repair) == ("load", f"rrr-edge compile {small.path} --target openvino")


def test_a_sound_engine_loads(small: Bundle) -> None:
    assert engine_finding(small) == Finding("test-fp32", "load")


@pytest.mark.parametrize("damage", [flip_a_byte, Path.unlink])
def test_a_damaged_engine_is_to_be_rebuilt_by_the_command_given(small: Bundle, damage) -> None:
    damage(small.engine_folder("test-fp32") / "model.bin")
    finding = engine_finding(small)
    assert finding.verdict == "rebuild"
    assert "model.bin" in finding.why
    assert finding.repair == compiling(small.path, TARGET)
    assert finding.exit_code == 5


def test_an_engine_of_another_model_is_to_be_rebuilt(small: Bundle) -> None:
    edit_engine(small, model_sha256="0" * 64)
    assert engine_finding(small).verdict == "rebuild"


def test_an_engine_of_a_later_rrr_edge_asks_for_it(small: Bundle) -> None:
    edit_engine(small, schema=99)
    assert pip_install(upgrade=True) in engine_finding(small).repair


@pytest.mark.parametrize(("built", "verdict"), [("1", "load"), ("0.9", "load"), ("1.1", "rebuild"), ("2", "rebuild")])
def test_an_engine_built_by_a_newer_library_is_to_be_rebuilt(small: Bundle, built: str, verdict: str) -> None:
    """The fake's version is 1."""
    edit_engine(small, versions={"fake": built})
    finding = engine_finding(small)
    assert finding.verdict == verdict
    if verdict == "rebuild":
        assert f"built with fake {built}; this machine has the older 1" in finding.why
        assert finding.exit_code == 4


def test_another_machines_engine_is_refused(small: Bundle) -> None:
    theirs = Target(name="theirs", backend="fake", cpu="No Such CPU")
    write_engine(small, theirs, ("model.bin", b"an engine"))
    assert [finding.verdict for finding in examine(small.path)] == ["load", "load", "refuse"]
    finding = examine(small.path)[-1]
    assert "'No Such CPU' CPU; this machine is" in finding.why
    assert finding.exit_code == 4


def test_an_engine_without_its_backend_here_is_refused(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(BACKENDS, "fake")
    finding = engine_finding(small)
    assert finding.verdict == "refuse"
    assert "no fake backend" in finding.why


def test_a_damaged_bundle_is_refused_and_its_engines_are_not_looked_at(small: Bundle) -> None:
    flip_a_byte(small.path / "model.onnx")
    (finding,) = examine(small.path)
    assert finding.verdict == "refuse"
    assert "model.onnx has changed" in finding.why
    assert finding.exit_code == 5


def test_what_is_no_bundle_is_bad_input(tmp_path: Path, small: Bundle) -> None:
    with pytest.raises(BadInput, match="There is no bundle"):
        examine(tmp_path / "absent")
    (small.path / "manifest.json").write_text("{}")
    with pytest.raises(CorruptArtifact):
        examine(small.path)


@pytest.mark.parametrize("name", ["backup", "test-fp32.old", "-fp32", "a b-int8", "a-b-int9"])
def test_a_folder_that_is_no_engines_is_said_and_no_crash(small: Bundle, name: str) -> None:
    small.engine_folder("test-fp32").rename(small.engine_folder(name))
    finding = engine_finding(small)
    assert (finding.what, finding.verdict, finding.exit_code) == (name, "refuse", 5)
    assert "TARGET-PRECISION" in finding.why


def test_an_engine_without_its_card_is_to_be_rebuilt(small: Bundle) -> None:
    (small.engine_folder("test-fp32") / "engine.json").unlink()
    finding = engine_finding(small)
    assert (finding.verdict, finding.exit_code) == ("rebuild", 2)
    assert finding.repair == compiling(small.path, TARGET)


def test_what_an_interrupted_compile_left_behind_is_passed_over(small: Bundle) -> None:
    small.engine_folder("test-fp32").rename(small.engine_folder(".test-fp32.partial"))
    assert len(examine(small.path)) == 1


def test_every_repair_it_gives_works(bundle: Bundle) -> None:
    from typer.testing import CliRunner

    from rrr_edge.cli.app import app

    os.unlink(bundle.engine_folder("onnxruntime-fp32") / "model.onnx")
    repair = next(finding.repair for finding in examine(bundle.path) if finding.verdict == "rebuild")
    assert CliRunner().invoke(app, repair.split()[1:]).exit_code == 0
    assert {finding.verdict for finding in examine(bundle.path)} == {"load"}


def test_a_bundle_without_engines_is_one_finding(shared_bundle: Bundle, tmp_path: Path) -> None:
    assert [finding.verdict for finding in examine(link_bundle(shared_bundle, tmp_path).path)] == ["load"]
