"""What a compression would take: counted by formula, with trainings that are made up, and once tried in truth."""

from pathlib import Path

import pytest

from rrr_edge.bundle.recipe import RRR, BasisScaling, FineTune, NetTailor, Recipe, Selection, TailorTraining, Training
from rrr_edge.compress import Run, plan
from rrr_edge.compress.estimate import Estimate, _epochs_of
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
    assert f"10 epochs on 33 photos, in {planned.estimate.words} here" in planned.words
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "epochs"),
    [
        (FineTune(), 300),
        (RRR(depths="auto", selection=Selection(epochs_per_step=20, max_additions=4, control=True)), 300 + 2 * 5 * 20),
        (NetTailor(teacher_epochs=7, tune_epochs=3), 7 + 50 + 17 * 3),
        (NetTailor(teacher="x.rrr", drop_blocks=2, training=TailorTraining(epochs=5)), 5 + 5),
        (BasisScaling(sparsity=0.5, prune_share=0.2, epochs_per_prune=2), 30 + 4 * 2),  # 0.8^4 < 0.5
    ],
)
def test_the_epochs_of_all_trainings_are_counted(recipe: Recipe, epochs: int) -> None:
    assert _epochs_of(recipe) == epochs


@pytest.mark.parametrize(("seconds", "words"), [(59, "59 s"), (150, "2 min"), (9000, "2 h")])
def test_it_is_said_in_round_numbers(seconds: float, words: str) -> None:
    assert Estimate(seconds=seconds, memory_bytes=1_900_000_000).words == f"about {words} and 1.9 GB of memory"
