"""From the command line's words to what is compared."""

from pathlib import Path

import pytest
from fake_bundle import write_bundle, write_engine
from typer.testing import CliRunner

from rrr_edge.backends.fake import ENGINE_FILE
from rrr_edge.bundle.target import Target
from rrr_edge.cli import comparison
from rrr_edge.cli.app import app
from rrr_edge.cli.comparison import assembled, read_comparison
from rrr_edge.cli.display import Display
from rrr_edge.errors import UsageError
from rrr_edge.profile.request import Asked, Baselines, Sweep
from rrr_edge.timing.progress import silent


@pytest.mark.parametrize(
    ("against", "sparsity", "expected"),
    [
        ("baseline", None, Asked(True)),
        ("none", None, Asked(False)),
        ("baseline,block", "0.6,0,0.3,0.6", Asked(True, ("block",), (0.0, 0.3, 0.6))),
        ("element, channel", " .5", Asked(False, ("element", "channel"), (0.5,))),
    ],
)
def test_lists_are_read(against: str, sparsity: str | None, expected: Asked) -> None:
    assert read_comparison(against, sparsity) == expected


@pytest.mark.parametrize(
    ("against", "sparsity", "words"),
    [
        ("baselin", None, "no comparison 'baselin'. Did you mean 'baseline'?"),
        ("baseline,elements", "0.3", "Did you mean 'element'?"),
        ("baseline,none", None, "something and nothing"),
        ("", None, "no comparison ''"),
        ("baseline,block", None, "How sparse is block to be?"),
        ("baseline", "0.3", "none is asked for"),
        ("block", "1", "not '1'"),
        ("block", "30%", "not '30%'"),
        ("block", "nan", "not 'nan'"),
        ("block", "-0.1", "not '-0.1'"),
        ("block", "", "not ''"),
    ],
)
def test_what_makes_no_sense_is_refused(against: str, sparsity: str | None, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_comparison(against, sparsity)
    assert words in str(caught.value)


def test_nothing_can_be_prepared_for_nothing() -> None:
    with pytest.raises(UsageError, match="--prepare is about pruned networks"):
        read_comparison("baseline", None, prepare=True)


def test_without_torch_the_files_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "find_spec", lambda name: None)
    bundle = write_bundle(tmp_path / "x.rrr")
    asked = Asked(True, ("block",), (0.3,))
    with assembled(bundle, Target(name="t", backend="fake"), asked, display=Display(), on_progress=silent) as against:
        assert against == Baselines((bundle.baseline,), (), Sweep(("block",), (0.3,), None))


def test_the_command_deletes_pruned_networks_and_nothing_else(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "x.rrr")
    target = Target(name="openvino", backend="openvino", precision="int8")
    write_engine(bundle, target, (ENGINE_FILE, b"x"))
    pruned = bundle.alternative("block-30")
    pruned.parent.mkdir()
    pruned.write_bytes(b"1234")
    bundle.baseline.write_bytes(b"kept")
    command = ["profile", str(bundle.path), "--target", "openvino", "--precision", "int8", "--clean", "--json"]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.stdout.split()) == (0, ["{", '"freed_bytes":', "4", "}"])
    assert bundle.baseline.is_file()
    assert not pruned.exists()
    outside = bundle.path.rename(tmp_path / "outside.rrr") / "baselines"
    bundle = write_bundle(tmp_path / "x.rrr")
    write_engine(bundle, target, (ENGINE_FILE, b"x"))
    (outside / pruned.name).write_bytes(b"1234")
    (bundle.path / "baselines").symlink_to(outside)
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 5
    assert "x.rrr/baselines is a link; in a bundle links are not followed." in refused.stdout
    assert (outside / pruned.name).is_file()
