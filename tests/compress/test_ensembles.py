"""The strategies, judged by formulas of their papers, by networks that are trained one by one, and by ONNX Runtime."""

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rrr_edge.bundle import files
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import RRR, Schedule, Training
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.compress import compress, plan
from rrr_edge.compress.method import CompressedNetwork, Inputs
from rrr_edge.compress.rrr import RECYCLE
from rrr_edge.compress.rrr.ensembles import bootstraps, fuse
from rrr_edge.compress.rrr.slicing import split
from rrr_edge.errors import BadInput, CorruptArtifact, UsageError
from rrr_edge.images.dataset import Dataset, Split
from rrr_edge.networks import Network, build
from rrr_edge.timing.progress import Step
from rrr_edge.training import Examples, Run, predict, reestimate_stump, train
from rrr_edge.training.batches import Batches
from rrr_edge.training.schedule import learning_rate, lowest
from rrr_edge.training.stage_weights import state_of

BRANCHES, CLASSES = 3, 4
PREPROCESS = Preprocess(image_size=32)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    labels = np.sort(np.arange(16) % CLASSES)
    photos = Split(rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8), labels, tuple(map(str, range(16))))
    return Dataset(Path("photos"), "classes", tuple("abcd"), photos, None, photos, (), (), "digest")


def recipe(original: Path, ensemble: str, **training: object) -> RRR:
    settings = {"epochs": 6, "batch_size": 8} | training
    return RRR(
        weights=str(original), image_size=32, branches=BRANCHES, ensemble=ensemble, training=Training(**settings)
    )


def make(asked: RRR, dataset: Dataset, run: Run = Run()) -> CompressedNetwork:  # noqa: B008  (frozen)
    examples = Examples(dataset.train.images, dataset.train.labels)
    return RECYCLE.make(asked, Inputs(dataset, examples, PREPROCESS, run))


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Learning rates


def rates(schedule: Schedule, total: int, rate: float = 1e-3) -> np.ndarray:
    training = Training(learning_rate=rate, schedule=schedule)
    return np.array([learning_rate(training, step, total) for step in range(total)])


def test_without_a_schedule_the_rate_stays() -> None:
    assert (rates(Schedule(), 7) == 1e-3).all()
    assert Training().schedule == Schedule()


def test_cosine_cycles_are_those_of_warm_restarts() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=13)
    expected = []
    for _ in range(5 * 13):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    schedule = Schedule(shape="cosine", cycles=5)
    np.testing.assert_allclose(rates(schedule, 65), expected, rtol=1e-9, atol=1e-15)
    assert lowest(schedule, 65) == (13, 26, 39, 52, 65)


def test_triangles_fill_the_last_fifth_and_are_garipovs() -> None:
    found, cycle = rates(Schedule(shape="triangular", cycles=4), 300), 15
    assert (found[:240] == 1e-3).all()
    t = (np.arange(60) % cycle + 1) / cycle
    a1, a2 = 1e-3, 5e-4
    expected = np.where(t <= 0.5, (1 - 2 * t) * a1 + 2 * t * a2, (2 - 2 * t) * a2 + (2 * t - 1) * a1)
    np.testing.assert_allclose(found[240:], expected, rtol=1e-12)


@pytest.mark.parametrize(("shape", "total", "cycles"), [("cosine", 3900, 8), ("triangular", 3900, 8), ("cosine", 7, 3)])
def test_snapshots_are_due_after_the_lowest_rate_of_each_cycle(shape: str, total: int, cycles: int) -> None:
    schedule = Schedule(shape=shape, cycles=cycles)
    found = rates(schedule, total)
    moments = np.array(lowest(schedule, total))
    assert len(moments) == cycles
    start = 0 if shape == "cosine" else round(0.8 * total)
    bounds = np.linspace(start, total, cycles + 1)
    for moment, left, right in zip(moments, bounds, bounds[1:], strict=False):
        assert left < moment <= right
        cycle = found[int(np.floor(left)) : int(np.floor(right))]
        assert found[moment - 1] == pytest.approx(cycle.min(), rel=1e-12)
    if shape == "cosine":
        assert moments[-1] == total
    else:
        assert found[moments - 1] == pytest.approx(5e-4, rel=0.02)


@pytest.mark.parametrize(("shape", "total"), [("cosine", 7), ("triangular", 77)])
def test_cycles_that_do_not_fit_are_refused(shape: str, total: int) -> None:
    rates(Schedule(shape=shape, cycles=8), total + 1)
    with pytest.raises(UsageError, match=f"8 {shape} cycles"):
        rates(Schedule(shape=shape, cycles=8), total)


def test_the_optimizer_follows_the_schedule(dataset: Dataset) -> None:
    """Steps with a rate of almost 0 move the weights almost not at all."""
    torch.manual_seed(0)
    network = build(ResNetSpec(depths=(1, 1, 1, 1), branch_widths=(8, 8), num_classes=CLASSES))
    network.freeze_stump()
    states: list[dict[str, Tensor]] = []
    examples = Examples(dataset.train.images, dataset.train.labels)
    training = Training(epochs=20, batch_size=8, ema_fraction=0, schedule=Schedule(shape="cosine", cycles=2))
    run = Run(precision="32-true", after_step=lambda done, total: states.append(state_of(network)))
    train(network, examples, training=training, preprocess=PREPROCESS, run=run)
    moved = [(after["fc.weight"] - before["fc.weight"]).abs().mean().item() for before, after in pairwise(states)]
    # Step 20 starts the second cycle with the full rate, after the step with a rate of (1 + cos(0.95 pi)) / 2.
    assert moved[19] > 10 * moved[18]


# Side by side


def test_bootstraps_are_drawn_once_for_each_branch_with_replacement() -> None:
    samples = bootstraps(1000, 8, seed=1)
    assert samples.shape == (8, 1000)
    assert samples.min() >= 0
    assert samples.max() < 1000
    unique = [len(np.unique(sample)) / 1000 for sample in samples]
    assert unique == pytest.approx([1 - np.exp(-1)] * 8, abs=0.05)
    assert len({sample.tobytes() for sample in samples}) == 8
    assert np.array_equal(bootstraps(1000, 8, seed=1), samples)
    assert not np.array_equal(bootstraps(1000, 8, seed=2), samples)


def test_each_branch_sees_its_bootstrap_in_every_epoch() -> None:
    images = np.zeros((20, 32, 32, 3), np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None, None]
    samples = bootstraps(20, 3, seed=0)
    examples = Examples(images, np.arange(20) + 100, samples)
    batches = Batches(examples, 5, 8, streams=range(3), augment=False)
    orders = []
    for epoch in range(2):
        parts = list(batches.run(epoch * batches.steps, (epoch + 1) * batches.steps))
        seen = np.concatenate([part.inputs[:, :, 0, 0, 0].numpy() for part in parts])
        labels = np.concatenate([part.labels.numpy() for part in parts])
        assert np.array_equal(labels, seen.astype(int) + 100)
        for branch in range(3):
            assert np.array_equal(np.sort(seen[:, branch]), np.sort(samples[branch]))
        orders.append(seen.tobytes())
    assert orders[0] != orders[1]
    assert examples.sha256 != replace(examples, samples=None).sha256


def test_bagging_trains_on_these_bootstraps(original: Path, dataset: Dataset) -> None:
    asked = recipe(original, "bagging", epochs=1)
    made = make(asked, dataset)
    expected = started(asked, original, dataset, made.network.spec)
    samples = bootstraps(16, BRANCHES, seed=asked.seed)
    examples = Examples(dataset.train.images, dataset.train.labels, samples)
    train(expected, examples, training=asked.training, preprocess=PREPROCESS, seed=asked.seed)
    assert equal(state_of(made.network), state_of(expected))
    assert not equal(state_of(made.network), state_of(make(recipe(original, "naive", epochs=1), dataset).network))


def started(asked: RRR, original: Path, dataset: Dataset, spec: ResNetSpec) -> Network:
    network = build(spec)
    network.load_state_dict(split(load_file(original), spec, seed=asked.seed, how=asked.split))
    examples = Examples(dataset.train.images, dataset.train.labels)
    reestimate_stump(network, examples, training=asked.training, preprocess=PREPROCESS, seed=asked.seed)
    return network


# From one branch


def test_a_fused_network_answers_as_its_parts() -> None:
    torch.manual_seed(0)
    spec = ResNetSpec(depths=(1, 1, 2, 1), branches=1, branch_widths=(8, 12), num_classes=CLASSES)
    singles = [build(spec).double() for _ in range(3)]
    for single in singles[1:]:
        for ours, theirs in zip(single.stump_modules(), singles[0].stump_modules(), strict=True):
            ours.load_state_dict(theirs.state_dict())
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        for single in singles:
            features = single.eval().stump(images)
            single.layer4.train()(single.layer3.train()(features))
            single.eval()
    fused = build(spec.model_copy(update={"branches": 3})).double().eval()
    fused.load_state_dict(fuse([single.state_dict() for single in singles]))
    with torch.no_grad():
        expected = torch.cat([single(images) for single in singles], dim=1)
        torch.testing.assert_close(fused(images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("ensemble", "shape"), [("snapshot", "cosine"), ("fge", "triangular")])
def test_branches_are_the_one_branch_at_its_lowest_rates(
    original: Path, dataset: Dataset, ensemble: str, shape: str
) -> None:
    asked = recipe(original, ensemble, epochs=20)
    made = make(asked, dataset)
    network = made.network
    assert network.spec.branches == BRANCHES
    assert network.spec.vote == ("logits" if ensemble == "fge" else "probabilities")
    assert len(made.trained.history) == 20

    single = started(asked, original, dataset, network.spec.model_copy(update={"branches": 1}))
    # Branch 1 of the original: its leading channels.
    c4 = network.spec.branch_widths[0]
    kernel = load_file(original)["layer3.0.conv2.weight"]
    assert torch.equal(single.layer3[0].conv2.weight, kernel[:c4, :c4])
    states = []
    schedule = Schedule(shape=shape, cycles=BRANCHES)
    training = Training(epochs=20, batch_size=8, ema_fraction=0, schedule=schedule)
    train(
        single,
        Examples(dataset.train.images, dataset.train.labels),
        training=training,
        preprocess=PREPROCESS,
        seed=asked.seed,
        run=Run(on_progress=lambda step: states.append(state_of(single))),
    )
    probabilities, branch_probabilities = predict(network.double(), dataset.test.images, preprocess=PREPROCESS)
    single.double()
    for branch, moment in enumerate(lowest(schedule, 40)):
        single.load_state_dict(states[moment - 1])
        alone = predict(single, dataset.test.images, preprocess=PREPROCESS).probabilities
        np.testing.assert_allclose(branch_probabilities[:, branch], alone, rtol=1e-9)
    assert np.abs(np.diff(branch_probabilities, axis=1)).max() > 1e-3
    voted = voted_by_logits(branch_probabilities) if ensemble == "fge" else branch_probabilities.mean(1)
    np.testing.assert_allclose(probabilities, voted, rtol=1e-9)


def voted_by_logits(branch_probabilities: np.ndarray) -> np.ndarray:
    """The softmax of mean logits is the normalised geometric mean of the branches' softmaxes."""
    geometric = np.exp(np.log(branch_probabilities.astype(np.float64)).mean(1))
    return geometric / geometric.sum(-1, keepdims=True)


def test_a_bundle_of_fge_votes_by_logits_in_the_exported_graph(shapes: Path, original: Path, tmp_path: Path) -> None:
    asked = recipe(original, "fge", epochs=12, learning_rate=5e-3)
    bundle = compress(shapes, tmp_path / "shapes.rrr", recipe=asked)
    assert bundle.manifest.spec.vote == "logits"
    images = bundle.reference.images
    session = onnxruntime.InferenceSession(bundle.model)
    probabilities, branch_probabilities = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(probabilities, voted_by_logits(branch_probabilities), atol=1e-5)
    assert np.abs(probabilities - branch_probabilities.mean(1)).max() > 1e-4
    np.testing.assert_allclose(probabilities, bundle.reference.probabilities, atol=1e-4)


# Nothing is lost


class Crash(Exception):
    pass


@pytest.mark.parametrize("ensemble", ["bagging", "snapshot", "fge"])
def test_a_training_that_crashes_again_and_again_ends_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, original: Path, dataset: Dataset, tmp_path: Path, ensemble: str
) -> None:
    asked = recipe(original, ensemble, epochs=6 if ensemble != "fge" else 15)
    straight = make(asked, dataset)
    dice = random.Random(0)
    countdown = 0

    def tick() -> None:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            raise Crash

    rename = files.os.replace

    def replace_(partial: Path, path: Path) -> None:
        tick()
        rename(partial, path)

    def report(step: Step) -> None:
        if step.stage == "train":
            tick()

    monkeypatch.setattr(files.os, "replace", replace_)
    run = Run(checkpoints=tmp_path, resume=True, on_progress=report)
    crashes = 0
    while True:
        # An epoch has 2 steps and writes at least 1 file.
        countdown = dice.randrange(4, 8) if ensemble != "fge" else dice.randrange(14, 22)
        try:
            made = make(asked, dataset, run)
            break
        except Crash:
            crashes += 1
    assert crashes >= 2
    assert equal(state_of(made.network), state_of(straight.network))
    assert [row.loss for row in made.trained.history] == [row.loss for row in straight.trained.history]


def test_a_lost_snapshot_is_refused(original: Path, dataset: Dataset, tmp_path: Path) -> None:
    asked = recipe(original, "snapshot", epochs=3)
    run = Run(checkpoints=tmp_path, resume=True)
    make(asked, dataset, run)
    (tmp_path / "snapshot-2.safetensors").unlink()
    with pytest.raises(CorruptArtifact, match=r"snapshot-2\.safetensors"):
        make(asked, dataset, run)


def test_too_few_steps_for_the_snapshots_are_refused(original: Path, dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="3 triangular cycles need more than the 8 steps"):
        make(recipe(original, "fge", epochs=4), dataset)


@pytest.mark.parametrize(("ensemble", "enough"), [("snapshot", 1), ("fge", 10)])
def test_the_plan_foresees_too_few_steps(
    original: Path, shapes: Path, tmp_path: Path, ensemble: str, enough: int
) -> None:
    """36 photos in batches of 12: 3 steps an epoch, for 3 cycles of 1 step or, in the last fifth, of 2."""
    plan(shapes, tmp_path / "x", recipe=recipe(original, ensemble, epochs=enough, batch_size=12))
    with pytest.raises(UsageError, match="3 .* cycles need more than the"):
        plan(shapes, tmp_path / "x", recipe=recipe(original, ensemble, epochs=enough - 1 or 1, batch_size=24))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ensemble": "bagging", "weights": "random"}, "bagging keeps the stump"),
        ({"ensemble": "bagging", "training": {"shared_batches": True}}, "cannot be shared"),
        ({"ensemble": "snapshot", "training": {"schedule": {"shape": "cosine"}}}, "schedule of its own"),
        ({"ensemble": "fge", "training": {"epochs": 0}}, "0 epochs"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        RRR.parse(settings, "The recipe")
