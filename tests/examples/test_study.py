"""The drawn tasks in examples/study: their pictures, their backbones and their recipes."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rrr_edge.bundle.tailored import whole_network
from rrr_edge.compress.nettailor.teacher import begin
from rrr_edge.compress.weights import load_weights
from rrr_edge.images.layouts import find_layout
from rrr_edge.study.methods import read_methods

STUDY = Path(__file__).parents[2] / "examples" / "study"
sys.path.insert(0, str(STUDY))

import backbones  # noqa: E402
import domains  # noqa: E402
import tasks  # noqa: E402

CLASSES = {"letters": 20, "textures": 20, "digits": 10, "shapes": 20}
KEPT_BACK = {"greek": 20, "signs": 20, "curves": 20}
FEW = backbones.Pictures(per_class=1, size=32, epochs=1)


@pytest.mark.parametrize(("domain", "classes"), [*CLASSES.items(), *KEPT_BACK.items()])
def test_pictures_are_the_same_every_time_and_all_different(domain: str, classes: int) -> None:
    few, more = (domains.draw_examples(domain, "train", count, size=32) for count in (1, 2))
    assert more.images.shape == (2 * classes, 32, 32, 3)
    assert np.bincount(more.labels).tolist() == [2] * classes
    assert len(set(domains.ALL[domain].classes)) == classes
    assert np.array_equal(few.images, more.images[::2])
    test = domains.draw_examples(domain, "test", 2, size=32)
    assert len({image.tobytes() for image in (*more.images, *test.images)}) == 4 * classes


def test_a_process_of_its_own_draws_the_same(tmp_path: Path) -> None:
    code = "import domains; print(domains.draw_examples('letters', 'test', 1, size=32).sha256)"
    done = subprocess.run([sys.executable, "-c", code], cwd=STUDY, env=_environment(), capture_output=True, text=True)
    assert done.stdout.strip() == domains.draw_examples("letters", "test", 1, size=32).sha256, done.stderr


@pytest.mark.parametrize(
    ("glyphs", "fonts"),
    [
        (domains.LETTERS, domains.FONTS),
        (domains.GREEK, domains.SIGN_FONTS),
        (tuple(domains.SIGNS.values()), domains.SIGN_FONTS),
    ],
    ids=["letters", "greek", "signs"],
)
def test_every_glyph_is_in_every_font_and_no_family_is_on_both_sides(
    glyphs: tuple[str, ...], fonts: dict[str, tuple[str, ...]]
) -> None:
    train, test = fonts["train"], fonts["test"]
    assert not {name.split("-")[0] for name in train} & {name.split("-")[0] for name in test}
    for name in (*train, *test):
        missing = "\ufffe"  # is no character, so that fonts draw what they draw for a missing one
        drawn = {bytes(domains._font(name, 40).getmask(glyph)) for glyph in (*glyphs, missing)}
        assert len(drawn) == len(glyphs) + 1, name


def test_no_writing_is_on_both_sides() -> None:
    for label in range(10):
        train, test = domains._writings(label, "train"), domains._writings(label, "test")
        assert min(len(train), len(test)) >= 80
        assert not {w.tobytes() for w in train} & {w.tobytes() for w in test}


def test_a_size_is_the_full_picture_averaged() -> None:
    full, half = (domains.draw_examples("shapes", "train", 1, size=size).images for size in (128, 64))
    averaged = full.reshape(20, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(half - averaged).max() <= 1


def test_the_tasks_are_data_sets_with_a_recipe_for_each_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "COUNTS", {"train": 2, "test": 1})
    tasks.write_pictures(tmp_path / "letters", "letters")
    layout, splits = find_layout(tmp_path / "letters")
    assert layout == "splits"
    assert {split: sum(map(len, classes.values())) for split, classes in splits.items()} == {"train": 40, "test": 20}
    recipes = sorted((STUDY / "recipes").glob("*.toml"))
    chain = f"{STUDY / 'recipes' / 'coherent.toml'}+{STUDY / 'recipes' / 'basis.toml'}"
    named = read_methods([*map(str, recipes), chain], {})
    assert len(named) == 11
    assert named[-1].name == "coherent+basis"


def test_a_resnet18_of_the_other_domains_is_what_nettailor_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: object, **__: object) -> backbones.Examples:
        return backbones.Examples(np.zeros((4, 32, 32, 3), np.uint8), np.array([0, 1, 2, 3]))

    monkeypatch.setattr(backbones, "draw_examples", draw)
    learned = backbones.pretrain("letters", FEW, cache=tmp_path, resnet18=True)
    trunk, info = load_weights(learned, backbone="resnet18")
    assert "holds a ResNet18" in info.found
    assert {name.partition(".")[0] for name in load_file(learned).keys() - trunk.keys()} == {"fc"}
    begun = begin(whole_network("resnet18", CLASSES["letters"]), trunk, seed=0).state_dict()
    assert all(torch.equal(begun[name], tensor) for name, tensor in trunk.items())


def test_backbones_are_written_once_and_resnet18s_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def pretrain(target: str, *_: object, resnet18: bool, **__: object) -> Path:
        asked.append((target, resnet18))
        (tmp_path / "learned").touch()
        return tmp_path / "learned"

    monkeypatch.setattr(tasks, "pretrain", pretrain)
    monkeypatch.setattr(tasks, "write_pictures", lambda *_: None)
    tasks.write_tasks(tmp_path, FEW)
    sources = [*CLASSES, "letters", "letters", "shapes"]
    assert asked == [(target, False) for target in sources]
    tasks.write_tasks(tmp_path, FEW, resnet18=True)
    assert asked[len(sources) :] == [(target, True) for target in sources]
    names = {f"{prefix}{target}.safetensors" for prefix in ("", "resnet18-") for target in (*CLASSES, *KEPT_BACK)}
    assert {file.name for file in (tmp_path / "backbones").iterdir()} == names
    for _, (recipe,) in read_methods(
        [str(STUDY / "recipes" / f"{name}.toml") for name in ("nettailor", "resnet18")], {}
    ):
        assert Path(recipe.weights.format(data="letters")).name in names


def test_a_target_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def draw(domain: str, *arguments: object, **options: object) -> backbones.Examples:
        drawn.append(domain)
        return backbones.Examples(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int64))

    def stop(*arguments: object, **options: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(backbones, "draw_examples", draw)
    monkeypatch.setattr(backbones, "train", stop)
    monkeypatch.setattr(backbones, "minimise", stop)
    for target, resnet18 in product(CLASSES, (False, True)):
        drawn.clear()
        with pytest.raises(InterruptedError):
            backbones.pretrain(target, FEW, cache=tmp_path, resnet18=resnet18)
        assert set(drawn) == set(CLASSES) - {target}


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(STUDY.parent.parent), "OMP_NUM_THREADS": "1"}
