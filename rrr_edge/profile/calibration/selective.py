"""The threshold of doubt up to which answers are given, so that few enough of them are wrong.

Promised is: with probability `confidence` over the drawing of the photos, the error of the answers that are given,
P(wrong | doubt <= threshold), is at most `max_error` for new photos that are drawn as these were. That is the guarantee
of Geifman and El-Yaniv (2017, "Selective classification for deep neural networks", section 3, eq. 3), and so is the
bound (their Lemma 3.1, which is Clopper and Pearson's).

Their search for the threshold is replaced: Algorithm 2 looks at thresholds that depend on the very photos with which it
bounds the error. Here a first part of the photos plans, and the bound is made with the others alone: the measure of
doubt, the thresholds and their order are fixed before these are looked at, so that each bound is exact. Thresholds are
tested from the planned one to looser ones, each at the whole level, until one fails (fixed sequence testing:
Angelopoulos et al. 2021, "Learn then test", section 2.2). To promise too much, the first threshold in that order whose
error is too large must pass its test, and the chance of that is at most 1 - confidence.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rrr_edge.bundle.doubt import Doubts
from rrr_edge.bundle.evaluation import Bools, Labels
from rrr_edge.timing.binomial import lower_tail, most_successes, trials_needed, trials_without_success

# The share of the photos that plans. With a third, simulated engines answered as much or more than with a half.
PLANNING_SHARE = 1 / 3


class Wanted(NamedTuple):
    """An error rate of the answers that are given, and the confidence that it is kept."""

    max_error: float
    confidence: float = 0.95


class Judged(NamedTuple):
    """Doubts [N] about answers, and which of these are wrong [N]."""

    doubt: Doubts
    wrong: Bools

    def counts(self, thresholds: Doubts) -> tuple[Labels, Labels]:
        """How many answers each of the `thresholds` [T] lets pass, and how many of them are wrong."""
        order = np.argsort(self.doubt, kind="stable")
        passed = np.searchsorted(self.doubt[order], thresholds, side="right")
        return passed, np.concatenate(([0], np.cumsum(self.wrong[order])))[passed]


class Kept(NamedTuple):
    """A threshold, and what was counted of it on the photos that test: answers given, and wrong ones among them."""

    threshold: float
    answered: int
    wrong: int


def divide(photos: int) -> tuple[Labels, Labels]:
    """The rows that plan and those that test, drawn by chance: the same for the same number of photos."""
    order = np.random.default_rng(0).permutation(photos)
    first = round(photos * PLANNING_SHARE)
    return np.sort(order[:first]), np.sort(order[first:])


def find_threshold(planning: Judged, testing: Judged, wanted: Wanted) -> Kept | None:
    """The loosest threshold up to which `wanted` is kept; None where that cannot be promised."""
    thresholds = _between(planning.doubt)
    start = _start(planning, thresholds, len(testing.doubt), wanted)
    found = None
    for threshold, answered, wrong in zip(thresholds[start:], *testing.counts(thresholds[start:]), strict=True):
        if wrong > most_successes(int(answered), wanted.max_error, wanted.confidence):
            break
        found = Kept(float(threshold), int(answered), int(wrong))
    return found


def photos_needed(all_photos: Judged, wanted: Wanted) -> int | None:
    """About how many photos it takes to promise `wanted` for some share of the answers; None where no number would do.

    As if doubt went on to rank mistakes as it did for `all_photos`, where of n answers k were wrong at a rate of
    (k + 1) / (n + 2) (Laplace); where none was wrong, as if none would be. None, too, for more than ten million.
    """
    answered, wrong = all_photos.counts(np.unique(all_photos.doubt))
    best = None
    for n, k in zip(answered.tolist(), wrong.tolist(), strict=True):
        rate = (k + 1) / (n + 2) if k else 0.0
        if rate < wanted.max_error and (answers := trials_needed(rate, wanted.max_error, wanted.confidence)):
            photos = int(np.ceil(answers * len(all_photos.doubt) / n / (1 - PLANNING_SHARE)))
            best = photos if best is None else min(best, photos)
    return best


def least_photos(wanted: Wanted) -> int:
    """How many photos it takes where all are answered and none is wrong."""
    return int(np.ceil(trials_without_success(wanted.max_error, wanted.confidence) / (1 - PLANNING_SHARE)))


def _between(doubt: Doubts) -> Doubts:
    """Thresholds in the middle between neighbouring doubts, so that rounding turns no answer, and 1, which all keep."""
    levels = np.unique(doubt)
    return np.append((levels[1:] + levels[:-1]) / 2, 1.0)


def _start(planning: Judged, thresholds: Doubts, photos: int, wanted: Wanted) -> int:
    """The threshold whose test on so many other `photos` most probably passes, by what was seen in the planning.

    It is taken to let a standard error fewer of them pass than in the planning.
    """
    answered, wrong = planning.counts(thresholds)
    planned = max(1, len(planning.doubt))
    share = answered / planned
    error = np.sqrt(photos * share * (1 - share) * (1 + photos / planned))
    expected = np.maximum(0, np.floor(photos * share - error)).astype(np.int64)
    rates: NDArray[np.float64] = (wrong + 1) / (answered + 2)
    chances = []
    for n, rate in zip(expected.tolist(), rates.tolist(), strict=True):
        most = most_successes(n, wanted.max_error, wanted.confidence)
        chances.append(lower_tail(most, n, rate) if most >= 0 else 0.0)
    return int(np.argmax(chances))
