"""Building an engine that nobody has verified yet."""

from pathlib import Path
from tempfile import TemporaryDirectory

from rrr_edge.backends import backend_of
from rrr_edge.backends.graph.lowering import lower
from rrr_edge.backends.tensorrt.prepare import prepare
from rrr_edge.bundle.reference import Images
from rrr_edge.bundle.target import Lowering, Target
from rrr_edge.timing.progress import OnProgress, silent


def build_unproven(
    model: Path,
    target: Target,
    calibration: Images,
    out: Path,
    *,
    lowering: Lowering = "grouped",
    on_progress: OnProgress = silent,
) -> None:
    """Build an engine of the graph in the file `model` into the empty folder `out`, for its time only.

    Raises MissingLibrary where the precision has to be written into the graph and nothing here can do so.
    """
    with TemporaryDirectory() as scratch:
        if lowering != "grouped":
            lowered = Path(scratch) / "lowered.onnx"
            lower(model, lowering, lowered)
            model = lowered
        if takes_prepared(target):
            prepared = Path(scratch) / "prepared.onnx"
            prepare(model, target.precision, calibration, prepared, on_progress)
            model = prepared
        backend_of(target).compile(model, target, calibration, out, on_progress)


def takes_prepared(target: Target) -> bool:
    """Whether the precision has to be in the graph already."""
    return target.backend in PREPARED_FOR


# Backends that compute as the graph says, whatever the target says.
PREPARED_FOR = ("tensorrt",)
