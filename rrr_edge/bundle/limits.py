"""The limits that an engine's answers must keep, and the noise below which an answer is a tie."""

import math

import numpy as np

from rrr_edge.bundle.record import Record
from rrr_edge.bundle.reference import Floats, Outputs
from rrr_edge.bundle.target import Precision
from rrr_edge.errors import UsageError

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
# Below this a probability is noise to every precision.
FLOOR = 1e-6
# The standard deviation of one rounding, relative to the numbers that are rounded: errors are even over half a step to
# each side, a step of a float is 2^(1-p) of the number (p bits of significand), and one of int8 is 1/255 of a range,
# which is taken for ten times the activations' root mean square.
ROUNDING: dict[Precision, float] = {
    "bf16": 2**-8 / math.sqrt(3),
    "fp16": 2**-11 / math.sqrt(3),
    "int8": 10 / 255 / math.sqrt(12),
    "fp8": 2**-4 / math.sqrt(3),
}
# A margin of so many standard deviations of the noise is turned round once in 44 times.
_DEVIATIONS = 2.0
# The fewest differences whose median says how large the noise is.
_FEWEST = 8
# The median of a normal variable's size, in standard deviations.
_MEDIAN = 0.6745


class Limits(Record):
    """What an engine must keep; None is the default.

    A limit that is given is held against what was measured. The defaults (an agreement that depends on the precision,
    and MAX_DROP of accuracy) are missed only where the 95% interval lies beyond them: what so few photos cannot tell
    is said instead. `default_drop` takes MAX_DROP's place where an engine that was allowed to lose more is verified
    again. `min_share` is the least share of the MACs in int8 or fp8 that a search may leave, and `search_minutes` what
    all searches of a compilation may take at most (0: none).
    """

    min_agreement: float | None = None
    max_drop: float | None = None
    default_drop: float = MAX_DROP
    min_share: float = 0.5
    search_minutes: float = 10.0

    @property
    def drop(self) -> float:
        """The accuracy (absolute) that may be lost."""
        return self.default_drop if self.max_drop is None else self.max_drop

    def require_sense(self) -> None:
        """Raise UsageError for what is no share between 0 and 1, or no time."""
        require_share(self.min_agreement, "--min-agreement", example=0.95)
        require_share(self.max_drop)
        require_share(self.min_share, "--min-share", example=0.8)
        if not 0 <= self.search_minutes < math.inf:
            raise UsageError(f"--search-minutes is a time of 0 or more minutes, not {self.search_minutes:g}.")


def require_share(value: float | None, option: str = "--max-drop", *, example: float = 0.01) -> None:
    """Raise UsageError unless `value`, where there is one, lies between 0 and 1."""
    if value is not None and not 0 <= value <= 1:
        raise UsageError(f"{option} is a share between 0 and 1, such as {example:g}, not {value:g}.")


def tie_margin(reference: Outputs, found: Outputs, precision: Precision, layers: int) -> float:
    """The logarithm of the ratio of two probabilities up to which they are a tie: two deviations of the noise.

    The noise is the deviation of the two best classes' log-ratio, measured over the images (by the median, which a few
    answers that are plainly wrong do not move), but no more than the precision explains. That is, by the model of
    independent rounding errors (Higham & Mary 2019, SIAM J. Sci. Comput. 41): one of data and one of weights in each of
    the `layers`, of the size in ROUNDING relative to the logits' own spread over the classes, and two logits in a
    difference. A network that a conversion has ruined is therefore not excused by what it answers. Images of which one
    of the two probabilities is not above FLOOR, before or after, do not tell the noise; where too few others are left,
    it is what the precision explains.
    """
    a, b = log_probabilities(reference.probabilities), log_probabilities(found.probabilities)
    best = np.argsort(a, axis=1)[:, -2:]
    margins, after = (np.diff(np.take_along_axis(x, best, 1), axis=1)[:, 0] for x in (a, b))
    least = np.minimum(reference.probabilities, found.probabilities)
    known = (np.take_along_axis(least, best, 1) > FLOOR).all(1)
    changes = np.abs(after - margins)[known]
    enough = len(changes) >= min(_FEWEST, len(margins))
    measured = float(np.median(changes)) / _MEDIAN if enough else math.inf
    spread = math.sqrt(float(a.var(1).mean()))
    explained = ROUNDING[precision] * math.sqrt(2 * 2 * layers) * spread
    return _DEVIATIONS * (min(measured, explained) if math.isfinite(measured) else explained)


def log_probabilities(probabilities: Floats) -> Floats:
    return np.log(np.maximum(probabilities.astype(np.float64), FLOOR))


def log_margins(probabilities: Floats) -> Floats:
    """The logarithm of the ratio of each answer's two largest probabilities."""
    best = np.partition(log_probabilities(probabilities), -2, axis=1)[:, -2:]
    return np.asarray(best[:, 1] - best[:, 0])
