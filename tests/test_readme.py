"""The README's commands are run as they are written; the environment only makes them small."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import av
import numpy as np
import pytest
from command import Command
from made_up import make_bundle, profile
from PIL import Image
from small_bundle import LABELS, draw, write_shapes

from rrr_edge.bundle.recipe import METHODS, RRR, Schedule, Selection, Training
from rrr_edge.report.tables import networks, times

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SMALL = {
    "RRR_EDGE_COMPRESS_WEIGHTS": "random",
    "RRR_EDGE_COMPRESS_EPOCHS": "2",
    "RRR_EDGE_COMPRESS_IMAGE_SIZE": "32",
    "RRR_EDGE_COMPRESS_BRANCHES": "2",
    "RRR_EDGE_COMPILE_MAX_DROP": "1",
    "RRR_EDGE_PROFILE_AGAINST": "none",
    "RRR_EDGE_PROFILE_RUNS": "20",
    "RRR_EDGE_GATE_MAX_SLOWDOWN": "100",
}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/CLASS/*.png, where the commands are run one after the other."""
    folder = tmp_path_factory.mktemp("desk")
    write_shapes(folder / "split", train=20, test=1)
    (folder / "split" / "train").rename(folder / "photos")
    (folder / "photos" / LABELS[0] / "0.png").rename(folder / "photo.jpg")
    shutil.copytree(folder / "photos", folder / "frames")
    (folder / "clutter").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "clutter" / "0.png")
    _write_video(folder / "video.mp4")
    return folder


def _write_video(path: Path) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for number in range(6):
            picture = np.asarray(draw(LABELS[number % 3], rng))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.slow
def test_every_rrr_edge_command_runs_as_written_and_then_the_python(desk: Path, tmp_path: Path) -> None:
    commands = [line for block in _blocks("console") for line in block.splitlines() if line.startswith("rrr-edge ")]
    assert len(commands) >= 5
    for command in commands:
        if "shipped.rrr" in command:
            shutil.copytree(desk / "mugs.rrr", desk / "shipped.rrr")
        begun = Command(tmp_path, *shlex.split(command, comments=True)[1:], env=SMALL, cwd=desk)
        assert begun.end() == 0, f"{command}\n{begun.stdout}{begun.stderr}"
    snippets = _blocks("python")
    assert snippets
    for snippet in snippets:
        done = _run([sys.executable, "-c", snippet], desk)
        assert done.returncode == 0, f"{snippet}\n{done.stderr}"
        assert done.stdout.split()[0] in LABELS
    done = _run([sys.executable, str(ROOT / "examples" / "embed.py"), "mugs.rrr", "photo.jpg"], desk)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in LABELS


def test_the_demos_tables_have_the_columns_and_rows_that_a_profile_prints(tmp_path: Path) -> None:
    baselines = dict.fromkeys(("ResNet152, openvino fp32", "ResNet152, openvino int8", "ResNet152, PyTorch"), 10.0)
    printed = profile(make_bundle(tmp_path / "x.rrr"), baselines=baselines)
    after = README[README.index("`make demo` took") :]
    shown = [_cells(table) for table in re.findall(r"(?:^\|.*\n)+", after, re.MULTILINE)[:2]]
    for (header, _, *rows), (_, columns, lines) in zip(shown, (times(printed), networks(printed)), strict=True):
        assert tuple(header) == columns
        parts = [line[0] for line in lines if line[0].startswith(" ")]
        assert [row[0] for row in rows] == [line[0] for line in lines if line[0] not in parts]
        assert {len(row) for row in rows} == {len(header)}


def _cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_recipe_that_it_shows_is_the_default_and_no_setting_is_left_out() -> None:
    section = README[README.index("### Recipes") : README.index("## Embed it in an app")]
    data = tomllib.loads(section.partition("```toml\n")[2].partition("```")[0])
    assert RRR.parse(data, "README") == RRR()
    fields = {field.alias or name for recipe in METHODS.values() for name, field in recipe.model_fields.items()}
    for record in (Training, Selection, Schedule):
        fields |= set(record.model_fields)
    assert len(fields) > 25
    assert {name for name in fields if not re.search(rf"\b{name}\b", section)} == set()


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"^[A-Z_]{6,}$", README, re.MULTILINE)


def test_make_commands_have_a_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`?make (\w+)", README))
    assert {"demo", "test"} <= named
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


def test_links_and_extras_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", README, re.M)
    }
    assert links
    for link in links:
        assert link[1:] in headings if link.startswith("#") else (ROOT / link).exists(), link
    extras = re.findall(r"rrr-edge\[([^\]]+)\]", README)
    assert extras
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", pyproject, re.MULTILINE) for line in extras for extra in line.split(","))


def test_every_option_that_is_named_exists() -> None:
    said = set(re.findall(r"`(--[a-z-]+)", README))
    helps = "".join(
        _run([sys.executable, "-m", "rrr_edge", verb, "--help"], ROOT).stdout
        for verb in (
            "compress",
            "compile",
            "profile",
            "report",
            "gate",
            "demo",
            "predict",
            "evaluate",
            "calibrate",
            "doctor",
            "verify",
            "watch",
            "study",
        )
    )
    assert said
    assert all(option in helps for option in said), said


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | SMALL | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
