"""The comparison of a converted network's answers with the original's, and the limits that it must keep."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rrr_edge.bundle.commands import command_line
from rrr_edge.bundle.limits import LIMITS, Limits, log_margins, log_probabilities, tie_margin
from rrr_edge.bundle.quantisation import Quantisation
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.reference import Floats, Outputs, Reference
from rrr_edge.bundle.target import Precision
from rrr_edge.errors import GateFailed, counted
from rrr_edge.timing.paired import paired_difference
from rrr_edge.timing.statistics import Interval, wilson_interval

# For fp32, two classes closer than twice what a probability may differ by are a tie: rounding may decide it.
_FP32_TIE = 2 * LIMITS["fp32"][1]
ANY_ACCURACY = Limits(max_drop=1.0)

# The least share of an engine's MACs that must run in the precision that was asked. ModelOpt leaves a convolution of
# three channels out of fp8, and the first one has 7% of RRR-Net's MACs.
PRECISION_SHARE = 0.95
FP8_SHARE = 0.9


def least_share(asked: Precision, quantisation: Quantisation | None = None) -> float:
    """The least share of the MACs that must run in the precision that was asked."""
    least = FP8_SHARE if asked == "fp8" else PRECISION_SHARE
    planned = quantisation.least_share if quantisation and asked in ("int8", "fp8") else None
    return least if planned is None else min(least, planned)


def has_precision(asked: Precision, found: dict[str, float], quantisation: Quantisation | None = None) -> bool:
    """Whether the MACs run in the precision that was asked, but for what `quantisation` leaves floats: some must."""
    share = found.get(asked, 0.0)
    return share > 0 and share >= least_share(asked, quantisation)


def require_precision(
    asked: Precision,
    found: dict[str, float],
    *,
    what: str,
    so: str,
    quantisation: Quantisation | None = None,
    advice: str = f"Ask a precision that this device has: {command_line('targets')}",
) -> None:
    """Raise GateFailed unless `what` computes in the precision that was asked; `so` says what follows.

    Layers that `quantisation` has left floats are not asked to be more.
    """
    if not has_precision(asked, found, quantisation):
        raise GateFailed(
            f"{asked} was asked, but {what} computes {shares_of(found, digits=0)} of its MACs; {so}.", advice=advice
        )


def shares_of(found: dict[str, float], *, digits: int = 1) -> str:
    """The shares of the MACs by precision in words, such as "99.8% int8, 0.2% fp32"."""
    return ", ".join(f"{share:.{digits}%} {precision}" for precision, share in sorted(found.items()))


Missed = Literal["difference", "agreement", "cosine", "accuracy"]


class Miss(NamedTuple):
    """A limit that is missed: `surely`, or only by what was measured on so many images that it may be chance."""

    what: Missed
    words: str
    surely: bool


class Verification(Record):
    """Outputs compared with the torch outputs stored at compress time.

    `top1_agreement` counts images outside ties: answers whose two best classes are nearer, as the logarithm of their
    probabilities' ratio, than `tie_margin` (for fp32: probabilities that differ by less than 2e-4). `log_cosine` is the
    mean over images of the cosine of the log-probabilities; accuracies are on the reference images that have labels,
    ties among them. Intervals are at 95%: Wilson's of the agreement, Tango's of the accuracy after minus before on
    the same images; None in older records. `doubts` are limits that may be kept or missed, by so few images.
    `min_agreement` and `max_drop` are the limits that were given in place of the defaults.
    """

    against: str
    images: int
    max_abs_diff: float
    top1_agreement: float
    log_cosine: float
    accuracy_reference: float
    accuracy: float
    passed: bool
    failures: tuple[str, ...] = ()
    ties: int = 0
    tie_margin: float = 0.0
    agreement_interval: Interval | None = None
    drop_interval: Interval | None = None
    doubts: tuple[str, ...] = ()
    min_agreement: float | None = None
    max_drop: float | None = None

    @property
    def agreement_words(self) -> str:
        """The agreement, and of how many images it says nothing."""
        left_out = f" ({counted(self.ties, 'tie')} left out)" if self.ties else ""
        return f"{self.top1_agreement:.2%}{left_out}"

    @property
    def words(self) -> str:
        low, high = self.drop_interval or (0.0, 0.0)
        known = f" (95% interval of the difference {low:+.2%} to {high:+.2%})" if self.drop_interval else ""
        return (
            f"verified on {self.images} images: top-1 agrees on {self.agreement_words}, largest "
            f"difference {self.max_abs_diff:.2g}, accuracy {self.accuracy_reference:.2%} -> {self.accuracy:.2%}{known}"
        )

    def misses(self, precision: Precision, limits: Limits) -> tuple[Miss, ...]:
        """The limits that these answers miss; without an interval, or where a limit was given, all are sure."""
        agreement_limit, diff_limit, cosine_limit = LIMITS[precision]
        found = []
        if not self.max_abs_diff <= diff_limit:
            words = f"a probability differs by {self.max_abs_diff:.2g} (limit {diff_limit:g})"
            found.append(Miss("difference", words, True))
        least = agreement_limit if limits.min_agreement is None else limits.min_agreement
        if self.top1_agreement < least - 1e-9:
            low, high = self.agreement_interval or (0.0, 0.0)
            words = f"top-1 agrees on {self.top1_agreement:.2%} of the images (limit {least:.1%}{_span(low, high)})"
            found.append(Miss("agreement", words, limits.min_agreement is not None or high < least))
        if not self.log_cosine >= cosine_limit:
            words = f"the log-probabilities' mean cosine is {self.log_cosine:.5f} (limit {cosine_limit})"
            found.append(Miss("cosine", words, True))
        most = limits.drop
        if drops_beyond(most, self.accuracy_reference, self.accuracy):
            low, high = self.drop_interval or (-1.0, -1.0)
            words = (
                f"accuracy fell from {self.accuracy_reference:.2%} to {self.accuracy:.2%} "
                f"(limit {most:.2%} absolute{_span(-high, -low, ' of the loss') if self.drop_interval else ''})"
            )
            found.append(Miss("accuracy", words, limits.max_drop is not None or -high > most))
        return tuple(found)


def _span(low: float, high: float, of: str = "") -> str:
    return f", 95% interval{of} {low:.2%} to {high:.2%}" if high else ""


def verify_answers(
    reference: Reference, found: Outputs, *, precision: Precision, layers: int, limits: Limits
) -> Verification:
    """`verify` what was answered on a bundle's reference images against what torch answered."""
    return verify(
        Outputs(reference.probabilities, reference.branch_probabilities),
        found,
        reference.labels,
        precision=precision,
        layers=layers,
        limits=limits,
    )


def verify(
    reference: Outputs,
    found: Outputs,
    labels: NDArray[np.int64],
    *,
    precision: Precision,
    layers: int = 1,
    limits: Limits = ANY_ACCURACY,
) -> Verification:
    """Judge `found` against torch's `reference` by the `limits` of `precision`; labels of -1 are unknown.

    `layers` is how many roundings follow each other in the network (see `tie_margin`).
    """
    a, b = reference.probabilities, found.probabilities
    max_abs_diff = max(
        float(np.abs(x - y).max(initial=0.0)) if np.isfinite(y).all() else float("inf")
        for x, y in zip(reference, found, strict=True)
    )
    if precision == "fp32":
        margin = 0.0
        clear = _margin(a) >= _FP32_TIE
    else:
        margin = tie_margin(reference, found, precision, layers)
        clear = log_margins(a) > margin
    same = int((a.argmax(1) == b.argmax(1))[clear].sum())
    count, known = int(clear.sum()), labels >= 0
    before, after = ((p.argmax(1) == labels)[known] for p in (a, b))
    measured = Verification(
        against="torch",
        images=len(a),
        max_abs_diff=max_abs_diff,
        top1_agreement=same / count if count else 1.0,
        log_cosine=_log_cosine(a, b),
        accuracy_reference=float(before.mean()) if known.any() else 0.0,
        accuracy=float(after.mean()) if known.any() else 0.0,
        passed=True,
        ties=len(a) - count,
        tie_margin=margin,
        agreement_interval=wilson_interval(same, count) if count else None,
        drop_interval=paired_difference(int((before & ~after).sum()), int((after & ~before).sum()), len(before))
        if known.any()
        else None,
        min_agreement=limits.min_agreement,
        max_drop=limits.max_drop,
    )
    missed = measured.misses(precision, limits)
    failures = tuple(miss.words for miss in missed if miss.surely)
    doubts = [f"{len(a)} photos cannot tell whether a limit is kept: {m.words}" for m in missed if not m.surely]
    if not count:
        doubts.append(f"every one of {len(a)} answers is a tie at {precision}, so nothing is known of top-1")
    return measured.model_copy(update={"passed": not failures, "failures": failures, "doubts": tuple(doubts)})


def drops_beyond(max_drop: float, before: float, after: float) -> bool:
    """Whether more accuracy is lost than `max_drop`: shares of a count, of which 0.9 - 0.89 exceeds 0.01 as floats."""
    return before - after > max_drop + 1e-9


class Accuracy(Record):
    """On the test split. `interval` is Wilson's at 95%; `calibration_error` the expected one over 15 bins."""

    images: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    calibration_error: float
    per_class: dict[str, float]


def may_guess(low: float, classes: int) -> bool:
    """Whether an accuracy whose interval begins at `low` may be that of drawing one of `classes` at random, 1/K.

    Always naming the largest class is right more often than that where classes differ in size.
    """
    return low <= 1 / classes


def guessing_warning(accuracy: Accuracy, classes: int, *, network: str = "network") -> str:
    """A sentence where the network may be no better than guessing, else nothing."""
    low, high = accuracy.interval
    if not may_guess(low, classes):
        return ""
    return (
        f"The {network} may be no better than guessing: its accuracy lies between {low:.1%} and {high:.1%} (95%), and "
        f"chance is right in {1 / classes:.1%}."
    )


def few_images_warning(images: int, precision: Precision, limits: Limits) -> str:
    """A sentence where a single answer is more than the `limits` of `precision` leave, else nothing.

    It names the limit, as each has a number of images of its own: by default 200 for bf16 and fp16, 100 for int8.

    fp32 is judged by its probabilities, which any image can tell apart.
    """
    agreement = LIMITS[precision][0] if limits.min_agreement is None else limits.min_agreement
    changed, lost = 1 - agreement or 1.0, limits.drop or 1.0
    room = min(changed, lost)
    if precision == "fp32" or images * room > 1 - 1e-9:
        return ""
    limit = f"of the answers that {precision} may change" if changed <= lost else "of accuracy that may be lost"
    return (
        f"The limits mean little with {images} test photos, of which a single one is {1 / images:.1%}: "
        f"only from {round(1 / room)} on is one photo within the {room:.1%} {limit}."
    )


def _margin(probabilities: Floats) -> Floats:
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    return np.asarray(np.abs(best[:, 1] - best[:, 0]))


def _log_cosine(a: Floats, b: Floats) -> float:
    x, y = log_probabilities(a), log_probabilities(b)
    cosines = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    return float(cosines.mean())
