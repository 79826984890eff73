"""What a compression would take: counted by formula, with trainings that are made up, and once tried in truth."""

from pathlib import Path

import pytest

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import (
    RRR,
    BasisScaling,
    BasisTraining,
    FineTune,
    NetTailor,
    Recipe,
    Selection,
    TailorTraining,
    Training,
)
from rrr_edge.bundle.spec import ChannelSpec, PhaseWidths, ResNetSpec
from rrr_edge.compress import Run, plan
from rrr_edge.compress.estimate import Estimate, epochs_of, estimate_of
from rrr_edge.images.dataset import scan
from rrr_edge.networks import build
from rrr_edge.training import Run as TrainingRun
from rrr_edge.training import Trained
from rrr_edge.training.checkpoint import EpochRow

SMALL = RRR(
    weights="random", image_size=32, branches=1, training=Training(epochs=10, batch_size=12, validation_share=0)
)


def test_the_second_step_tells_the_time_of_all(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """36 photos are three batches."""
    seen: list[Training] = []

    def train(network, examples, *, training: Training, **_: object) -> Trained:
        assert len(examples) == 12
        seen.append(training)
        rows = (
            EpochRow(epoch=e, loss=1, train_accuracy=0, seconds=s, images_per_second=1) for e, s in ((1, 9), (2, 0.5))
        )
        return Trained(tuple(rows), "32-true", "cpu")

    monkeypatch.setattr("rrr_edge.compress.estimate.train", train)
    found = plan(shapes, tmp_path / "x.rrr", recipe=SMALL, run=Run(try_steps=True)).estimate
    assert found is not None
    assert found.seconds == pytest.approx(3 * 10 * 0.5)
    assert not found.may_end_earlier
    assert (seen[0].epochs, seen[0].batch_size) == (2, 12)
    assert plan(shapes, tmp_path / "x.rrr", recipe=SMALL).estimate is None
    nothing = SMALL.model_copy(update={"training": Training(epochs=0)})
    assert plan(shapes, tmp_path / "x.rrr", recipe=nothing, run=Run(try_steps=True)).estimate is None


def test_steps_are_really_tried_and_leave_nothing(shapes: Path, tmp_path: Path) -> None:
    best = Training(epochs=10, batch_size=12, keep="best", patience_epochs=2, balance=True)
    planned = plan(
        shapes, tmp_path / "x.rrr", recipe=SMALL.model_copy(update={"training": best}), run=Run(try_steps=True)
    )
    assert planned.estimate is not None
    assert 0 < planned.estimate.seconds < 600
    assert planned.estimate.memory_bytes > 1e8
    assert planned.estimate.may_end_earlier
    assert planned.estimate.words.startswith("at most about ")
    said = f"10 epochs on 33 photos, in {planned.estimate.words} here: photos that it does not learn from may end it"
    assert said in planned.words
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "epochs"),
    [
        (FineTune(), 300),
        (RRR(depths="auto", selection=Selection(epochs_per_step=20, max_additions=4, control=True)), 300 + 2 * 5 * 20),
        (NetTailor(teacher_epochs=7, tune_epochs=3), 7 + 50 + 17 * 3),
        (NetTailor(teacher="x.rrr", drop_blocks=2, training=TailorTraining(epochs=5)), 5 + 5),
    ],
)
def test_the_epochs_of_all_trainings_are_counted(recipe: Recipe, epochs: int) -> None:
    assert epochs_of(recipe, ResNetSpec(depths=(1, 1, 1, 1))) == epochs


def test_basis_scaling_is_tried_with_the_factors_that_learn_and_all_removals_count(
    shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 17 convolutions each has two basis vectors: nine in ten of them are more than one of each, so one removal."""
    learning: list[str] = []

    def minimise(objective, examples, **_: object) -> Trained:
        learning.extend(name for name, p in objective.network.named_parameters() if p.requires_grad)
        rows = (EpochRow(epoch=e, loss=1, train_accuracy=0, seconds=2, images_per_second=1) for e in (1, 2))
        return Trained(tuple(rows), "32-true", "cpu")

    monkeypatch.setattr("rrr_edge.compress.estimate.minimise", minimise)
    dataset, run = scan(shapes, Preprocess(image_size=32)), TrainingRun(device="cpu")
    recipe = BasisScaling(training=BasisTraining(epochs=5, batch_size=36), prune_share=0.9, epochs_per_prune=3)
    spec = ChannelSpec(stem=2, phases=tuple(PhaseWidths(outputs=2, blocks=((2, 2),)) for _ in range(4)), num_classes=3)
    found = estimate_of(recipe, build(spec), dataset, run)
    assert found is not None
    # A training before the removal, and one after it.
    assert found.seconds == (5 + 3 * 2) * 2
    assert found.may_end_earlier
    assert {name.rpartition(".")[2] for name in learning} == {"factors", "weight", "bias"}
    assert len(learning) == 17 + 2
    asked = recipe.model_copy(update={"sparsity": 0.0, "training": BasisTraining(epochs=0, batch_size=36)})
    found = estimate_of(asked, build(spec), dataset, run)
    assert found is not None
    assert (found.seconds, found.may_end_earlier) == (3 * 2, False)


@pytest.mark.parametrize(("seconds", "words"), [(59, "59 s"), (150, "2 min"), (9000, "2 h")])
def test_it_is_said_in_round_numbers(seconds: float, words: str) -> None:
    assert (
        Estimate(seconds=seconds, memory_bytes=1_900_000_000).words == f"about {words} of training and 1.9 GB of memory"
    )
