"""Fuzzing: a moment and the same in the suite; by chance for minutes a target with RRR_EDGE_TEST_FUZZ_MINUTES=10."""

import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rrr_edge.errors import BadInput, CannotRunHere, MissingLibrary, UsageError

MINUTES = float(os.environ.get("RRR_EDGE_TEST_FUZZ_MINUTES", 0))
_EXAMPLES = 20
_ROUND = 500
# What is said of a file, never a traceback.
REFUSALS = (BadInput, CannotRunHere, UsageError, MissingLibrary)

# Values that readers of numbers, names and lists have stumbled over.
_ODD = st.sampled_from(
    (None, True, False, -1, 0, 10**12, 10**400, 1e308, -0.0, "", "\x00", "\udcff", "../x", "/etc/passwd", [], {}, [[]])
)
VALUES = _ODD | st.recursive(
    st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def fuzz(
    check: Callable[[bytes], object],
    inputs: st.SearchStrategy[bytes],
    *,
    seeds: Sequence[bytes] = (),
    share: float = 1,
    seconds: float = 10,
) -> None:
    """Call `check` with `seeds` and with `inputs`: it succeeds, or raises one of REFUSALS, within `seconds` each.

    `share` is this target's part of the minutes.
    """

    def survive(data: bytes) -> None:
        begun, said = time.process_time(), "."
        try:
            check(data)
        except REFUSALS as error:
            said = str(error)
        assert said.endswith((".", "?")), said
        assert time.process_time() - begun < seconds

    for seed in seeds:
        survive(seed)
    end = time.monotonic() + 60 * MINUTES * share
    once = settings(
        max_examples=_ROUND if MINUTES else _EXAMPLES,
        derandomize=not MINUTES,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink) if MINUTES else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    while True:
        once(given(inputs)(survive))()
        if time.monotonic() >= end:
            return


def changed(document: Any) -> st.SearchStrategy[bytes]:
    """The JSON `document` with a value at some place changed, added or taken away, or with some bytes changed."""
    return st.one_of(
        st.tuples(st.sampled_from(_places(document)), VALUES).map(lambda change: _written(_put(document, *change))),
        st.sampled_from(_places(document)).map(lambda place: _written(_put(document, place))),
        VALUES.map(_written),
        bytes_changed(json.dumps(document).encode()),
    )


def bytes_changed(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with a stretch of it replaced by other bytes."""
    places = st.integers(0, len(data))
    return st.tuples(places, places, st.binary(max_size=12)).map(
        lambda change: data[: min(change[:2])] + change[2] + data[max(change[:2]) :]
    )


_GONE = object()


def _places(document: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document if isinstance(document, list) else ())
    )
    return [*([place] if place else []), *(found for key, value in inner for found in _places(value, (*place, key)))]


def _put(document: Any, place: tuple[Any, ...], value: Any = _GONE) -> Any:
    key, *rest = place
    copy = document.copy()
    if rest:
        copy[key] = _put(copy[key], tuple(rest), value)
    elif value is _GONE:
        del copy[key]
    else:
        copy[key] = value
    return copy


def _written(document: Any) -> bytes:
    return json.dumps(document).encode("utf-8", "surrogatepass")
