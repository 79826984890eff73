"""The clock of pairs beside their products: quiet tries count, and others are doubted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_bundle import write_bundle

from rrr_edge.backends import BACKENDS
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.measurements import LayerTime
from rrr_edge.bundle.target import Target
from rrr_edge.compile import pairs
from rrr_edge.compile.pairs import time_pairs
from rrr_edge.compile.request import BuildRequest
from rrr_edge.timing.machine import BackgroundLoad
from rrr_edge.timing.progress import silent

TARGET = Target(name="test", backend="clocked")


class Clocked:
    """A backend whose layer takes 1 ms more at each try, and a product half a millisecond more than a pair."""

    def __init__(self) -> None:
        self.opened = 0

    @property
    def tried(self) -> int:
        return (self.opened + 1) // 2

    def open_profiled(self, folder: Path, target: Target) -> Any:
        self.opened += 1
        ms = self.tried + (0.5 if folder.name == "products" else 0.0)
        layer = LayerTime(name="stump/conv1/Conv", kind="", part="input", precision="fp32", ms=ms, macs=1)
        return SimpleNamespace(run=lambda images: None, layers=lambda: (layer,), close=lambda: None)


@pytest.mark.parametrize(
    ("loads", "taken", "quiet"), [((0.0,), 1, True), ((0.6, 0.0), 2, True), ((0.6, 0.3, 0.5), 2, False)]
)
def test_tries_that_others_disturb_are_made_again(
    loads: tuple[float, ...], taken: int, quiet: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Clocked()
    monkeypatch.setitem(BACKENDS, "clocked", backend)  # type: ignore[arg-type]
    monkeypatch.setattr(BackgroundLoad, "share", property(lambda self: loads[backend.tried - 1]))
    monkeypatch.setattr(pairs.Graph, "load", lambda model: None)
    monkeypatch.setattr(pairs, "pairs_in", lambda graph: {"conv1": ()})
    order = BuildRequest(write_bundle(tmp_path / "x.rrr"), TARGET, np.zeros((1, 8, 8, 3), np.uint8), Limits(), silent)
    (time,), doubt = time_pairs(order, Path("pairs"), Path("products"))
    assert backend.tried == len(loads)
    assert (time.pair_ms, time.product_ms, time.quiet) == (taken, taken + 0.5, quiet)
    said = "" if quiet else "as other programs took 30% of the cores' time"
    assert (said in doubt, bool(doubt)) == (True, not quiet)


def test_runs_go_on_until_it_is_told_what_others_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load is not told before the seventh round."""
    backend, ended = Clocked(), list[int]()

    def share(_: BackgroundLoad) -> float | None:
        ended.append(1)
        return None if len(ended) < 7 else 0.0

    monkeypatch.setitem(BACKENDS, "clocked", backend)  # type: ignore[arg-type]
    monkeypatch.setattr(BackgroundLoad, "share", property(share))
    monkeypatch.setattr(BackgroundLoad, "is_known", True)
    monkeypatch.setattr(pairs, "RUNS", 2)
    monkeypatch.setattr(pairs.Graph, "load", lambda model: None)
    monkeypatch.setattr(pairs, "pairs_in", lambda graph: {"conv1": ()})
    order = BuildRequest(write_bundle(tmp_path / "x.rrr"), TARGET, np.zeros((1, 8, 8, 3), np.uint8), Limits(), silent)
    assert time_pairs(order, Path("pairs"), Path("products")).doubt == ""
    assert len(ended) == 7
