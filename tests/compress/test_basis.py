"""The method `basis`: a whole compression of a ResNet18, and of tiny networks what learns, stops, resumes and fails."""

import csv
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from rrr_edge import Bundle, Classifier
from rrr_edge.bundle.basis import NOTHING_PRUNED
from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import BasisScaling, BasisTraining
from rrr_edge.bundle.spec import ChannelSpec, FactoredSpec, PhaseWidths, ResNetSpec
from rrr_edge.bundle.tailored import whole_network
from rrr_edge.compile import compile_bundle
from rrr_edge.compress import Run, compress
from rrr_edge.compress.basis import BASIS_SCALING
from rrr_edge.compress.basis import _note as note_of
from rrr_edge.compress.basis.channels import Channels, most_slimmed
from rrr_edge.compress.basis.decompose import decompose, deliver
from rrr_edge.compress.basis.pruning import params_with
from rrr_edge.compress.basis.removals import Found, Removals, trainings_of
from rrr_edge.compress.basis.rows import notes_of, table_of
from rrr_edge.compress.method import Inputs
from rrr_edge.compress.stages import Stages
from rrr_edge.compress.validation import MayBeGuessing
from rrr_edge.errors import CannotRunHere, UsageError
from rrr_edge.images.dataset import scan
from rrr_edge.networks import Network, build
from rrr_edge.networks.factored import pairs_of
from rrr_edge.timing.progress import Step
from rrr_edge.timing.statistics import wilson_interval
from rrr_edge.training import Examples
from rrr_edge.training import Run as TrainingRun
from rrr_edge.training.batches import normalise

CLASSES = 3
TRAINING = BasisTraining(epochs=2, batch_size=6, learning_rate=0.01, augment=False)
RECIPE = BasisScaling(
    backbone="resnet18", weights="random", image_size=32, training=TRAINING, prune_share=0.5, patience=0
)
NARROW = ChannelSpec(
    stem=8,
    phases=tuple(PhaseWidths(outputs=w, blocks=((w, w),)) for w in (8, 12, 16, 20)),
    num_classes=CLASSES,
)
BRANCHED = ResNetSpec(depths=(1, 1, 1, 1), branches=2, branch_widths=(4, 4), num_classes=CLASSES)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """Five training, two validation and three test photos a class."""
    folder = tmp_path_factory.mktemp("album")
    for split, source, rows in (
        ("train", "train", slice(5)),
        ("val", "train", slice(5, 7)),
        ("test", "test", slice(3)),
    ):
        for label in sorted((shapes / source).iterdir()):
            (folder / split / label.name).mkdir(parents=True)
            for photo in sorted(label.iterdir())[rows]:
                shutil.copy(photo, folder / split / label.name)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, album: Path) -> Bundle:
    training = TRAINING.model_copy(update={"epochs": 1, "batch_size": 15})
    recipe = RECIPE.model_copy(update={"sparsity": 0.7, "prune_share": 0.7, "training": training})
    return compress(album, tmp_path_factory.mktemp("out") / "b.rrr", recipe=recipe, run=Run(device="cpu"))


@pytest.fixture(scope="module")
def inputs(album: Path) -> Inputs:
    dataset = scan(album, Preprocess(image_size=32), seed=0)
    return Inputs(
        dataset,
        Examples(dataset.train.images, dataset.train.labels),
        Preprocess(image_size=32),
        TrainingRun(device="cpu", precision="32-true"),
    )


def tiny(spec: Any = NARROW) -> Network:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return build(spec).eval()


def run(inputs: Inputs, *, spec: Any = NARROW, kept: Path | None = None, **settings: Any) -> Found:
    recipe = RECIPE.model_copy(update=settings)
    return Removals(recipe, tiny(spec), stages_of(inputs, kept)).run()


def stages_of(inputs: Inputs, kept: Path | None = None, on_progress: Callable[[Step], None] | None = None) -> Stages:
    own = replace(inputs.run, checkpoints=kept, resume=True)
    own = replace(own, on_progress=on_progress) if on_progress else own
    assert inputs.dataset.val is not None
    val = Examples(inputs.dataset.val.images, inputs.dataset.val.labels)
    return Stages(replace(inputs, run=own), 0, val)


# A whole compression


def test_the_bundle_is_as_small_as_was_asked_and_counted_exactly(made: Bundle) -> None:
    manifest = Bundle.open(made.path).manifest
    whole = cost(whole_network("resnet18", CLASSES), 32)
    assert isinstance(manifest.spec, FactoredSpec)
    assert manifest.spec.base == whole_network("resnet18", CLASSES)
    assert 0.7 <= 1 - manifest.cost.params / whole.params < 0.701
    assert manifest.cost.macs < whole.macs
    rows = list(csv.DictReader((made.path / "basis.csv").open()))
    assert manifest.cost.trainable_params == int(rows[-1]["bases"]) + 513 * CLASSES
    assert [int(row["removals"]) for row in rows] == list(range(len(rows)))
    assert (int(rows[-1]["params"]), int(rows[-1]["macs"])) == (manifest.cost.params, manifest.cost.macs)
    assert float(rows[-1]["sparsity"]) == pytest.approx(1 - manifest.cost.params / whole.params)
    assert (made.path / "basis.svg").read_text().startswith("<svg")
    notes = " ".join(manifest.provenance.notes)
    assert "US 12,288,160 B2" in notes
    assert "basis vectors are left" in notes


def test_its_engine_is_verified_as_any_other_and_predicts(made: Bundle, album: Path) -> None:
    assert compile_bundle(made, "openvino", precision="fp32").verification.passed
    photo = next((album / "test").rglob("*.png"))
    with Classifier.open(made.path, "openvino", precision="fp32") as classifier:
        assert classifier.predict(photo).label in made.manifest.labels
    graph = (made.path / "model.onnx").read_bytes()
    name = next(iter(made.manifest.spec.ranks))  # type: ignore[union-attr]
    assert f"{name}.basis".encode() in graph
    assert f"{name}.scaling".encode() in graph
    assert b"factors" not in graph


# What learns, and when it ends


@pytest.mark.parametrize("spec", [NARROW, BRANCHED], ids=lambda spec: spec.kind)
def test_only_factors_and_head_change(spec: Any, inputs: Inputs) -> None:
    found = run(inputs, spec=spec, sparsity=0.0)
    start = tiny(spec)
    decompose(start)
    before, after = start.state_dict(), found.network.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {"fc.weight", "fc.bias"}
    added = {name.rpartition(".")[2] for name in after.keys() - before.keys()}
    assert added == {"factors", "importance"}
    factors = torch.cat(
        [pair.factors.detach() for pair in pairs_of(found.network).values() if pair.factors is not None]
    )
    assert float((factors - 1).abs().mean()) > 1e-3
    # No pair of full rank is smaller than its convolution, so the network itself is delivered.
    assert deliver(found.network).spec == spec
    assert found.rows[0].params == cost(spec, 32).params


def test_statistics_adapt_where_asked(inputs: Inputs) -> None:
    found = run(inputs, sparsity=0.0, adapt_statistics=True)
    norm = found.network.get_submodule("layer1.0.bn1")
    assert float(norm.running_mean.abs().max()) > 0


@pytest.mark.parametrize("settings", [{}, {"importance": "taylor1", "normalise": "cost"}, {"fold_norm": True}], ids=str)
def test_a_number_is_reached_and_no_more_goes(settings: Any, inputs: Inputs) -> None:
    found = run(inputs, sparsity=0.3, **settings)
    whole = cost(NARROW, 32).params
    assert found.taken == len(found.rows) - 1
    chosen = found.network.spec
    assert isinstance(chosen, FactoredSpec)
    assert params_with(NARROW, chosen.ranks) == found.rows[-1].params <= 0.7 * whole
    largest = max(20 * 9 + 20, 20 + 20)
    assert found.rows[-1].params > 0.7 * whole - largest
    assert all(row.within and row.least is None for row in found.rows)
    asked = RECIPE.model_copy(update={"sparsity": 0.3})
    assert len(found.rows) <= trainings_of(asked, NARROW) <= len(found.rows) + 1


class Judged:
    """Accuracies that are given in advance, as of ten photos: after the first training and each of the others."""

    def __init__(self, stages: Stages, monkeypatch: pytest.MonkeyPatch, right: list[int], *, transfer: int = 8) -> None:
        accuracy = stages.judge(tiny())
        assert accuracy is not None
        given = iter(
            accuracy.model_copy(update={"images": 10, "accuracy": count / 10, "interval": wilson_interval(count, 10)})
            for count in [transfer, *right]
        )
        monkeypatch.setattr(Stages, "judge", lambda self, network: next(given))


def test_the_last_network_that_loses_little_enough_is_taken(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = stages_of(inputs)
    Judged(stages, monkeypatch, [8, 9, 7, 6, 9])
    recipe = RECIPE.model_copy(update={"max_drop": 0.1, "prune_share": 0.2})
    found = Removals(recipe, tiny(), stages).run()
    assert [row.accuracy for row in found.rows] == [0.8, 0.9, 0.7, 0.6]
    assert [row.within for row in found.rows] == [True, True, True, False]
    assert found.taken == 2
    assert [row.least for row in found.rows] == pytest.approx([0.7] * 4)
    assert params_with(NARROW, found.network.spec.ranks) == found.rows[2].params  # type: ignore[union-attr]
    assert [row.epoch for row in found.history] == list(range(1, 2 + 3 + 1))
    assert found.later_s == found.rows[3].seconds
    said = " ".join(notes_of(recipe, found.rows, found.rows[2], 10))
    assert "4 networks judged by 10 photos" in said
    assert "the last has 60.0%" in said
    assert table_of(found.rows).splitlines()[0] == "removals,bases,params,macs,sparsity,accuracy,least,within,seconds"


@pytest.mark.parametrize(("right", "nothing"), [([8, 0], True), ([8, 8, 0], False)])
def test_that_nothing_was_pruned_is_said_first(
    right: list[int], nothing: bool, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = stages_of(inputs)
    Judged(stages, monkeypatch, right)
    recipe = RECIPE.model_copy(update={"prune_share": 0.2})
    found = Removals(recipe, tiny(), stages).run()
    assert note_of(recipe, found, deliver(found.network), 1000).startswith(NOTHING_PRUNED) == nothing


def test_a_loss_that_passes_does_not_end_it(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = stages_of(inputs, tmp_path)
    Judged(stages, monkeypatch, [8, 7, 6, 7, 6, 6, 6])
    recipe = RECIPE.model_copy(update={"max_drop": 0.1, "prune_share": 0.1, "patience": 2})
    found = Removals(recipe, tiny(), stages).run()
    assert [row.within for row in found.rows] == [True, True, False, True, False, False, False]
    assert found.taken == 3
    kept = {path.parent.name for path in tmp_path.glob("*/weights.safetensors")}
    assert kept == {f"removal-{number:03}" for number in (3, 4, 5, 6)}
    again = Removals(recipe, tiny(), stages_of(inputs, tmp_path)).run()
    assert (again.taken, len(again.rows)) == (3, 7)
    assert torch.equal(again.network.fc.weight, found.network.fc.weight)


def test_pruning_ends_where_nothing_is_left_to_prune(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = stages_of(inputs)
    Judged(stages, monkeypatch, [5] * 99)
    recipe = RECIPE.model_copy(update={"prune_share": 0.9, "training": TRAINING.model_copy(update={"epochs": 0})})
    found = Removals(recipe, tiny(), stages).run()
    assert found.rows[-1].bases == len(found.network.spec.ranks)  # type: ignore[union-attr]
    assert found.taken == len(found.rows) - 1
    assert len(found.rows) == trainings_of(recipe, NARROW)


@pytest.mark.parametrize(("right", "guesses"), [(0, True), (6, True), (7, False)])
def test_a_network_that_may_guess_is_not_pruned_by_its_accuracy(
    right: int, guesses: bool, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three classes a guess is right in 33%: Wilson's interval of 6 in 10 begins at 31%, of 7 in 10 at 40%."""
    stages = stages_of(inputs, tmp_path)
    Judged(stages, monkeypatch, [0] * 99, transfer=right)
    recipe = RECIPE.model_copy(update={"prune_share": 0.9})
    refusal = "between .* and chance is right in 33.3%. So 10 validation photos cannot tell how much accuracy pruning"
    with pytest.raises(MayBeGuessing, match=refusal) if guesses else nullcontext():
        Removals(recipe, tiny(), stages).run()
    assert {path.parent.name for path in tmp_path.glob("*/stage.json")} >= {"transfer"}
    assert (tmp_path / "removal-000").exists() != guesses
    if guesses:
        monkeypatch.undo()
        # It is not learned again, and as many parameters go as are asked for.
        with pytest.raises(MayBeGuessing, match=refusal):
            Removals(recipe, tiny(), stages_of(inputs, tmp_path)).run()
        assert run(inputs, sparsity=0.3).rows[-1].sparsity >= 0.3


class Crash(Exception):
    pass


def test_a_run_that_stops_in_every_phase_ends_with_the_same_bits(inputs: Inputs, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"sparsity": 0.6, "prune_share": 0.25})
    straight = Removals(recipe, tiny(), stages_of(inputs)).run()
    assert len(straight.rows) > 3
    assert len(straight.rows) <= trainings_of(recipe, NARROW) <= 2 * len(straight.rows)

    def crash_at(stage: str, done: int) -> Callable[[Step], None]:
        def report(step: Step) -> None:
            if (step.stage, step.done) == (stage, done):
                raise Crash

        return report

    for stage, done in (("transfer", 4), ("removal-000", 1), ("removal-001", 2), ("removal-003", 1)):
        with pytest.raises(Crash):
            Removals(recipe, tiny(), stages_of(inputs, tmp_path, crash_at(stage, done))).run()
    seen: list[str] = []
    resumed = Removals(recipe, tiny(), stages_of(inputs, tmp_path, lambda step: seen.append(step.stage))).run()
    assert seen[0] == "removal-003"
    assert resumed.rows == [
        row._replace(seconds=mine.seconds) for row, mine in zip(straight.rows, resumed.rows, strict=True)
    ]
    expected = straight.network.state_dict()
    for name, tensor in resumed.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert len(list(tmp_path.glob("*/weights.safetensors"))) == 1
    # Finished, but not yet delivered: nothing is trained again.
    last = f"removal-{len(straight.rows) - 1:03}"
    again = Removals(recipe, tiny(), stages_of(inputs, tmp_path, crash_at(last, 1))).run()
    assert torch.equal(again.network.fc.weight, resumed.network.fc.weight)


# Channels


def test_coupled_channels_are_judged_and_removed_as_one(inputs: Inputs) -> None:
    network = tiny()
    decompose(network)
    for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.weight, 0.5, 1)
        torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
    said: list[Step] = []
    on_gpu = replace(inputs, run=TrainingRun(device="cuda"))
    with nullcontext() if torch.cuda.is_available() else pytest.raises(CannotRunHere, match="no CUDA GPU"):
        Channels(deepcopy(network), on_gpu)
    channels = Channels(network, replace(inputs, run=replace(inputs.run, on_progress=said.append)))
    assert said == [Step("judge channels", 15, 15)]
    first = "layer2.0.conv3"
    (coupled,) = (one for one in channels._coupled if one.first == first)
    assert set(coupled.norms) == {"layer2.0.bn3", "layer2.0.downsample.1"}
    assert len(channels._coupled) == 1 + 4 * 3  # the stem, and of each block two inside and one at the end
    # By central differences of a gate behind both normalisations.
    examples, expected = inputs.examples, torch.zeros(12)
    norms = [channels.network.get_submodule(name) for name in coupled.norms]
    images = normalise(torch.from_numpy(examples.images).permute(0, 3, 1, 2), inputs.preprocess)
    double = channels.network.double()

    def loss(channel: int, gate: float) -> float:
        for norm in norms:
            norm.weight.data[channel] *= gate
            norm.bias.data[channel] *= gate
        found = torch.nn.functional.cross_entropy(double(images.double())[:, 0], torch.from_numpy(examples.labels))
        for norm in norms:
            norm.weight.data[channel] /= gate
            norm.bias.data[channel] /= gate
        return float(found.detach())

    for channel in range(12):
        expected[channel] = ((loss(channel, 1 + 1e-6) - loss(channel, 1 - 1e-6)) / 2e-6) ** 2
    # The 15 photos are one batch.
    torch.testing.assert_close(channels._scores[first].float(), expected, rtol=1e-3, atol=1e-9)
    channels.network.float()
    with torch.no_grad():
        gated = channels.network(images)
        weak = channels._scores[first].argsort()[:5].tolist()
        for norm in norms:
            norm.weight[weak] = 0
            norm.bias[weak] = 0
        gated = channels.network(images)
        smaller = channels.without((first,) * 5)
        torch.testing.assert_close(smaller(images), gated, rtol=1e-4, atol=1e-5)
    assert smaller.spec.base.phases[1].outputs == 7  # type: ignore[union-attr]


def test_double_pruning_reaches_both_numbers_and_resumes(inputs: Inputs, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"sparsity": 0.3, "then": "channel", "then_sparsity": 0.6, "prune_share": 0.2})
    straight = Removals(recipe, tiny(), stages_of(inputs)).run()
    assert len(straight.rows) / 2 <= trainings_of(recipe, NARROW) <= 2 * len(straight.rows)
    base = straight.network.spec.base  # type: ignore[union-attr]
    assert isinstance(base, ChannelSpec)
    assert sum(phase.outputs for phase in base.phases) < 8 + 12 + 16 + 20
    sparsities = [row.sparsity for row in straight.rows]
    assert sparsities == sorted(sparsities)
    assert sparsities[-2] < 0.6 <= sparsities[-1] < 0.65
    for left in (0, 3):

        def report(step: Step, at: str = f"removal-{len(straight.rows) - 1 - left:03}") -> None:
            if step.stage == at:
                raise Crash

        with pytest.raises(Crash):
            Removals(recipe, tiny(), stages_of(inputs, tmp_path / str(left), report)).run()
        resumed = Removals(recipe, tiny(), stages_of(inputs, tmp_path / str(left))).run()
        for name, tensor in straight.network.state_dict().items():
            assert torch.equal(tensor, resumed.network.state_dict()[name]), name


def test_channels_go_from_the_last_good_network(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"then": "channel", "prune_share": 0.2, "max_drop": 0.1})
    stages = stages_of(inputs, tmp_path)
    Judged(stages, monkeypatch, [8, 8, 5, 8, 5])
    found = Removals(recipe, tiny(), stages).run()
    assert [row.within for row in found.rows] == [True, True, False, True, False]
    assert found.taken == 3
    assert found.rows[3].bases <= found.rows[1].bases
    assert found.rows[2].bases < found.rows[1].bases
    # From the disk, with two networks that lost too much since.
    again = Removals(recipe, tiny(), stages_of(inputs, tmp_path)).run()
    assert again.taken == 3
    assert torch.equal(again.network.fc.weight, found.network.fc.weight)


# What is refused


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match=r"A sparsity of 99.9% is out of reach of basis scaling.*the most is 9\d\.\d%"):
        BASIS_SCALING.spec(RECIPE.model_copy(update={"sparsity": 0.999}), CLASSES)
    with pytest.raises(UsageError, match="in one piece, and ResNet18 is another"):
        BASIS_SCALING.spec(RECIPE.model_copy(update={"then": "channel"}), CLASSES)
    ones = ChannelSpec(stem=1, phases=(PhaseWidths(outputs=1, blocks=((1, 1),)),) * 4, num_classes=CLASSES)
    assert most_slimmed(NARROW) == 1 - cost(ones, 32).params / cost(NARROW, 32).params
    with pytest.raises(ValidationError, match="then_sparsity is needed where"):
        BasisScaling(sparsity=0.5, then="channel")
    with pytest.raises(ValidationError, match="then_sparsity 0.4 is less than sparsity 0.5"):
        BasisScaling(sparsity=0.5, then="channel", then_sparsity=0.4)
    with pytest.raises(ValidationError, match="branches share their batches"):
        BasisScaling(training=BasisTraining(shared_batches=False))
    with pytest.raises(ValidationError, match="they cannot adapt"):
        BasisScaling(fold_norm=True, adapt_statistics=True)
