"""Which weights a training keeps, when it ends early, and what it says of overfitting."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import small_network, weights

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Training
from rrr_edge.errors import UsageError
from rrr_edge.timing.progress import Step
from rrr_edge.timing.statistics import wilson_interval
from rrr_edge.training import loop
from rrr_edge.training.batches import Examples
from rrr_edge.training.checkpoint import EpochRow, Judged, best_epoch
from rrr_edge.training.loop import train
from rrr_edge.training.overfitting import fitting_words
from rrr_edge.training.run import Run, Trained

BEST = Training(epochs=6, batch_size=8, keep="best", ema_fraction=0.5, augment=False)
TIMES = {"seconds": 0, "images_per_second": 0}


def fit(network, training: Training, examples: Examples, **run: object) -> Trained:
    own = Run(precision="32-true", validation=examples, **run)  # type: ignore[arg-type]
    return train(network, examples, training=training, preprocess=Preprocess(image_size=32), seed=7, run=own)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The second of six epochs is best, and the fourth as good in accuracy alone; what was judged after each epoch."""
    verdicts = [Judged(0.5, 0.9), Judged(0.8, 0.5), Judged(0.7, 0.4), Judged(0.8, 0.6), Judged(0.6, 1), Judged(0.6, 1)]
    judged: list[dict[str, torch.Tensor]] = []

    def judge(state, run) -> Judged:
        judged.append(weights(state.judged()))
        return verdicts[state.progress.epochs_done - 1]

    monkeypatch.setattr(loop, "_judge", judge)
    return judged


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_best_weights_are_those_that_were_judged_best(examples: Examples, scripted) -> None:
    trained = fit(network := small_network(), BEST, examples)
    assert best_epoch(trained.history) == 2
    assert same(weights(network), scripted[1])
    assert not same(weights(network), scripted[-1])


def test_the_last_weights_are_not_averaged(examples: Examples) -> None:
    last, plain, average = (
        BEST.model_copy(update={"keep": keep, "ema_fraction": share, "epochs": 4})
        for keep, share in (("last", 0.5), ("average", 0), ("average", 0.5))
    )
    found = [
        weights(network) for training in (last, plain, average) if fit(network := small_network(), training, examples)
    ]
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


@pytest.mark.parametrize("patience", [1, 3])
def test_a_training_ends_after_its_patience_and_is_not_gone_on_with(
    patience: int, examples: Examples, scripted, tmp_path: Path
) -> None:
    steps: list[Step] = []
    training = BEST.model_copy(update={"patience_epochs": patience})
    trained = fit(network := small_network(), training, examples, checkpoints=tmp_path, on_progress=steps.append)
    assert len(trained.history) == 2 + patience
    assert steps[-1] == Step("train", 18, 18, f"ended after epoch {2 + patience}")
    resumed = fit(again := small_network(), training, examples, checkpoints=tmp_path, resume=True)
    assert resumed.history == trained.history
    assert same(weights(again), weights(network))
    assert len(scripted) == 2 + patience


def test_crashes_change_neither_the_best_weights_nor_when_it_ends(examples: Examples, tmp_path: Path) -> None:
    training = BEST.model_copy(update={"patience_epochs": 2})
    whole = fit(straight := small_network(), training, examples)
    dice, crashes = random.Random(1), 0
    while True:
        count, limit = 0, dice.randrange(3, 6)

        def report(step: Step, limit: int = limit) -> None:
            nonlocal count
            count += 1
            if count > limit:
                raise InterruptedError

        try:
            resumed = fit(
                network := small_network(), training, examples, checkpoints=tmp_path, resume=True, on_progress=report
            )
            break
        except InterruptedError:
            crashes += 1
    assert crashes >= 2
    assert same(weights(network), weights(straight))
    assert [row.model_copy(update=TIMES) for row in resumed.history] == [
        row.model_copy(update=TIMES) for row in whole.history
    ]


def test_the_verdict_is_accuracy_and_cross_entropy(examples: Examples) -> None:
    from rrr_edge.training.evaluate import predict

    trained = fit(network := small_network(), BEST.model_copy(update={"epochs": 1}), examples)
    answers = predict(network, examples.images, preprocess=Preprocess(image_size=32)).probabilities
    own = torch.from_numpy(answers).log()
    (row,) = trained.history
    assert row.validation_accuracy == pytest.approx(np.mean(answers.argmax(1) == examples.labels))
    loss = torch.nn.functional.nll_loss(own, torch.from_numpy(examples.labels))
    assert row.validation_loss == pytest.approx(loss.item(), rel=1e-5)


def test_nothing_tells_the_best_without_photos(examples: Examples) -> None:
    with pytest.raises(UsageError, match="without validation photos"):
        train(small_network(), examples, training=BEST, preprocess=Preprocess(image_size=32), run=Run())


def row(epoch: int, right: float, validation: float | None = None, loss: float | None = None) -> EpochRow:
    return EpochRow(
        epoch=epoch, loss=1, train_accuracy=right, validation_accuracy=validation, validation_loss=loss, **TIMES
    )


def test_overfitting_is_said_with_numbers() -> None:
    history = [row(10, 0.7, 0.65, 0.8), row(20, 0.99, 0.6, 1.2)]
    low, high = wilson_interval(24, 40)
    assert fitting_words(history, Training(epochs=2), 40) == (
        "Overfitting: after epoch 20 99.0% of the augmented training photos were right and 60.0% of 40 validation "
        f"photos ({low:.1%} to {high:.1%}); their cross-entropy was 0.800 after epoch 10 and is 1.200 now, so "
        "--keep best may do better."
    )
    best = Training(epochs=2, keep="best")
    assert fitting_words(history, best, 40).startswith("No sign of overfitting: after epoch 10, the best of 2, 70.0%")
    early = best.model_copy(update={"epochs": 300, "patience_epochs": 1})
    assert "the best of 2 (at most 300), 70.0%" in fitting_words(history, early, 40)
    assert fitting_words([row(1, 0.5)], Training(), 0) == fitting_words([row(1, 0.5)], Training(), 9) == ""


def test_a_patience_needs_the_best_weights() -> None:
    with pytest.raises(ValueError, match="needs keep = best"):
        Training(patience_epochs=3)
