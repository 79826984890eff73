"""The times of a factored network's pairs of convolutions beside their products, by the backend's own clock."""

from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rrr_edge.backends import backend_of
from rrr_edge.backends.graph.pairs import pair_of, pairs_in
from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.protocols import ProfiledSession
from rrr_edge.bundle.engine import PairTime
from rrr_edge.compile.request import BuildRequest
from rrr_edge.timing.quiet import RoundLoads, is_quiet

RUNS = 100
# A backend's clock gives means over all runs: where other programs disturb some, all are made again, so many times.
TRIES = 3


class PairTimes(NamedTuple):
    """The times of each pair, and a sentence where other programs disturbed them, else ""."""

    times: tuple[PairTime, ...]
    doubt: str = ""


def time_pairs(order: BuildRequest, pairs: Path, products: Path) -> PairTimes:
    """Every pair of the engine in the folder `pairs`, and the same in that of `products`, in runs that take turns.

    Where no try was quiet, the one that other programs disturbed least counts, which is said. A convolution is left
    out that the backend does not clock under its own name in both.
    """
    tries: list[tuple[float, tuple[PairTime, ...]]] = []
    for _ in range(TRIES):
        times, others = _timed(order, pairs, products)
        if all(map(is_quiet, others.told)):
            return PairTimes(times)
        tries.append((others.share or 0.0, times))
    load, times = min(tries, key=lambda one: one[0])
    return PairTimes(
        tuple(time.model_copy(update={"quiet": False}) for time in times),
        f"The times of pairs and of their products cannot be trusted, as other programs took {load:.0%} of the cores' "
        "time, so other pairs may be better written as one: compile again when nothing else runs.",
    )


def _timed(order: BuildRequest, pairs: Path, products: Path) -> tuple[tuple[PairTime, ...], RoundLoads]:
    """The times of RUNS runs, of more where these are too short to tell what other programs take, and their load."""
    target, backend, images = order.target, backend_of(order.target), order.bundle.reference.images
    with ExitStack() as stack:
        sessions: list[ProfiledSession] = []
        for folder in (pairs, products):
            session = backend.open_profiled(folder, target)
            stack.callback(session.close)
            sessions.append(session)
        others, run = RoundLoads(), 0
        while run < RUNS or (others.is_known and others.share is None):
            batch = images[np.arange(run * target.batch, (run + 1) * target.batch) % len(images)]
            for session in sessions:
                session.run(batch)
            others.end_round()
            run += 1
        first, second = (_by_convolution(session) for session in sessions)
    names = pairs_in(Graph.load(order.bundle.model))
    times = (
        PairTime(name=name, pair_ms=first[name], product_ms=second[name])
        for name in names
        if name in first and name in second
    )
    return tuple(times), others


def _by_convolution(session: ProfiledSession) -> dict[str, float]:
    """The milliseconds of all layers that belong to a convolution, by its name."""
    found: dict[str, float] = defaultdict(float)
    for layer in session.layers():
        found[pair_of(layer.name)] += layer.ms
    return found
