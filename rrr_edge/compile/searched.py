"""The engine of a quantisation that a search has found, with its floats in the type that is fastest here."""

from pathlib import Path
from tempfile import TemporaryDirectory

from rrr_edge.backends import backend_of
from rrr_edge.bundle.measurements import Ratio, quiet_ratio
from rrr_edge.bundle.quantisation import FloatPrecision, Quantisation
from rrr_edge.bundle.target import Lowering, Target
from rrr_edge.compile.fastest import measure_beside, surely_faster
from rrr_edge.compile.request import BuildRequest
from rrr_edge.compile.search import keeps_limits
from rrr_edge.errors import RRREdgeError
from rrr_edge.runtime.verify import answer

# What the layers that are no longer quantised may compute in, besides fp32.
_FLOATS: tuple[FloatPrecision, ...] = ("bf16", "fp16")


def build_found(
    request: BuildRequest, found: Quantisation, lowering: Lowering, out: Path
) -> tuple[Quantisation, Ratio | None, tuple[str, ...]]:
    """Write the engine into `out`; how it is quantised, its time over the engine's without float layers, and notes.

    Without such layers there is nothing to compare, and beside other programs there is no ratio. A type of 16 bits is
    taken where this machine has it, the answers keep the limits with it, and it is surely faster than fp32.
    """
    quantiser = request.quantiser
    assert quantiser is not None
    own = request.target.model_copy(update={"quantisation": found})
    plain = found.model_copy(update={"float_layers": (), "least_share": None})
    with request.lowered(lowering) as model, TemporaryDirectory(dir=out) as scratch:
        quantised = quantiser.quantise(model, request.target, request.calibration, plain, request.on_progress)
        if not found.float_layers:
            quantised.write((), out)
            return found, None, ()
        whole = f"all {own.precision}"
        built = {
            whole: (Path(scratch) / "whole", request.target.model_copy(update={"quantisation": plain})),
            "fp32": (Path(scratch) / "found", own),
        }
        for (folder, _), layers in zip(built.values(), ((), found.float_layers), strict=True):
            folder.mkdir()
            quantised.write(layers, folder)
        folder = built["fp32"][0]
        for precision in _FLOATS:
            target = own.model_copy(update={"quantisation": found.model_copy(update={"float_precision": precision})})
            if _answers_with(request, target, folder):
                built[precision] = (folder, target)
        times = measure_beside(built, request.bundle.reference.images, on_progress=request.on_progress)
        best, notes = surely_faster(times, "fp32", [name for name in built if name in _FLOATS])
        for file in folder.iterdir():
            file.rename(out / file.name)
    way = built[best][1].quantisation
    assert way is not None
    return way, quiet_ratio(times[best], times[whole]), notes


def _answers_with(request: BuildRequest, target: Target, folder: Path) -> bool:
    """Whether this machine has the type and the engine answers as it should with it."""
    assert target.quantisation is not None
    backend = backend_of(target)
    try:
        backend.check(target.model_copy(update={"precision": target.quantisation.float_precision}))
        session = backend.open(folder, target)
    except RRREdgeError:
        return False
    try:
        verdict = request.judge(answer(session, request.bundle.reference.images, request.on_progress))
    finally:
        session.close()
    return keeps_limits(request, verdict)
