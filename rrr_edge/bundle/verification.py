"""The comparison of a converted network's answers with the original's, and the limits that it must keep."""

import numpy as np
from numpy.typing import NDArray

from rrr_edge.bundle.commands import command_line
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.reference import Floats, Outputs, Reference
from rrr_edge.bundle.target import Precision
from rrr_edge.errors import GateFailed, UsageError

# Smallest top-1 agreement, largest difference of a probability, smallest mean cosine of log-probabilities.
LIMITS: dict[Precision, tuple[float, float, float]] = {
    "fp32": (1.0, 1e-4, -1.0),
    "bf16": (0.995, 1.0, 0.9995),
    "fp16": (0.995, 1.0, 0.9995),
    "int8": (0.98, 1.0, -1.0),
    "fp8": (0.98, 1.0, -1.0),
}
# The accuracy (absolute) that an engine may lose, unless another share is given.
MAX_DROP = 0.01
# Two classes closer than this, or than twice what a probability may differ by, are a tie: rounding may decide it.
TIE = 1e-3
# Below this a probability is noise to every precision.
FLOOR = 1e-6


# The least share of an engine's MACs that must run in the precision that was asked. ModelOpt leaves a convolution of
# three channels out of fp8, and the first one has 7 % of RRR-Net's MACs.
PRECISION_SHARE = 0.95
FP8_SHARE = 0.9


def require_precision(
    asked: Precision,
    found: dict[str, float],
    *,
    what: str,
    so: str,
    advice: str = f"Ask a precision that this device has: {command_line('targets')}",
) -> None:
    """Raise GateFailed unless `what` computes in the precision that was asked; `so` says what follows."""
    if found.get(asked, 0.0) < (FP8_SHARE if asked == "fp8" else PRECISION_SHARE):
        raise GateFailed(
            f"{asked} was asked, but {what} computes {shares_of(found, digits=0)} of its MACs; {so}.", advice=advice
        )


def shares_of(found: dict[str, float], *, digits: int = 1) -> str:
    """The shares of the MACs by precision in words, such as "99.8% int8, 0.2% fp32"."""
    return ", ".join(f"{share:.{digits}%} {precision}" for precision, share in sorted(found.items()))


def require_share(max_drop: float) -> None:
    """Raise UsageError unless `max_drop` lies between 0 and 1."""
    if not 0 <= max_drop <= 1:
        raise UsageError(f"--max-drop is a share between 0 and 1, such as 0.01, not {max_drop:g}.")


class Verification(Record):
    """Outputs compared with the torch outputs stored at compress time.

    `top1_agreement` counts images outside margins under 1e-3 (fp32: 2e-4); `log_cosine` is the mean over images of the
    cosine of the log-probabilities; accuracies are on the reference images that have labels.
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

    @property
    def words(self) -> str:
        return (
            f"verified on {self.images} images: top-1 agrees on {self.top1_agreement:.2%} (ties aside), largest "
            f"difference {self.max_abs_diff:.2g}, accuracy {self.accuracy_reference:.2%} -> {self.accuracy:.2%}"
        )


def require_answers(verification: Verification, precision: Precision, *, what: str) -> None:
    """Raise GateFailed unless `what`, such as an engine, was verified to answer like the network."""
    if not verification.passed:
        advice = "Try --precision bf16 or fp32."
        if precision in ("int8", "fp8"):
            advice = (
                "Calibrate with typical photos (--calib-data DIR), raise --max-drop, or choose another --precision."
            )
        raise GateFailed(
            f"The {precision} {what} does not answer like the network: {'; '.join(verification.failures)}. "
            "It was not kept.",
            advice=advice,
        )


def verify_answers(reference: Reference, found: Outputs, *, precision: Precision, max_drop: float) -> Verification:
    """`verify` what was answered on a bundle's reference images against what torch answered."""
    return verify(
        Outputs(reference.probabilities, reference.branch_probabilities),
        found,
        reference.labels,
        precision=precision,
        against="torch",
        max_drop=max_drop,
    )


def verify(
    reference: Outputs,
    found: Outputs,
    labels: NDArray[np.int64],
    *,
    precision: Precision,
    against: str,
    max_drop: float = 1.0,
) -> Verification:
    """Judge `found` against `reference` by the limits of `precision`; labels of -1 are unknown.

    `max_drop` bounds, for every precision, how much accuracy on the labelled images may be lost (absolute).
    """
    agreement_limit, diff_limit, cosine_limit = LIMITS[precision]
    a, b = reference.probabilities, found.probabilities
    max_abs_diff = max(
        float(np.abs(x - y).max(initial=0.0)) if np.isfinite(y).all() else float("inf")
        for x, y in zip(reference, found, strict=True)
    )
    same = a.argmax(1) == b.argmax(1)
    clear = _margin(a) >= min(TIE, 2 * diff_limit)
    agreement = float(same[clear].mean()) if clear.any() else 1.0
    cosine = _log_cosine(a, b)
    known = labels >= 0
    accuracy_reference, accuracy = (
        float((p.argmax(1) == labels)[known].mean()) if known.any() else 0.0 for p in (a, b)
    )
    failures = []
    if not max_abs_diff <= diff_limit:
        failures.append(f"a probability differs by {max_abs_diff:.2g} (limit {diff_limit:g})")
    if agreement < agreement_limit:
        failures.append(f"top-1 agrees on {agreement:.2%} of the images (limit {agreement_limit:.1%})")
    if not cosine >= cosine_limit:
        failures.append(f"the log-probabilities' mean cosine is {cosine:.5f} (limit {cosine_limit})")
    if drops_beyond(max_drop, accuracy_reference, accuracy):
        failures.append(
            f"accuracy fell from {accuracy_reference:.2%} to {accuracy:.2%} (limit {max_drop:.2%} absolute)"
        )
    return Verification(
        against=against,
        images=len(a),
        max_abs_diff=max_abs_diff,
        top1_agreement=agreement,
        log_cosine=cosine,
        accuracy_reference=accuracy_reference,
        accuracy=accuracy,
        passed=not failures,
        failures=tuple(failures),
    )


def drops_beyond(max_drop: float, before: float, after: float) -> bool:
    """Whether more accuracy is lost than `max_drop`: shares of a count, of which 0.9 - 0.89 exceeds 0.01 as floats."""
    return before - after > max_drop + 1e-9


class Accuracy(Record):
    """On the test split. `interval` is Wilson's at 95 %; `calibration_error` the expected one over 15 bins."""

    images: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    calibration_error: float
    per_class: dict[str, float]


def guessing_warning(accuracy: Accuracy, classes: int) -> str:
    """A sentence where the network may be no better than guessing, else nothing."""
    low, high = accuracy.interval
    if low > 1 / classes:
        return ""
    return (
        f"The network may be no better than guessing: its accuracy lies between {low:.1%} and {high:.1%} (95 %), and "
        f"chance is right in {1 / classes:.1%}."
    )


def few_images_warning(images: int, precision: Precision, max_drop: float) -> str:
    """A sentence where a single answer is more than the limits of `precision` and `max_drop` leave, else nothing.

    fp32 is judged by its probabilities, which any image can tell apart.
    """
    room = min(1 - LIMITS[precision][0], max_drop or 1.0)
    if precision == "fp32" or images * room > 1 - 1e-9:
        return ""
    return (
        f"The limits mean little with {images} test photos, of which a single one is {1 / images:.1%}: "
        f"only from {round(1 / room)} on is one photo within {room:.1%}."
    )


def _margin(probabilities: Floats) -> Floats:
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    return np.asarray(np.abs(best[:, 1] - best[:, 0]))


def _log_cosine(a: Floats, b: Floats) -> float:
    x, y = (np.log(np.maximum(p.astype(np.float64), FLOOR)) for p in (a, b))
    cosines = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    return float(cosines.mean())
