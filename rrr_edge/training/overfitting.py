"""Overfitting, told from the log of a training in one sentence with numbers."""

from collections.abc import Sequence

from rrr_edge.bundle.recipe import Training
from rrr_edge.errors import counted
from rrr_edge.timing.statistics import wilson_interval
from rrr_edge.training.checkpoint import EpochRow, best_epoch

# The validation loss of the network that is kept, over the lowest, from which on an earlier one would have been better.
_RISEN = 1.1


def fitting_words(history: Sequence[EpochRow], training: Training, photos: int) -> str:
    """Of a training whose network was judged by so many validation photos; "" where it never was.

    It overfits where more training photos were right, augmented and by the branches one by one, than the 95% interval
    of the whole network's accuracy on the validation photos allows.
    """
    judged = {row.epoch: row for row in history if row.validation_accuracy is not None}
    if not judged or not photos:
        return ""
    best = best_epoch(history)
    kept = judged[best if training.keep == "best" and best else max(judged)]
    right = kept.validation_accuracy or 0.0
    low, high = wilson_interval(round(right * photos), photos)
    allowed = f" (at most {training.epochs})" if len(history) < training.epochs else ""
    ended = "" if kept is history[-1] else f", the best of {len(history)}{allowed},"
    verdict = "Overfitting" if kept.train_accuracy > high else "No sign of overfitting"
    said = (
        f"{verdict}: after epoch {kept.epoch}{ended} {kept.train_accuracy:.1%} of the augmented training photos were "
        f"right and {right:.1%} of {counted(photos, 'validation photo')} ({low:.1%} to {high:.1%})"
    )
    lowest = min(judged.values(), key=lambda row: row.validation_loss or 0.0)
    risen = (kept.validation_loss or 0.0) > _RISEN * (lowest.validation_loss or 0.0)
    if kept.train_accuracy > high and training.keep != "best" and risen:
        said += (
            f"; their cross-entropy was {lowest.validation_loss:.3f} after epoch {lowest.epoch} and is "
            f"{kept.validation_loss:.3f} now, so --keep best may do better"
        )
    return f"{said}."
