"""The demo itself; what it calls is tested where it lives, so here it walks over a bundle that is there already."""

import html
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_bundle import LABELS
from typer.testing import CliRunner

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.recipe import RRR
from rrr_edge.cli import walkthrough as demo
from rrr_edge.cli.app import app
from rrr_edge.compile import compile_bundle
from rrr_edge.compress import Run
from rrr_edge.errors import BadInput, CannotRunHere
from rrr_edge.profile import profile_bundle
from rrr_edge.profile.request import Baselines
from rrr_edge.timing.interleave import TimingSettings


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, shapes: Path, shared_bundle: Bundle) -> list[RRR]:
    """Shapes for digits, no network, no training, no ResNet152, 20 runs, no bf16; returns the recipes asked for."""
    recipes: list[RRR] = []

    def without_network(data: Path, out: Path, *, recipe: RRR, run: Run, **_: Any) -> Bundle:
        recipes.append(recipe)
        if run.resume and out.exists():
            return Bundle.open(out)
        if recipe.weights != "random":
            raise BadInput("The weights cannot be downloaded.")
        shutil.copytree(shared_bundle.path, out)
        return Bundle.open(out)

    def without_bf16(bundle: Bundle, target: str, *, precision: Any, **options: Any) -> Any:
        if precision == "bf16":
            raise CannotRunHere("This CPU has no bf16 arithmetic.")
        return compile_bundle(bundle, target, precision=precision, **options)

    monkeypatch.setattr(demo, "write_digits", lambda folder, size: shutil.copytree(shapes, folder))
    monkeypatch.setattr(demo, "compress", without_network)
    monkeypatch.setattr(demo, "compile_bundle", without_bf16)
    monkeypatch.setattr(demo, "against_source_network", lambda *_, **__: Baselines())
    monkeypatch.setattr(demo, "profile_bundle", lambda *a, **k: profile_bundle(*a, **k, timing=TimingSettings(runs=20)))
    return recipes


@pytest.mark.slow
def test_it_walks_the_whole_path_and_says_what_it_could_not_do(short: list[RRR], tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = CliRunner().invoke(app, ["demo", "--out", str(out), "--epochs", "3", "--json"])
    assert result.exit_code == 0, result.stderr
    assert [recipe.weights for recipe in short] == ["imagenet", "random"]
    assert {recipe.training.epochs for recipe in short} == {3}
    assert "cannot be downloaded. The demo goes on with random weights" in result.stderr
    assert "bf16 is left out. This CPU has no bf16 arithmetic." in result.stderr
    assert all(f"{step}/5" in result.stderr for step in range(1, 6))

    document = json.loads(result.stdout)
    bundle = Bundle.open(document["bundle"])
    assert bundle.engine_names() == ["openvino-fp32", "openvino-int8"]
    assert set(document["engines"]) == {"openvino-fp32", "openvino-int8"}
    assert (Path(document["profile"]) / "profile.json").is_file()
    assert html.escape(document["verdict"]) in Path(document["report"]).read_text("utf-8")
    with Image.open(document["picture"]) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[1] % 8 == 0, "eight photos a row"
    wrong = 24 - round(24 * document["engines"]["openvino-int8"])
    red = ((pixels - np.array([178, 34, 34])) ** 2).sum(-1) < 20  # firebrick, which only wrong answers have
    assert red.any() == bool(wrong)


def test_a_demo_that_is_there_is_kept_unless_forced_and_other_files_always(short: list[RRR], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "old.txt").touch()
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert "has a demo in it" in document["error"]
    assert "--out" in document["advice"]
    assert (tmp_path / "digits" / "old.txt").exists()
    assert not short
    (tmp_path / "report.html").write_text("mine")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--force", "--json"])
    assert result.exit_code == 2
    assert "is no report of ours" in json.loads(result.stdout)["error"]
    assert (tmp_path / "digits" / "old.txt").exists()
    (tmp_path / "report.html").unlink()
    assert CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--force", "--json"]).exit_code == 0
    assert not (tmp_path / "digits" / "old.txt").exists()
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.slow
def test_an_interrupted_demo_goes_on_where_it_stopped(
    short: list[RRR], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the second engine is compiled, and while the page is written."""
    done: list[str] = []
    writes, compiles, profiles, reports = demo.write_digits, demo.compile_bundle, demo.profile_bundle, demo.write_report

    def once(name: str, *, stops: bool = False) -> None:
        done.append(name)
        if stops and done.count(name) == 1:
            raise KeyboardInterrupt

    def write(*args: Any, **options: Any) -> None:
        once("digits")
        writes(*args, **options)

    def compile_one(*args: Any, precision: str, **options: Any) -> Any:
        once(precision, stops=precision == "int8")
        return compiles(*args, precision=precision, **options)

    def profile(*args: Any, **options: Any) -> Any:
        once("profile")
        return profiles(*args, **options)

    def report(*args: Any, **options: Any) -> str:
        once("report", stops=True)
        return reports(*args, **options)

    for name, stub in zip(
        ("write_digits", "compile_bundle", "profile_bundle", "write_report"),
        (write, compile_one, profile, report),
        strict=True,
    ):
        monkeypatch.setattr(demo, name, stub)
    arguments = ["demo", "--out", str(tmp_path / "demo"), "--json"]
    codes, said = [], []
    for _ in range(4):
        result = CliRunner().invoke(app, arguments)
        codes.append(result.exit_code)
        said.append(result.stderr)
    assert codes == [130, 130, 0, 2]
    assert ["goes on where it stopped" in text for text in said] == [False, True, True, False]
    assert "1/5" not in said[1] + said[2]
    # What this machine cannot run is tried again.
    assert done == ["digits", "fp32", "bf16", "int8", "bf16", "int8", "profile", "report", "bf16", "report"]
    # With the weights that were begun with.
    assert [recipe.weights for recipe in short] == ["imagenet", "random", "random", "random"]
    assert "has a demo in it" in json.loads(result.stdout)["error"]
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0
    assert done.count("digits") == 2


@pytest.mark.parametrize("right", [True, False])
def test_a_wrong_answer_is_red_and_names_the_truth(shapes: Path, compiled: Bundle, right: bool) -> None:
    from dataclasses import replace

    from rrr_edge.runtime.classifier import Classifier

    photo = shapes / "test" / LABELS[0] / "0.png"
    with Classifier.open(compiled.path) as classifier:
        answer = replace(classifier.predict(photo), label=LABELS[0] if right else LABELS[1])
    cell = demo._cell(photo, answer)
    below = cell[demo._CELL + 4 : demo._CELL + 4 + demo._LINE].astype(int)
    reddish = (below[..., 0] - below[..., 1:].max(-1) > 60).any()
    assert reddish == (not right)
    assert cell.dtype == np.uint8
