"""The times of a factored network's pairs of convolutions beside their products, by the backend's own clock."""

from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from rrr_edge.backends import backend_of
from rrr_edge.backends.graph.pairs import pair_of, pairs_in
from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.protocols import ProfiledSession
from rrr_edge.bundle.engine import PairTime
from rrr_edge.compile.request import BuildRequest

RUNS = 100


def time_pairs(order: BuildRequest, pairs: Path, products: Path) -> tuple[PairTime, ...]:
    """Every pair of the engine in the folder `pairs`, and the same in that of `products`, in runs that take turns.

    A convolution is left out that the backend does not clock under its own name in both.
    """
    target, backend, images = order.target, backend_of(order.target), order.bundle.reference.images
    with ExitStack() as stack:
        sessions: list[ProfiledSession] = []
        for folder in (pairs, products):
            session = backend.open_profiled(folder, target)
            stack.callback(session.close)
            sessions.append(session)
        for run in range(RUNS):
            batch = images[np.arange(run * target.batch, (run + 1) * target.batch) % len(images)]
            for session in sessions:
                session.run(batch)
        first, second = (_by_convolution(session) for session in sessions)
    names = pairs_in(Graph.load(order.bundle.model))
    return tuple(
        PairTime(name=name, pair_ms=first[name], product_ms=second[name])
        for name in names
        if name in first and name in second
    )


def _by_convolution(session: ProfiledSession) -> dict[str, float]:
    """The milliseconds of all layers that belong to a convolution, by its name."""
    found: dict[str, float] = defaultdict(float)
    for layer in session.layers():
        found[pair_of(layer.name)] += layer.ms
    return found
