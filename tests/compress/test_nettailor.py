"""NetTailor: its losses against formulas, and whole tailorings of a ResNet18 on photos of 32 pixels."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from rrr_edge import Bundle, Classifier
from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import MANIFEST, WEIGHTS
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import FineTune, NetTailor, Schedule, TailorTraining, Training
from rrr_edge.bundle.tailored import TailoredNode, whole_network, with_proxies
from rrr_edge.bundle.verification import Accuracy
from rrr_edge.compile import compile_bundle
from rrr_edge.compress import Run, compress
from rrr_edge.compress.method import CompressedNetwork, Inputs, cost_of
from rrr_edge.compress.nettailor import NETTAILOR
from rrr_edge.compress.nettailor.complexity import ExpectedComplexity
from rrr_edge.compress.nettailor.objective import Tailoring, Teacher
from rrr_edge.compress.stages import Stages
from rrr_edge.compress.transfer import FINE_TUNE
from rrr_edge.compress.validation import MayBeGuessing
from rrr_edge.compress.weights import load_weights
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.images.dataset import scan
from rrr_edge.images.layouts import HeldOut
from rrr_edge.networks import Tailored, build
from rrr_edge.networks.tailored import is_universal
from rrr_edge.timing.progress import Step
from rrr_edge.timing.statistics import wilson_interval
from rrr_edge.training import Examples
from rrr_edge.training import Run as TrainingRun

CLASSES = 3


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


def student(classes: int = CLASSES) -> Tailored:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = build(with_proxies(whole_network("resnet18", classes), 3))
    network.freeze_universal()
    return network.train()


def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# The losses


@pytest.mark.parametrize(("form", "expected"), [("code", 0.7039017), ("paper", 0.8463619)])
def test_the_expected_complexity_of_resnet34_at_the_beginning(form: Any, expected: float) -> None:
    with torch.device("meta"):
        network = build(with_proxies(whole_network("resnet34", 10), 3))
    logits = {
        own: torch.tensor([2.0] + [-2.0] * (node.paths - 1), dtype=torch.float64, requires_grad=True)
        for own, node in network.spec.existing.items()
    }
    value = ExpectedComplexity(network.spec, 224, form)({own: logit.softmax(0) for own, logit in logits.items()})
    assert value.item() == pytest.approx(expected, abs=1e-7)
    value.backward()
    for logit in logits.values():
        assert logit.grad is not None
        assert logit.grad[0] > 0
        assert (logit.grad[1:] < 0).all()


def test_imitation_of_a_block_reaches_only_what_leads_into_it() -> None:
    network, teacher = student(), build(whole_network("resnet18", CLASSES)).eval()
    outputs = network.outputs(images(), local=True)
    for own, local in outputs.local.items():
        torch.testing.assert_close(local, outputs.nodes[own])
    with torch.no_grad():
        target = teacher.outputs(images()).nodes[5]
    F.mse_loss(outputs.local[5], target).backward(retain_graph=True)
    reached = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached
    assert all(name.startswith("layer3.0.") for name in reached)
    network.zero_grad()
    F.mse_loss(outputs.logits, teacher(images())).backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {name.partition(".")[0] for name in reached} == {"layer1", "layer2", "layer3", "layer4", "fc"}


def test_a_node_that_has_its_block_alone_lets_gradients_through_beside_the_imitation() -> None:
    whole = whole_network("resnet18", CLASSES)
    nodes = [TailoredNode(proxies=(0,)) if own == 1 else node for own, node in enumerate(whole.nodes, start=1)]
    network = build(whole.model_copy(update={"nodes": tuple(nodes)})).train()
    network.freeze_universal()
    outputs = network.outputs(images(), local=True)
    assert all(torch.equal(outputs.local[own], outputs.nodes[own]) for own in outputs.local)
    (outputs.logits.sum() + sum(output.sum() for output in outputs.local.values())).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("detached", [True, False])
def test_the_distance_to_the_teacher_follows_its_formula(detached: bool) -> None:
    network, network_of_teacher = student(), build(whole_network("resnet18", CLASSES)).eval()
    teacher = Teacher(network_of_teacher, 10.0, detached)
    with torch.no_grad():
        mine, its = network.outputs(images(), local=True), network_of_teacher.outputs(images())
        found = float(teacher.distance(mine, images()))
    pairs = [(mine.nodes[own], its.nodes[own]) for own in range(1, 9)] + [(mine.logits, its.logits)]
    differences = [(a - b).double() ** 2 for a, b in pairs]
    code, paper = sum(float(d.mean()) for d in differences) / 8, sum(float(d.sum()) for d in differences) / 4
    assert found == pytest.approx(code if detached else paper, rel=1e-4)


# Whole tailorings

TRAINING = TailorTraining(epochs=2, batch_size=6, learning_rate=0.02, augment=False)
RECIPE = NetTailor(
    backbone="resnet18",
    weights="random",
    image_size=32,
    training=TRAINING,
    mimic=1.0,
    tune_epochs=1,
    drop_blocks=2,
    prune_proxies=0.01,
)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """Four training and three test photos a class."""
    folder = tmp_path_factory.mktemp("album")
    for split, count in (("train", 4), ("test", 3)):
        for label in sorted((shapes / split).iterdir()):
            (folder / split / label.name).mkdir(parents=True)
            for photo in sorted(label.iterdir())[:count]:
                shutil.copy(photo, folder / split / label.name)
    return folder


@pytest.fixture(scope="module")
def tailored(tmp_path_factory: pytest.TempPathFactory, album: Path, shapes: Path) -> Bundle:
    """With four validation photos a class, most of which the teacher has right."""
    photos = Path(shutil.copytree(album, tmp_path_factory.mktemp("photos") / "album"))
    for label in sorted((shapes / "train").iterdir()):
        (photos / "val" / label.name).mkdir(parents=True)
        for photo in sorted(label.iterdir())[4:8]:
            shutil.copy(photo, photos / "val" / label.name)
    recipe = RECIPE.model_copy(update={"drop_blocks": "auto", "within": 0.99, "teacher_epochs": 20})
    return compress(photos, tmp_path_factory.mktemp("out") / "t.rrr", recipe=recipe, run=Run(device="cpu"))


def inputs_of(album: Path, run: TrainingRun, held_out: HeldOut = HeldOut(0)) -> Inputs:  # noqa: B008  (a constant)
    dataset = scan(album, Preprocess(image_size=32), seed=0, held_out=held_out)
    examples = Examples(dataset.train.images, dataset.train.labels)
    return Inputs(dataset, examples, Preprocess(image_size=32), replace(run, device="cpu"))


def test_the_bundle_opens_compiles_and_predicts(tailored: Bundle, album: Path) -> None:
    manifest = Bundle.open(tailored.path).manifest
    spec = manifest.spec
    assert spec.kind == "tailored"
    for node in spec.nodes:
        assert not node.paths or sum(node.attention) == pytest.approx(1)
    engine = compile_bundle(tailored, "openvino", precision="fp32")
    assert engine.verification.passed
    photo = next((album / "test").rglob("*.png"))
    with Classifier.open(tailored.path, "openvino", precision="fp32") as classifier:
        assert classifier.predict(photo).label in manifest.labels
    assert b"Softmax" in (graph := (tailored.path / "model.onnx").read_bytes())
    assert b"attention" not in graph


def test_universal_weights_stay_bit_for_bit_and_batch_statistics_adapt(tailored: Bundle) -> None:
    source, _ = load_weights("random", backbone="resnet18", seed=0)
    stored = load_file(tailored.weights)
    parameters = {n for n in source if not n.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    kept = [name for name in stored if name in parameters]
    assert kept
    assert all(is_universal(name) and torch.equal(stored[name], source[name]) for name in kept)
    assert not torch.equal(stored["bn1.running_mean"], source["bn1.running_mean"])
    manifest = tailored.manifest
    assert manifest.cost.shared_params == sum(stored[name].numel() for name in kept)
    assert manifest.cost.shared_bytes == sum(stored[name].nbytes for name in kept)
    assert manifest.cost.weights_bytes == sum(tensor.nbytes for tensor in stored.values())


def test_the_search_is_told_and_drawn(tailored: Bundle) -> None:
    rows = list(csv.DictReader((tailored.path / "tailoring.csv").open()))
    assert [int(row["dropped"]) for row in rows] == [8 - int(row["blocks"]) for row in rows]
    within = [row for row in rows if row["within"] == "True"]
    manifest = tailored.manifest
    assert manifest.spec.blocks == min(int(row["blocks"]) for row in within)
    assert manifest.cost.macs == int(within[-1]["macs"])
    for name in ("network.svg", "tailoring.svg"):
        assert (tailored.path / name).read_text().startswith("<svg")
    assert any("beside the test photos" in note for note in manifest.provenance.notes)


class Crash(Exception):
    pass


def test_a_tailoring_that_stops_in_every_phase_ends_with_the_same_bits(album: Path, tmp_path: Path) -> None:
    straight = NETTAILOR.make(_resolved(RECIPE), inputs_of(album, TrainingRun()))

    def crash_at(stage: str, done: int) -> Callable[[Step], None]:
        def report(step: Step) -> None:
            if (step.stage, step.done) == (stage, done):
                raise Crash

        return report

    for stage, done in (("teacher", 3), ("student", 1), ("student", 3), ("tune-without-02", 1)):
        run = TrainingRun(checkpoints=tmp_path, resume=True, on_progress=crash_at(stage, done))
        with pytest.raises(Crash):
            NETTAILOR.make(_resolved(RECIPE), inputs_of(album, run))
    seen: list[str] = []
    run = TrainingRun(checkpoints=tmp_path, resume=True, on_progress=lambda step: seen.append(step.stage))
    resumed = NETTAILOR.make(_resolved(RECIPE), inputs_of(album, run))
    assert set(seen) == {"tune-without-02"}
    assert resumed.network.spec == straight.network.spec
    expected = straight.network.state_dict()
    for name, tensor in resumed.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    trained = {n for n, p in straight.network.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in straight.network.named_parameters() if not is_universal(n)}


def _resolved(recipe: NetTailor) -> NetTailor:
    return NETTAILOR.resolve(recipe)


# What is refused


def test_settings_that_cannot_be_are_refused(tailored: Bundle, album: Path) -> None:
    with pytest.raises(UsageError, match="9 blocks cannot be dropped: ResNet18 has 8"):
        _resolved(RECIPE.model_copy(update={"drop_blocks": 9}))
    _resolved(RECIPE.model_copy(update={"drop_blocks": 8}))
    taught = RECIPE.model_copy(update={"teacher": str(tailored.path)})
    with pytest.raises(UsageError, match="is not a ResNet18 in one piece"):
        _resolved(taught)
    training = TRAINING.model_copy(update={"epochs": 3, "schedule": Schedule(shape="step", cycles=3)})
    few = RECIPE.model_copy(update={"training": training, "teacher_epochs": 1, "tune_epochs": 3})
    network: Any = None
    with pytest.raises(UsageError, match="more than the 1 steps"):
        NETTAILOR.check(few, network, 6)
    NETTAILOR.check(few.model_copy(update={"teacher": "taught.rrr"}), network, 6)


def test_a_teacher_must_fit(tmp_path: Path, tailored: Bundle, album: Path) -> None:
    """The tailored bundle, changed into that of a whole ResNet18."""
    whole, good = whole_network("resnet18", CLASSES), tailored.manifest.accuracy
    assert good is not None
    full = tailored.manifest.preprocess.model_copy(update={"decoding": "full"})
    digest = scan(album, tailored.manifest.preprocess, seed=0).digest
    origin = tailored.manifest.provenance.model_copy(update={"data_sha256": digest})
    sure, guessing = (good.model_copy(update={"interval": interval}) for interval in ((0.9, 1.0), (0.1, 0.6)))

    def teacher(name: str, *, seed: int = 1, **changes: Any) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            (folder / WEIGHTS).write_bytes(save(build(whole).state_dict()))
        kept = [file for file in tailored.manifest.files if file.name != WEIGHTS]
        files = (*kept, describe_file(folder / WEIGHTS))
        changed = {"spec": whole, "accuracy": sure, "files": files, "provenance": origin} | changes
        (folder / MANIFEST).write_text(tailored.manifest.model_copy(update=changed).to_json())
        return str(folder)

    def use(path: str, *, kept: Path | None = None, **changes: Any) -> CompressedNetwork:
        recipe = _resolved(RECIPE.model_copy(update={"teacher": path} | changes))
        run = TrainingRun(checkpoints=kept, resume=True)
        short = recipe.model_copy(update={"training": TRAINING.model_copy(update={"epochs": 1})})
        return NETTAILOR.make(short, inputs_of(album, run))

    fitting = teacher("fitting")
    assert not any("has learned from other photos" in note for note in use(fitting, kept=tmp_path / "kept").notes)
    teacher("fitting", seed=2)
    with pytest.raises(BadInput, match="has changed since this run was interrupted"):
        use(fitting, kept=tmp_path / "kept")
    for changes, said in (
        ({"image_size": 64}, "32 pixels, not 64"),
        ({"fit": "pad"}, "by crop, not by pad"),
        ({"backbone": "resnet34"}, "is not a ResNet34 in one piece"),
        ({"teacher": teacher("full", preprocess=full)}, "as here: decoding full instead of reduced"),
    ):
        with pytest.raises(UsageError, match=said):
            use(fitting, **changes)
    own = RECIPE.model_copy(update={"teacher": fitting, "drop_blocks": "auto"})
    held = own.model_copy(update={"training": TRAINING.model_copy(update={"validation_share": 0.5})})
    with pytest.raises(UsageError, match="learned from photos that are held out here"):
        NETTAILOR.make(_resolved(held), inputs_of(album, TrainingRun(), HeldOut(0.5)))
    with pytest.raises(UsageError, match="other classes than the photos: they differ in circle, disc"):
        use(teacher("others", labels=("cross", "disc", "square")))
    with pytest.raises(UsageError, match="has nothing to teach"):
        use(teacher("guessing", accuracy=guessing))


def test_a_teacher_that_may_guess_ends_the_search_before_it_begins(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guess = Accuracy(
        images=6, correct=3, accuracy=0.5, interval=wilson_interval(3, 6), calibration_error=0.0, per_class={}
    )
    monkeypatch.setattr(Stages, "judge", lambda self, network: guess)
    recipe = _resolved(RECIPE.model_copy(update={"drop_blocks": "auto", "teacher_epochs": 1}))
    inputs = inputs_of(album, TrainingRun(checkpoints=tmp_path), HeldOut(0.5))
    refusal = "The teacher may be no better than guessing.* So 6 validation photos cannot tell how many blocks"
    with pytest.raises(MayBeGuessing, match=refusal):
        NETTAILOR.make(recipe, inputs)
    assert {folder.name for folder in tmp_path.iterdir()} == {"teacher"}


def test_a_resnet18_is_fine_tuned_whole_and_shares_nothing(album: Path) -> None:
    training = Training(epochs=1, batch_size=12, augment=False)
    recipe = FineTune(backbone="resnet18", weights="random", image_size=32, training=training)
    made = FINE_TUNE.make(recipe, inputs_of(album, TrainingRun()))
    assert made.network.spec == whole_network("resnet18", CLASSES)
    source, _ = load_weights("random", backbone="resnet18", seed=0)
    state = made.network.state_dict()
    assert not any(torch.equal(state[name], source[name]) for name in source if "conv" in name)
    cost = cost_of(made.network, 32)
    assert (cost.trainable_params, cost.shared_params) == (cost.params, 0)
    views = recipe.model_copy(update={"training": training.model_copy(update={"feature_views": 2})})
    with pytest.raises(UsageError, match="feature_views are of a frozen stump"):
        FINE_TUNE.check(views, made.network, 24)


def test_the_objective_without_a_teacher_is_cross_entropy_without_weight_decay_on_attention() -> None:
    objective = Tailoring(student())
    others, attention = objective.groups(TRAINING)
    assert {name.rpartition(".")[2] for name in attention.parameters} == {"attention"}
    assert (others.weight_decay, attention.weight_decay) == (5e-4, 0.0)
    assert np.isclose(TRAINING.learning_rate, 0.02)
