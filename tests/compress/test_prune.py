"""The granularities of pruning, judged by Torch-Pruning, by torch's own masks, and by the paper's arithmetic."""

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning
import torchvision
from safetensors.torch import load_file
from torch import nn

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Block, Channel, Element, Recipe, Training
from rrr_edge.bundle.settings import read_recipe
from rrr_edge.bundle.spec import RESNET152_DEPTHS, ResNetSpec, source_spec
from rrr_edge.compress import compress, plan, prune
from rrr_edge.compress.prune import depths_by_removal, make_permanent, mask, without_blocks
from rrr_edge.compress.slimming import slim, slimming, sparsity_of
from rrr_edge.errors import MissingLibrary, UsageError, pip_install
from rrr_edge.networks import build, cost
from rrr_edge.training import Examples, Run, predict, train

SMALL = ResNetSpec(depths=(1, 2, 2, 1), branch_widths=(64, 64), num_classes=3)
TINY = SMALL.model_copy(update={"depths": (1, 1, 1, 1)})
WHOLE = source_spec(20)
STILL = Training(epochs=0, validation_share=0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is pruned is a narrow ResNet_1_2_2_1: the export of ResNet152 takes ten seconds."""
    monkeypatch.setattr(prune, "source_spec", lambda classes, _: SMALL.model_copy(update={"num_classes": classes}))


# Blocks


@pytest.mark.parametrize(
    ("order", "printed"),
    [
        # Methods: after conv5_x, half of conv4_x (20 blocks more), conv4_x, conv3_x, conv2_x; of 1,000 classes.
        ("reverse", {(3, 8, 36, 1): 14.8, (3, 8, 16, 1): 52.0, (3, 8, 1, 1): 79.8, (3, 1, 1, 1): 83.0}),
        ("forward", {(1, 8, 36, 3): 0.2, (1, 1, 36, 3): 3.5, (1, 1, 1, 3): 68.5}),
    ],
)
def test_blocks_go_in_the_papers_order(order: Any, printed: dict[tuple[int, ...], float]) -> None:
    visited = list(depths_by_removal(RESNET152_DEPTHS, order))
    assert (visited[0], visited[-1], len(visited)) == (RESNET152_DEPTHS, (1, 1, 1, 1), 47)
    assert all(sum(before) - sum(after) == 1 for before, after in pairwise(visited))
    places = [visited.index(depths) for depths in printed]
    assert places == sorted(places)
    for depths, percent in {**printed, (1, 1, 1, 1): 83.3}.items():
        assert 100 * sparsity_of(ResNetSpec(depths=depths), ResNetSpec()) == pytest.approx(percent, abs=0.06)


def test_blocks_come_as_near_as_they_can_and_no_further() -> None:
    block = 1_117_184  # the parameters of a block of conv4_x
    for asked in (0.2, 0.5, 0.7):
        spec = without_blocks(asked, WHOLE)
        assert abs(sparsity_of(spec, WHOLE) - asked) <= block / 2 / cost(WHOLE, 32).params
    assert without_blocks(0, WHOLE) == WHOLE
    assert without_blocks(0.862, WHOLE).depths == (1, 1, 1, 1)
    with pytest.raises(UsageError, match=r"90.0% is out of reach of block-wise .* most is 86\.2%") as caught:
        without_blocks(0.9, WHOLE)
    assert caught.value.advice == "Ask for at most 0.862."
    with pytest.raises(UsageError, match=r"most is 83\.3%"):
        without_blocks(0.862, ResNetSpec())


# Channels


def test_the_slimmed_network_is_torch_prunings_own() -> None:
    """torchvision's ResNet152, pruned by Torch-Pruning alone: the same widths, counts, MACs and answers."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet152(num_classes=20).eval()
    for norm in (module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.2, 0.6)
        norm.running_mean.uniform_(-0.2, 0.2)
    ours = build(WHOLE).eval()
    ours.load_state_dict(theirs.state_dict())
    found = slimming(0.62, WHOLE)
    example = torch.zeros(1, 3, 64, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        importance = torch_pruning.importance.RandomImportance()
        torch_pruning.pruner.BasePruner(
            theirs, example, importance=importance, pruning_ratio=found.ratio, ignored_layers=[theirs.fc]
        ).step()
    slimmed = slim(ours, found.ratio, seed=7).eval()
    assert slimmed.spec == found.spec
    assert sparsity_of(slimmed.spec, WHOLE) == pytest.approx(0.62, abs=0.005)
    _, params, macs, _ = torch_pruning.utils.count_ops_and_params(theirs, example, layer_wise=True)
    said = cost(slimmed.spec, 64)
    assert said.params == params == sum(p.numel() for p in slimmed.parameters())
    # They count additions of the classifier's biases too.
    assert said.macs + 20 == sum(macs[m] for m in theirs.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert said.weights_bytes == sum(t.numel() * t.element_size() for t in slimmed.state_dict().values())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(slimmed(images), theirs(images)[:, None])


@pytest.mark.parametrize(("asked", "round_to"), [(0.3, 8), (0.9, 1), (0.001, 1), (0.7, 16)])
def test_widths_are_foretold_without_pruning(asked: float, round_to: int) -> None:
    found = slimming(asked, SMALL, round_to)
    slimmed = slim(build(SMALL), found.ratio, criterion="magnitude", round_to=round_to, seed=0)
    assert slimmed.spec == found.spec
    widths = {found.spec.stem, *(phase.outputs for phase in found.spec.phases)}
    assert all(width % round_to == 0 for width in widths)
    assert slimmed(torch.zeros(2, 3, 32, 32)).shape == (2, 1, 3)


def test_nothing_asked_is_nothing_gone() -> None:
    assert sparsity_of(slimming(0, WHOLE).spec, WHOLE) == 0
    assert cost(slimming(0, WHOLE).spec, 128) == cost(WHOLE, 128)


def test_widths_that_are_too_coarse_are_refused() -> None:
    # At least 16 of 64 channels, and so about a sixteenth of the parameters, remain everywhere.
    with pytest.raises(
        UsageError, match=r"99\.0% is out of reach of channel-wise pruning to multiples of 16 .* 93\.7%"
    ):
        slimming(0.99, WHOLE, round_to=16)
    with pytest.raises(UsageError, match=r"the most is 0\.0%"):
        slimming(0.1, WHOLE, round_to=100)


def test_the_smallest_channels_go_by_magnitude() -> None:
    """Of each inner layer of a block, whose channels are coupled to nothing outside it."""
    network = build(SMALL)
    block = network.layer2[1]
    weak = {3, 50, 101}
    with torch.no_grad():
        for conv, norm in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
            conv.weight[list(weak)] *= 1e-3
            norm.weight[list(weak)] *= 1e-3
        block.conv2.weight[:, list(weak)] *= 1e-3
        block.conv3.weight[:, list(weak)] *= 1e-3
    strong = [channel for channel in range(128) if channel not in weak]
    before = block.conv2.weight.detach().clone()[strong][:, strong]
    slimmed = slim(network, 3 / 128, criterion="magnitude", seed=0)
    assert torch.equal(slimmed.layer2[1].conv2.weight, before)


# Elements


@pytest.mark.parametrize("criterion", ["random", "magnitude"])
def test_masks_take_the_same_share_of_every_layer(criterion: Any) -> None:
    network = build(SMALL)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    params = sum(parameter.numel() for parameter in network.parameters())
    held = mask(network, 0.4, criterion=criterion, seed=3)
    make_permanent(network)
    after = network.state_dict()
    assert after.keys() == before.keys()
    layers = [name for name, tensor in before.items() if tensor.ndim > 1]
    weights = sum(before[name].numel() for name in layers)
    for name in layers:
        gone = after[name] == 0
        assert int(gone.sum()) == pytest.approx(0.4 * params / weights * gone.numel(), abs=1)
        assert torch.equal(after[name][~gone], before[name][~gone])
        if criterion == "magnitude":
            assert before[name][gone].abs().max() <= before[name][~gone].abs().min()
    untouched = before.keys() - set(layers)
    assert all(torch.equal(after[name], before[name]) for name in untouched)
    zeros = sum(int((p == 0).sum()) for name, p in network.named_parameters() if name in layers)
    assert zeros == held
    assert zeros / params == pytest.approx(0.4, abs=1e-4)


def test_masks_follow_from_the_seed_alone() -> None:
    def zeros(seed: int) -> torch.Tensor:
        network = build(SMALL)
        mask(network, 0.5, seed=seed)
        return network.layer1[0].conv2.weight == 0

    torch.manual_seed(5)
    first, state = zeros(0), torch.get_rng_state()
    mask(build(SMALL), 0.5, seed=9)
    torch.manual_seed(5)
    assert torch.equal(first, zeros(0))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, zeros(1))


def test_biases_and_normalisation_cannot_be_masked() -> None:
    network = build(SMALL)
    params = sum(p.numel() for p in network.parameters())
    most = sum(p.numel() for p in network.parameters() if p.ndim > 1) / params
    with pytest.raises(UsageError, match=f"99.9% is out of reach of element-wise .* most is {most:.1%}"):
        mask(network, 0.999, seed=0)


def masked_training(folder: Path | None = None, *, stop: int | None = None, resume: bool = False) -> dict[str, Any]:
    """The state dict after two epochs, the last of which is averaged; KeyboardInterrupt after `stop` steps."""
    rng = np.random.default_rng(0)
    examples = Examples(rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), np.arange(12) % 3)
    torch.manual_seed(0)
    network = build(TINY)
    mask(network, 0.6, seed=0)

    def after_step(done: int, _: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    training = Training(epochs=2, batch_size=6, ema_fraction=0.5, augment=False)
    run = Run(
        device="cpu", checkpoints=folder, resume=resume, validation=examples, validate_every=1, after_step=after_step
    )
    train(network, examples, training=training, preprocess=Preprocess(image_size=32), run=run)
    make_permanent(network)
    return network.state_dict()


def test_masks_hold_through_training_average_and_resumption(tmp_path: Path) -> None:
    start = build(TINY)
    mask(start, 0.6, seed=0)
    masks = {name.removesuffix("_mask"): m for name, m in start.state_dict().items() if name.endswith("_mask")}
    whole = masked_training()
    assert len(masks) == 1 + 4 * 4 + 1
    for name, kept in masks.items():
        assert not whole[name][kept == 0].any()
        assert whole[name][kept == 1].all()
    with pytest.raises(KeyboardInterrupt):
        masked_training(tmp_path, stop=3)
    resumed = masked_training(tmp_path, resume=True)
    assert whole.keys() == resumed.keys() == build(TINY).state_dict().keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


# Bundles


@pytest.mark.parametrize(
    "recipe",
    [
        Element(sparsity=0.6, criterion="magnitude"),
        Channel(sparsity=0.8, round_to=4),
        Block(sparsity=0.1, order="forward"),
    ],
)
def test_a_pruned_bundle_is_rebuilt_from_its_spec(small: None, shapes: Path, tmp_path: Path, recipe: Recipe) -> None:
    recipe = recipe.model_copy(update={"weights": "random", "image_size": 32, "training": STILL})
    planned = plan(shapes, tmp_path / "x.rrr", recipe=recipe)
    bundle = Bundle.open(compress(shapes, tmp_path / "x.rrr", recipe=recipe).path)
    bundle.check()
    manifest = bundle.manifest
    assert manifest.recipe == recipe
    assert manifest.spec == planned.network
    assert manifest.cost == planned.cost
    network = build(manifest.spec)
    network.load_state_dict(load_file(bundle.weights))
    answers = predict(network, bundle.reference.images, preprocess=manifest.preprocess)
    np.testing.assert_allclose(answers.probabilities, bundle.reference.probabilities, atol=1e-6)
    said = manifest.provenance.notes[0]
    percent = float(said.partition("%")[0])
    if recipe.method == "element":
        left = sum(int(p.count_nonzero()) if p.ndim > 1 else p.numel() for p in network.parameters())
        assert f"{left:,} of {manifest.cost.params:,} are not" in said
        assert percent == 60
    else:
        assert percent == pytest.approx(100 * sparsity_of(manifest.spec, SMALL), abs=0.06)
    assert manifest.provenance.notes[1].startswith("The weights are random")


def test_what_is_out_of_reach_is_refused_before_any_training(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="block-wise"):
        compress(shapes, tmp_path / "x.rrr", recipe=Block(weights="random", sparsity=0.9))
    assert not list(tmp_path.iterdir())


def test_torch_pruning_is_missed_before_the_photos_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingLibrary, match="torch-pruning") as caught:
        compress(tmp_path / "no photos", tmp_path / "x.rrr", recipe=Channel(weights="random"))
    assert caught.value.advice == pip_install("compress")


_MAGNITUDE = Element(sparsity=0.3, criterion="magnitude")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"method": "element", "sparsity": 0.3, "criterion": "magnitude"},
            Element(sparsity=0.3, criterion="magnitude"),
        ),
        ({"method": "channel", "round_to": 8}, Channel(round_to=8)),
        ({"method": "block", "order": "forward", "epochs": 2}, Block(order="forward", training=Training(epochs=2))),
    ],
)
def test_options_and_files_say_the_same(options: dict[str, Any], expected: Recipe, tmp_path: Path) -> None:
    assert read_recipe(None, **options) == expected
    settings = [f"{name} = {value!r}" for name, value in options.items() if name != "epochs"]
    training = [f"[training]\nepochs = {options['epochs']}"] if "epochs" in options else []
    (tmp_path / "recipe.toml").write_text("\n".join(settings + training))
    assert read_recipe(tmp_path / "recipe.toml") == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "elements"}, "Did you mean 'element'"),
        ({"method": "block", "order": "revers"}, "Did you mean 'reverse'"),
        ({"method": "channel", "criterion": "magnitud"}, "Did you mean 'magnitude'"),
        ({"method": "block", "criterion": "random"}, "The method block has no --criterion"),
        ({"method": "element", "sparsity": 1.0}, "less than 1"),
        ({"sparsity": 0.5}, "The method rrr has no --sparsity"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_recipe(None, **options)
    assert words in str(caught.value)
