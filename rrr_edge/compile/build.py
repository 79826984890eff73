"""The build of a bundle's engine in one lowering, or in the fastest."""

from pathlib import Path
from tempfile import TemporaryDirectory

from rrr_edge.backends import backend_of
from rrr_edge.backends.build import takes_prepared
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import Ratio
from rrr_edge.bundle.target import LOWERINGS, Lowering, Target
from rrr_edge.compile.fastest import fastest as race
from rrr_edge.compile.prepared import write_prepared
from rrr_edge.compile.request import BuildRequest
from rrr_edge.errors import GateFailed


def lowerings_of(bundle: Bundle, target: Target) -> tuple[Lowering, ...]:
    """What is to be tried; without branches there is nothing to choose from."""
    if bundle.manifest.spec.branches == 1:
        return ("grouped",)
    return LOWERINGS if target.lowering == "auto" else (target.lowering,)


def build_fastest(
    order: BuildRequest, lowerings: tuple[Lowering, ...], out: Path
) -> tuple[Lowering, tuple[Ratio, ...], tuple[str, ...]]:
    """Build into `out`; of several lowerings the fastest on this machine, with the times of others over the first's.

    A lowering whose graph is refused is left out, which the last item says; raises GateFailed where all are.
    """
    if len(lowerings) == 1:
        build(order, lowerings[0], out)
        return lowerings[0], (), ()
    left_out: list[str] = []
    with TemporaryDirectory(dir=out) as scratch:
        folders: dict[Lowering, Path] = {}
        for lowering in lowerings:
            folder = Path(scratch) / lowering
            folder.mkdir()
            try:
                build(order, lowering, folder)
            except GateFailed as refusal:
                if len(left_out) + 1 == len(lowerings):
                    raise
                left_out.append(f"The lowering {lowering} was left out: {refusal}")
            else:
                folders[lowering] = folder
        fastest, ratios = race(folders, order.target, order.bundle.reference.images, on_progress=order.on_progress)
        for file in folders[fastest].iterdir():
            file.rename(out / file.name)
    return fastest, ratios, tuple(left_out)


def build(order: BuildRequest, lowering: Lowering, out: Path) -> None:
    target, backend = order.target, backend_of(order.target)
    calibration = order.calibration if target.precision in ("int8", "fp8") else order.calibration[:0]
    if takes_prepared(target):
        backend.compile(write_prepared(order, lowering, out), target, calibration, out, order.on_progress)
    else:
        with order.lowered(lowering) as model:
            backend.compile(model, target, calibration, out, order.on_progress)
