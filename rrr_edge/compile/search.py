"""The search for a way to quantise that keeps the limits which the plain way misses.

Other ways to choose ranges and to correct biases come first, for they cost no time at run time. Then the layers that
lose most, each measured alone on calibration images, are put back to floats: the fewest that keep the limits, found by
doubling their number and then halving the interval. Limits are judged on the reference images, as they always are.
"""

import time
from itertools import accumulate
from pathlib import Path

from rrr_edge.backends.protocols import Quantised
from rrr_edge.bundle.quantisation import PLAIN, Quantisation
from rrr_edge.bundle.search import Attempt, LayerLoss, SearchResult, Stopped
from rrr_edge.bundle.target import Lowering
from rrr_edge.bundle.verification import Verification, few_images_warning
from rrr_edge.compile.request import BuildRequest
from rrr_edge.compile.sensitivity import Searched, layer_losses
from rrr_edge.timing.progress import Step

# What a compiler may fuse into a layer of another type, as a share of all MACs.
TOLERANCE = 0.03
# A share that is none, but for rounding.
_NOTHING = 1e-9


def wants_search(request: BuildRequest, verdict: Verification) -> bool:
    """Whether the plain way misses a limit, and another may be looked for."""
    target, limits = request.target, request.limits
    if target.quantisation is not None or request.quantiser is None or not limits.search_minutes:
        return False
    return not keeps_limits(request, verdict)


def keeps_limits(request: BuildRequest, verdict: Verification) -> bool:
    """Whether what was measured keeps the limits; of photos so few that one is more, only what is sure counts."""
    precision, limits = request.target.precision, request.limits
    if few_images_warning(verdict.images, precision, limits):
        return verdict.passed
    return not verdict.misses(precision, limits)


def find_quantisation(request: BuildRequest, lowering: Lowering, model: Path) -> SearchResult:
    """Search in the graph in the file `model`, unless the bundle remembers what was found within the same limits."""
    searched = Searched(request, lowering)
    result = searched.result(request)
    if result is None:
        result = _Search(request, searched).run(model)
        searched.keep(limits=request.limits, result=result)
    return result


class _Search:
    def __init__(self, request: BuildRequest, searched: Searched) -> None:
        self._request, self._searched = request, searched
        self._begun, self._deadline = time.monotonic(), request.search_deadline
        self._attempts: list[Attempt] = []
        self._losses: tuple[LayerLoss, ...] = ()

    def run(self, model: Path) -> SearchResult:
        stopped = self._search(model)
        plain, passed = self._attempts[0], [attempt for attempt in self._attempts if attempt.passed]
        if stopped != "found" and passed and not plain.passed:  # which, on so few photos, may keep the limits
            stopped = "found"
            self._put_last(max(passed, key=lambda attempt: attempt.share))
        return SearchResult(
            stopped=stopped,
            attempts=tuple(self._attempts),
            layers=self._losses,
            seconds=time.monotonic() - self._begun,
        )

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def _search(self, model: Path) -> Stopped:
        request, quantiser = self._request, self._request.quantiser
        assert quantiser is not None
        best: tuple[float, Quantised, Quantisation] | None = None
        ways = (PLAIN, *quantiser.variants)
        for number, way in enumerate(ways):
            if best is not None and self._is_late:
                return "time"
            request.on_progress(Step("search", number, len(ways), way.words))
            quantised = quantiser.quantise(model, request.target, request.calibration, way, request.on_progress)
            if self._keeps(quantised, way, 1.0):
                return "found"
            right = self._attempts[-1].top1_agreement + self._attempts[-1].accuracy
            if best is None or right > best[0]:
                best = right, quantised, way
        assert best is not None
        _, quantised, way = best
        self._losses = layer_losses(quantised, way, request, self._searched, deadline=self._deadline)
        return "time" if self._is_late else self._put_back(quantised, way)

    def _put_back(self, quantised: Quantised, way: Quantisation) -> Stopped:
        """The fewest of the most harmful layers as floats."""
        shares = [1 - back for back in accumulate(loss.macs_share for loss in self._losses)]
        some = sum(share > _NOTHING for share in shares)
        allowed = sum(share >= max(_NOTHING, self._request.limits.min_share) for share in shares)
        fails = passes = 0
        while fails < allowed and passes - fails != 1:
            if self._is_late:
                if not passes:
                    return "time"
                break
            count = (fails + passes) // 2 if passes else min(max(1, 2 * fails), allowed)
            self._request.on_progress(Step("trials", len(self._attempts), len(self._attempts) + 2, f"{count} layers"))
            share = shares[count - 1]
            names = tuple(loss.name for loss in self._losses[:count])
            tried = way.model_copy(update={"float_layers": names, "least_share": max(0.0, share - TOLERANCE)})
            if self._keeps(quantised, tried, share):
                passes, found = count, self._attempts[-1]
            else:
                fails = count
        if passes:
            self._put_last(found)
            return "found"
        return "share" if allowed < some else "nothing helps"

    def _keeps(self, quantised: Quantised, way: Quantisation, share: float) -> bool:
        request = self._request
        verdict = request.judge(quantised.run(way.float_layers, request.bundle.reference.images))
        attempt = Attempt(
            quantisation=way,
            share=share,
            top1_agreement=verdict.top1_agreement,
            accuracy=verdict.accuracy,
            passed=verdict.passed,
        )
        self._attempts.append(attempt)
        return keeps_limits(request, verdict)

    def _put_last(self, found: Attempt) -> None:
        self._attempts.remove(found)
        self._attempts.append(found)
