from pathlib import Path
from typing import Any

import pytest

from rrr_edge.bundle.recipe import METHODS, RRR, FineTune, Training
from rrr_edge.bundle.settings import read_recipe
from rrr_edge.errors import BadInput, UsageError


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_without_anything_it_is_the_papers() -> None:
    recipe = read_recipe(None)
    assert recipe == RRR()
    assert (recipe.method, recipe.image_size, recipe.training.epochs, recipe.training.batch_size) == (
        "rrr",
        128,
        300,
        32,
    )
    assert isinstance(recipe, RRR)
    assert (recipe.depths, recipe.branches) == ((1, 1, 1, 1), 8)


def test_an_option_goes_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    path = write(tmp_path, "branches = 4\nimage_size = 64\n[training]\nepochs = 7\nlearning_rate = 0.01\n")
    recipe = read_recipe(path, branches=2, epochs=9, weights=None)
    assert recipe == RRR(branches=2, image_size=64, training=Training(epochs=9, learning_rate=0.01))


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_bytes(b"\xef\xbb\xbfseed = 7\n")
    assert read_recipe(tmp_path / "own.toml").seed == 7


def test_no_argument_is_changed() -> None:
    options: dict[str, Any] = {"branches": 2, "epochs": 3}
    read_recipe(None, **options)
    assert options == {"branches": 2, "epochs": 3}


def test_every_method_reads_back_as_itself(tmp_path: Path) -> None:
    assert len(METHODS) >= 1
    for name, recipe in METHODS.items():
        assert type(read_recipe(write(tmp_path, f'method = "{name}"'))) is recipe
        assert type(read_recipe(None, method=name)) is recipe


def test_the_backbone_is_the_papers_unless_asked_otherwise_and_says_how_many_blocks_there_are(tmp_path: Path) -> None:
    for name, recipe in METHODS.items():
        assert read_recipe(None, method=name).backbone == (
            "resnet50" if name in ("nettailor", "basis") else "resnet152"
        )
        assert read_recipe(None, method=name, backbone="resnet50").backbone == "resnet50"
        # As a manifest from before there was a choice has it.
        stored = recipe().model_dump(exclude={"backbone"})
        assert recipe.model_validate(stored) == recipe()
    for name, depths in {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}.items():
        path = write(tmp_path, f'method = "finetune"\nbackbone = "{name}"')
        assert read_recipe(path).depths == FineTune(backbone=name).depths == depths
    assert read_recipe(None, method="finetune", backbone="resnet50", depths=(1, 1, 1, 1)).depths == (1, 1, 1, 1)
    for method in ("rrr", "linear-probe"):
        with pytest.raises(UsageError, match="^--depths: conv4_x keeps 7 blocks, but ResNet50 has 1 to 6 there"):
            read_recipe(None, method=method, backbone="resnet50", depths=(1, 1, 7, 1))
    with pytest.raises(UsageError, match="Did you mean 'resnet101'"):
        read_recipe(None, backbone="resnet-101")
    with pytest.raises(BadInput, match="backbone: "):
        read_recipe(write(tmp_path, 'method = "rrr"\nbackbone = "resnet18"'))
    for method in ("nettailor", "finetune", "linear-probe", "basis"):
        assert read_recipe(None, method=method, backbone="resnet18").backbone == "resnet18"
    with pytest.raises(UsageError, match="ResNet18 is used whole"):
        read_recipe(None, method="finetune", backbone="resnet18", depths=(1, 1, 1, 1))


@pytest.mark.parametrize("source", ["option", "file"])
def test_a_near_miss_of_a_method_is_refused_with_the_one_that_was_meant(tmp_path: Path, source: str) -> None:
    with pytest.raises(UsageError, match=r"There is no method 'rrrr'. Did you mean 'rrr'\?") as caught:
        read_recipe(None, method="rrrr") if source == "option" else read_recipe(write(tmp_path, 'method = "rrrr"'))
    assert "Known:" in caught.value.advice


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("branch = 4", "branch: extra inputs are not permitted"),
        ("[training]\nepoch = 4", "epoch: extra inputs are not permitted"),
        ("branches = 0", "branches: input should be greater than or equal to 1"),
        ("depths = [1, 1, 1]", "depths"),
        ("image_size = 31", "image_size: input should be greater than or equal to 32"),
        ("image_size = 'large'", "image_size: input should be a valid integer"),
        ("branches =", "cannot be read as TOML"),
        ("\xff", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_bad_input_that_names_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text, "latin-1")
    with pytest.raises(BadInput, match=said) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)


def test_a_method_that_is_no_word_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no method '5'"):
        read_recipe(write(tmp_path, "method = 5"))


def test_a_file_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="absent.toml cannot be read"):
        read_recipe(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": -1}, "^--epochs: input should be greater than or equal to 0.$"),
        ({"seed": -1}, "--seed: "),
        ({"image_size": 2000}, "--image-size: "),
        ({"method": "basis", "sparsity": "2"}, "^--sparsity: input should be less than 1; --sparsity: .*'auto'.$"),
        ({"epsilon": 0.5}, "^The settings of a block selection need depths = auto.$"),
    ],
)
def test_a_wrong_option_is_a_usage_error(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read_recipe(None, **options)
    assert caught.value.exit_code == 2
