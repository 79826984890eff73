"""What a recipe asks for is what is built, trained and counted; what makes no sense is refused with a sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from rrr_edge.bundle import schemas
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import RRR, Block, Channel, Element, FineTune, LinearProbe, Recipe, Selection, Training
from rrr_edge.bundle.settings import read_recipe
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.cli.app import app
from rrr_edge.compress import METHODS, compress, method, plan
from rrr_edge.compress.method import CompressedNetwork, Inputs, cost_of
from rrr_edge.compress.rrr.slicing import reduce, split
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.images.dataset import Dataset, Split
from rrr_edge.networks import Network, build
from rrr_edge.training import Examples, Run
from rrr_edge.training.stage_weights import state_of

ONES = (1, 1, 1, 1)
CLASSES = 3
SHORT = Training(epochs=1, batch_size=12, ema_fraction=0, validation_share=0)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where ImageNet's weights could be downloaded."""
    monkeypatch.setattr("rrr_edge.compress.check_weights", lambda *source, **depths: "")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    photos = Split(
        rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), np.arange(12) % CLASSES, tuple(map(str, range(12)))
    )
    return Dataset(Path("photos"), "classes", ("a", "b", "c"), photos, None, photos, (), (), "digest")


def make(recipe: Recipe, dataset: Dataset) -> CompressedNetwork:
    inputs = Inputs(dataset, Examples(dataset.train.images, dataset.train.labels), Preprocess(image_size=32), Run())
    method = METHODS[type(recipe)]
    return method.make(method.resolve(recipe), inputs)


def outline(recipe: Recipe, classes: int = 20) -> Network:
    """The network that will be trained, without weights."""
    chosen = METHODS[type(recipe)]
    with torch.device("meta"):
        network = build(chosen.spec(recipe, classes))
    chosen.freeze(recipe, network)
    return network


# Counts


@pytest.mark.parametrize(
    ("recipe", "params", "trainable"),
    [
        pytest.param(LinearProbe(), 58_184_788, 40_980, id="A"),
        pytest.param(FineTune(), 58_184_788, 58_184_788, id="B"),
        pytest.param(RRR(branches=1), 8_056_916, 7_592_980, id="C"),
        pytest.param(RRR(branches=1, dropout=0.05), 8_056_916, 7_592_980, id="D"),
        pytest.param(RRR(), 8_034_120, 7_570_184, id="E"),
        pytest.param(RRR(ensemble="fge"), 8_034_120, 7_570_184, id="E from one branch"),
        pytest.param(RRR(weights="random"), 8_034_120, 8_034_120, id="E from scratch"),
    ],
)
def test_the_papers_models_have_the_papers_counts(recipe: Recipe, params: int, trainable: int) -> None:
    cost = cost_of(outline(recipe), 128)
    assert (cost.params, cost.trainable_params) == (params, trainable)


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_every_method_takes_every_backbone_of_bottlenecks(name: Any) -> None:
    """The whole networks have torchvision's counts; what is reduced or pruned has the counts of its own backbone's."""
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, num_classes=20)
    whole = sum(parameter.numel() for parameter in theirs.parameters())
    for recipe in (FineTune(backbone=name), LinearProbe(backbone=name), Element(backbone=name)):
        assert cost_of(outline(recipe), 128).params == whole
    assert cost_of(outline(RRR(backbone=name)), 128).params == 8_034_120
    for recipe in (Channel(backbone=name), Block(backbone=name)):
        # Half, as near as one block of conv5_x (4.5 million parameters) or one channel a layer comes to it.
        assert abs(cost_of(outline(recipe), 128).params / whole - 0.5) < 4_462_592 / 2 / whole


@pytest.mark.parametrize(("name", "features"), [("resnet18", 512), ("mobilenet_v3_small", 1024)])
def test_other_backbones_are_tuned_and_probed(name: Any, features: int) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, num_classes=20)
    whole = sum(parameter.numel() for parameter in theirs.parameters())
    tuned, probed = (cost_of(outline(recipe(backbone=name)), 128) for recipe in (FineTune, LinearProbe))
    assert (tuned.params, tuned.trainable_params) == (whole, whole)
    assert (probed.params, probed.trainable_params) == (whole, features * 20 + 20)


# Training


def changed(made: CompressedNetwork, before: dict[str, Tensor]) -> set[str]:
    after = state_of(made.network)
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_linear_probe_trains_the_classifier_and_lets_statistics_adapt(
    original: Path, shapes: Path, tmp_path: Path
) -> None:
    recipe = LinearProbe(weights=str(original), depths=ONES, image_size=32, training=SHORT)
    bundle = compress(shapes, tmp_path / "probe.rrr", recipe=recipe)
    bundle.check()
    manifest = Bundle.open(bundle.path).manifest
    assert manifest.recipe == recipe
    assert manifest.spec == ResNetSpec(depths=ONES, num_classes=CLASSES)
    assert manifest.cost.trainable_params == 2048 * CLASSES + CLASSES
    before, after = reduce(load_file(original), ONES), load_file(bundle.weights)
    differ = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert differ == {name for name in before if "running" in name or "num_batches" in name}
    held = (
        "holds a ResNet of 3, 2, 1, 1 bottleneck blocks without a linear classifier, in torchvision's names, float32."
    )
    assert manifest.provenance.notes[0] == f"{original} {held}"
    assert not any("random" in note for note in manifest.provenance.notes)


def test_finetuning_starts_from_all_that_was_published_and_trains_it(original: Path, dataset: Dataset) -> None:
    still = FineTune(weights=str(original), depths=ONES, training=SHORT.model_copy(update={"epochs": 0}))
    before = reduce(load_file(original), ONES)
    assert changed(make(still, dataset), before) == set()
    made = make(still.model_copy(update={"training": SHORT}), dataset)
    assert changed(made, before) == before.keys()
    assert cost_of(made.network, 32).trainable_params == sum(p.numel() for p in made.network.parameters())


@pytest.mark.parametrize("how", ["paper", "coherent"])
def test_rrr_splits_as_it_is_asked(original: Path, dataset: Dataset, how: Any) -> None:
    still = Training(epochs=0, batch_size=12)
    made = make(RRR(weights=str(original), branches=3, split=how, seed=5, training=still), dataset)
    spec = made.network.spec
    expected = split(reduce(load_file(original), ONES), spec, seed=5, how=how)
    parameters = dict(made.network.named_parameters())
    assert len(parameters) > 50
    assert all(torch.equal(parameter, expected[name]) for name, parameter in parameters.items())
    other = split(reduce(load_file(original), ONES), spec, seed=5, how={"paper": "coherent", "coherent": "paper"}[how])
    assert not torch.equal(parameters["layer4.0.conv2.weight"], other["layer4.0.conv2.weight"])
    assert RRR().split == "coherent"


@pytest.mark.parametrize(("kind", "module"), [("channel", nn.Dropout2d), ("plain", nn.Dropout)])
def test_dropout_acts_in_six_places(kind: Any, module: type[nn.Module]) -> None:
    network = build(outline(RRR(branches=1, dropout=0.05, dropout_kind=kind)).spec)
    calls = []
    for found in network.modules():
        if isinstance(found, nn.Dropout | nn.Dropout2d):
            assert type(found) is module
            assert found.p == 0.05
            found.register_forward_hook(lambda *_: calls.append(1))
    network(torch.zeros(2, 3, 32, 32))
    assert len(calls) == 6


def test_random_weights_are_drawn_once_and_train_everything(monkeypatch: pytest.MonkeyPatch, dataset: Dataset) -> None:
    built: list[ResNetSpec] = []
    monkeypatch.setattr(method, "build", lambda spec: built.append(spec) or build(spec))
    recipe = RRR(weights="random", branches=2, training=SHORT)
    still = make(recipe.model_copy(update={"training": SHORT.model_copy(update={"epochs": 0})}), dataset)
    assert len(built) == 1
    torch.manual_seed(recipe.seed)
    start = build(still.network.spec).state_dict()
    assert changed(still, start) == set()
    made = make(recipe, dataset)
    assert changed(made, start) == start.keys()
    assert made.weights == still.weights
    assert made.weights.name == "random"
    other = make(RRR(weights="random", branches=2, seed=1, training=Training(epochs=0)), dataset)
    assert other.weights.sha256 != made.weights.sha256
    assert "random" in made.notes[0]


def test_random_weights_share_batches_and_the_recipe_says_so(shapes: Path, tmp_path: Path) -> None:
    recipe = RRR(weights="random", image_size=32, branches=2, training=SHORT)
    assert not recipe.training.shared_batches
    made = compress(shapes, tmp_path / "x.rrr", recipe=recipe).manifest.recipe
    assert made == recipe.model_copy(update={"training": SHORT.model_copy(update={"shared_batches": True})})
    own = recipe.model_copy(update={"training": Training(shared_batches=False)})
    with pytest.raises(UsageError, match="the 2 branches train the stump that they share"):
        plan(shapes, tmp_path / "y.rrr", recipe=own)
    alone = own.model_copy(update={"branches": 1})
    assert not plan(shapes, tmp_path / "y.rrr", recipe=alone).recipe.training.shared_batches


@pytest.mark.usefixtures("online")
def test_a_plan_counts_what_will_learn(shapes: Path, tmp_path: Path) -> None:
    found = plan(shapes, tmp_path / "x.rrr", recipe=LinearProbe(weights="random", image_size=32))
    assert found.cost.trainable_params == 2048 * CLASSES + CLASSES
    assert isinstance(found.network, ResNetSpec)
    assert found.network.depths == (3, 8, 36, 3)
    found = plan(shapes, tmp_path / "x.rrr", recipe=RRR(depths="auto", image_size=32))
    assert isinstance(found.network, ResNetSpec)
    assert found.network.depths == ONES
    assert isinstance(found.recipe, RRR)
    assert found.recipe.selection == Selection()


# Recipes


@pytest.mark.parametrize("recipe", [RRR(), RRR(depths="auto", split="paper"), LinearProbe(seed=3), FineTune()])
def test_a_stored_recipe_comes_back_as_its_own_type(recipe: Recipe) -> None:
    again = TypeAdapter(Recipe).validate_json(recipe.to_json())
    assert again == recipe
    assert type(again) is type(recipe)


def test_options_go_where_they_belong_and_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'branches = 4\ndepths = "auto"\nseed = 2\n[training]\nepochs = 5\nbatch_size = 7\n[selection]\nepsilon = 0.5\n'
    )
    found = read_recipe(path, branches=None, seed=9, epochs=6, stop=False, order="cyclic", control=None)
    assert found == RRR(
        branches=4,
        depths="auto",
        seed=9,
        training=Training(epochs=6, batch_size=7),
        selection=Selection(epsilon=0.5, stop=False, order="cyclic"),
    )
    assert read_recipe(None, method="finetune", epochs=3) == FineTune(training=Training(epochs=3))
    path.write_text('method = "linear-probe"\n')
    assert read_recipe(path) == LinearProbe()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "finetun"}, "no method 'finetun'. Did you mean 'finetune'"),
        ({"split": "coherrent"}, "no split 'coherrent'. Did you mean 'coherent'"),
        ({"ensemble": "snapshots"}, "no ensemble 'snapshots'. Did you mean 'snapshot'"),
        ({"dropout_kind": "chanel"}, "no dropout kind 'chanel'. Did you mean 'channel'"),
        ({"depths": "auto", "order": "cyclc"}, "no order 'cyclc'. Did you mean 'cyclic'"),
        ({"method": "finetune", "branches": 8}, "The method finetune has no --branches"),
        ({"method": "linear-probe", "epsilon": 0.1}, "The method linear-probe has no --epsilon"),
        ({"epsilon": 0.1}, "need depths = auto"),
        ({"depths": "auto", "epsilon": 0.0}, "greater than 0"),
        ({"depths": "auto", "max_additions": 47}, "less than or equal to 46"),
        ({"depths": "auto", "epochs": 0}, "0 epochs"),
        ({"ensemble": "fge", "weights": "random"}, "no use with random weights"),
        ({"feature_views": 2, "weights": "random"}, "Random weights learn in the stump too"),
        ({"dropout": 1.0}, "less than 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        read_recipe(None, **options)
    assert words in str(error.value)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("branchs = 4\n")
    with pytest.raises(BadInput, match=r"recipe\.toml is not a valid RRR: branchs"):
        read_recipe(path)
    path.write_text("branches = \n")
    with pytest.raises(BadInput, match=r"recipe\.toml cannot be read as TOML"):
        read_recipe(path)


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            "--split paper --ensemble bagging --dropout 0.05 --dropout-kind plain --weights some.pth",
            RRR(split="paper", ensemble="bagging", dropout=0.05, dropout_kind="plain", weights="some.pth"),
        ),
        (
            "--depths auto --epsilon 0.1 --no-stop --max-additions 2 --order cyclic --control --epochs-per-step 3",
            RRR(
                depths="auto",
                selection=Selection(
                    epsilon=0.1, stop=False, max_additions=2, order="cyclic", control=True, epochs_per_step=3
                ),
            ),
        ),
        ("--depths auto", RRR(depths="auto", selection=Selection())),
        ("--feature-views 4 --epochs 9", RRR(training=Training(feature_views=4, epochs=9))),
        ("--method finetune --epochs 2", FineTune(training=Training(epochs=2))),
    ],
)
def test_the_command_line_says_all_of_it(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, expected: Recipe
) -> None:
    monkeypatch.setattr("rrr_edge.compress._estimate", lambda *_: None)  # which would try a training of each
    monkeypatch.chdir(tmp_path)
    Path("some.pth").touch()
    command = ["compress", str(shapes), "-o", str(tmp_path / "x.rrr"), "--dry-run", "--json", "-q", *flags.split()]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    recipe = json.loads(done.stdout)["recipe"]
    assert recipe["training"].pop("validation_share") == (0.2 if "auto" in flags else 0.1)
    assert TypeAdapter(Recipe).validate_python(recipe) == expected


def test_depths_are_four_numbers_or_auto(shapes: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compress", str(shapes), "-o", str(tmp_path / "x.rrr"), "--depths", "aut"])
    assert done.exit_code == 2
    assert "or auto, not 'aut'" in done.output


def test_the_published_schemas_are_of_today() -> None:
    for name in ("manifest", "recipe"):
        assert (schemas.FOLDER / f"{name}.json").read_text() == schemas.schema_text(schemas.PUBLISHED[name])
