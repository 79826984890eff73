"""The requests of a profile: baselines, sweeps of sparsities, layer times and loads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rrr_edge.backends.protocols import Baseline, Workshop
from rrr_edge.bundle.measurements import Granularity
from rrr_edge.profile.loads import Loads


@dataclass(frozen=True)
class Sweep:
    """The source network pruned by each of `granularities` to each of `sparsities`, measured beside the unpruned one.

    Without a `workshop` the files must be there already, and PyTorch is not measured.
    """

    granularities: tuple[Granularity, ...]
    sparsities: tuple[float, ...]
    workshop: Workshop | None = None


@dataclass(frozen=True)
class Baselines:
    """`models` are ONNX files with cards, compiled by the engine's own backend; `ready` are open sessions."""

    models: tuple[Path, ...] = ()
    ready: tuple[Baseline, ...] = ()
    sweep: Sweep | None = None


class Asked(NamedTuple):
    """Whether the engine is compared with its source network, and with what pruning makes of it, how sparse."""

    baseline: bool
    granularities: tuple[Granularity, ...] = ()
    sparsities: tuple[float, ...] = ()


@dataclass(frozen=True)
class Extras:
    """What else is found out.

    For the `anatomy` the engine's layers are clocked, and large convolutions tell what this machine could do at best,
    in the same rounds as everything else. The `loads` come afterwards, one after the other.
    """

    anatomy: bool = False
    loads: Loads = field(default_factory=Loads)
