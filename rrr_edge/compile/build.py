"""The build of a bundle's engine in one lowering, or in the fastest."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rrr_edge.backends import backend_of
from rrr_edge.backends.build import takes_prepared
from rrr_edge.bundle.engine import PairTime
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import Ratio
from rrr_edge.bundle.target import LOWERINGS, PAIR_LOWERINGS, Lowering, Target
from rrr_edge.compile.fastest import fastest as race
from rrr_edge.compile.pairs import PairTimes, time_pairs
from rrr_edge.compile.prepared import write_prepared
from rrr_edge.compile.request import BuildRequest
from rrr_edge.errors import GateFailed
from rrr_edge.timing.machine import cpu_info


def possible_lowerings(bundle: Bundle) -> tuple[Lowering, ...]:
    """The ways in which the bundle's graph can be written, as exported first."""
    spec = bundle.manifest.spec
    found = ("grouped", *(LOWERINGS if spec.branches > 1 else ()), *(PAIR_LOWERINGS if spec.kind == "factored" else ()))
    return tuple(dict.fromkeys(found))


def lowerings_of(bundle: Bundle, target: Target) -> tuple[Lowering, ...]:
    """What is to be tried; without branches and pairs there is nothing to choose from."""
    possible = possible_lowerings(bundle)
    if target.lowering == "auto":
        return possible
    return (target.lowering,) if target.lowering in possible else ("grouped",)


def may_be_faster_split(bundle: Bundle, target: Target) -> bool:
    """Whether this CPU may compute the branches faster side by side than as the groups that `target` asks for.

    With AVX2 alone OpenVINO's INT8 engines took 0.62 of the time with `split`, with AVX-512 more than with `grouped`.
    """
    flags = cpu_info()[1]
    groups = target.lowering == "grouped" and bundle.manifest.spec.branches > 1
    int8 = (target.backend, target.device, target.precision) == ("openvino", "CPU", "int8")
    return groups and int8 and "avx2" in flags and "avx512f" not in flags


class Built(NamedTuple):
    """What was built: of several lowerings the fastest on this machine, with the times of others over the first's.

    A lowering whose graph is refused is among `left_out`, in words. Of pairs there are the times, and those that were
    written as one. `doubts` say why another may be faster.
    """

    lowering: Lowering
    ratios: tuple[Ratio, ...] = ()
    left_out: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    pair_times: tuple[PairTime, ...] = ()
    doubts: tuple[str, ...] = ()


def build_fastest(order: BuildRequest, lowerings: tuple[Lowering, ...], out: Path) -> Built:
    """Build into `out`. Raises GateFailed where every lowering is refused."""
    if len(lowerings) == 1:
        build(order, lowerings[0], out)
        return Built(lowerings[0])
    left_out: list[str] = []
    clocked = PairTimes(())
    with TemporaryDirectory(dir=out) as scratch:
        folders: dict[Lowering, Path] = {}

        def attempt(request: BuildRequest, lowering: Lowering) -> None:
            folder = Path(scratch) / lowering
            folder.mkdir()
            try:
                build(request, lowering, folder)
            except GateFailed as refusal:
                if len(left_out) + 1 == len(lowerings):
                    raise
                left_out.append(f"The lowering {lowering} was left out: {refusal}")
            else:
                folders[lowering] = folder

        for lowering in lowerings:
            attempt(order, lowering)
        # Where a graph is prepared first, layers are fused under other names.
        if {"grouped", "product"} <= folders.keys() and not takes_prepared(order.target):
            clocked = time_pairs(order, folders["grouped"], folders["product"])
        order = replace(order, products=tuple(time.name for time in clocked.times if time.gain_ms < 0))
        if 0 < len(order.products) < len(clocked.times):
            attempt(order, "mixed")
        images = order.bundle.reference.images
        fastest, ratios, doubts = race(folders, order.target, images, on_progress=order.on_progress)
        for file in folders[fastest].iterdir():
            file.rename(out / file.name)
    products = order.products if fastest == "mixed" else ()
    doubts = tuple(filter(None, (clocked.doubt, *doubts)))
    return Built(fastest, ratios, tuple(left_out), products, clocked.times, doubts)


def build(order: BuildRequest, lowering: Lowering, out: Path) -> None:
    target, backend = order.target, backend_of(order.target)
    calibration = order.calibration if target.precision in ("int8", "fp8") else order.calibration[:0]
    if takes_prepared(target):
        backend.compile(write_prepared(order, lowering, out), target, calibration, out, order.on_progress)
    else:
        with order.lowered(lowering) as model:
            backend.compile(model, target, calibration, out, order.on_progress)
