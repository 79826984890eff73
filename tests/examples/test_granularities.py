"""The example that draws figure 3: its photos, and that every command it gives is one that there is."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.cli.app import app
from rrr_edge.cli.comparison import read_comparison
from rrr_edge.errors import BadInput
from rrr_edge.images.dataset import scan

FOLDER = Path(__file__).parents[2] / "examples" / "granularities"
sys.path.insert(0, str(FOLDER))

import granularities  # noqa: E402


def test_photos_are_a_data_set_without_duplicates(tmp_path: Path) -> None:
    granularities.draw_photos(tmp_path, each=1)
    found = scan(tmp_path, Preprocess(image_size=granularities.SIZE), seed=0)
    assert len(found.labels) == granularities.CLASSES
    assert (found.bad, found.duplicates) == ((), ())
    pictures = [np.asarray(Image.open(file)) for file in sorted(tmp_path.glob("train/*/*"))]
    assert all(picture.shape == (128, 128, 3) and picture.std() > 20 for picture in pictures)


def test_its_commands_are_those_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, ...]] = []
    monkeypatch.setattr(granularities, "rrr_edge", lambda *words: given.append(tuple(map(str, words))))
    monkeypatch.setattr(granularities, "draw_photos", lambda folder: None)
    monkeypatch.setattr(granularities.shutil, "copytree", lambda *_, **__: None)
    granularities.main("--work", str(tmp_path), "--prepare")
    assert [words[0] for words in given] == ["compress", "compile", "compile", "profile"]
    for verb, *words in given:
        known = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "300"}).output
        assert all(word in known for word in words if word.startswith("--"))
    profile = given[-1]
    granularities.main("--work", str(tmp_path), "--out", str(tmp_path), "--runs", "20")
    for words in (profile, given[-1]):
        assert CliRunner().invoke(app, words).exit_code == BadInput.exit_code, "but for the bundle it would have run"
    asked = read_comparison(profile[profile.index("--against") + 1], profile[profile.index("--sparsity") + 1])
    assert asked.baseline
    assert asked.granularities == ("element", "channel", "block")
    assert asked.sparsities == pytest.approx(np.arange(10) / 10)
