"""The refusal of an engine that does not answer like the network, with advice made from what failed."""

import math
from collections.abc import Iterator

from rrr_edge.backends import backend_of
from rrr_edge.bundle.commands import command_line
from rrr_edge.bundle.search import SearchResult
from rrr_edge.bundle.target import PRECISIONS, Precision
from rrr_edge.bundle.verification import Verification
from rrr_edge.compile.request import BuildRequest
from rrr_edge.errors import GateFailed, RRREdgeError


def require_answers(
    request: BuildRequest, verification: Verification, *, what: str, searched: SearchResult | None = None
) -> None:
    """Raise GateFailed unless `what`, such as an engine, was verified to answer like the network."""
    if verification.passed:
        return
    precision = request.target.precision
    ended = f" {_ENDS[searched.stopped]}" if searched and searched.stopped != "found" else ""
    ways = list(_advice(request, verification, searched))
    raise GateFailed(
        f"The {precision} {what} does not answer like the network: {'; '.join(verification.failures)}. "
        f"It was not kept.{ended}",
        advice=f"Try {' or '.join(ways)}." if ways else f"Try another target: {command_line('targets')}",
    )


_ENDS = {
    "time": "The search for a better way ended with its time.",
    "share": "More layers as floats would leave less than --min-share.",
    "nothing helps": "Other ranges and floats in any layer did not help.",
}


def _advice(request: BuildRequest, verification: Verification, searched: SearchResult | None) -> Iterator[str]:
    """What has not been said yet and bears on what failed."""
    limits, precision = request.limits, request.target.precision
    missed = {miss.what for miss in verification.misses(precision, limits) if miss.surely}
    if searched is not None and searched.stopped == "time":
        yield f"--search-minutes {2 * limits.search_minutes:g}, which goes on from here"
    if searched is not None and searched.stopped == "share":
        yield f"--min-share {_lower(limits.min_share - 0.1)}"
    if request.quantiser is not None and not limits.search_minutes:
        yield "--search-minutes 10, which looks for layers to keep as floats"
    if len(request.calibration) and not request.is_own and precision in ("int8", "fp8"):
        yield "typical photos of the device's camera (--calib-data DIR)"
    if missed == {"agreement"} and limits.min_agreement is None:
        yield f"--min-agreement {_lower(verification.top1_agreement)}, which accepts this"
    lost = verification.accuracy_reference - verification.accuracy
    if missed == {"accuracy"} and limits.max_drop is None:
        yield f"--max-drop {math.ceil(lost * 1000 - 1e-6) / 1000:g}, which accepts this"
    if precisions := _finer(request):
        yield f"--precision {' or '.join(precisions)}"


def _lower(share: float) -> str:
    return f"{max(0.0, math.floor(share * 1000 + 1e-6) / 1000):g}"


def _finer(request: BuildRequest) -> list[Precision]:
    """The precisions with smaller steps than the one that was asked, as far as the target has them here."""
    order: tuple[Precision, ...] = ("fp8", "int8", "bf16", "fp16", "fp32")
    assert set(order) == set(PRECISIONS)
    found: list[Precision] = []
    for precision in order[order.index(request.target.precision) + 1 :]:
        target = request.target.model_copy(update={"precision": precision})
        backend = backend_of(target)
        try:
            if backend.preparation(target) is None:
                backend.check(target)
        except RRREdgeError:
            continue
        found.append(precision)
    return found
