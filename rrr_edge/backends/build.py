"""The build of an engine, before its verification."""

from pathlib import Path

from rrr_edge.backends import backend_of
from rrr_edge.backends.protocols import CrossCompiler
from rrr_edge.bundle.reference import Images
from rrr_edge.bundle.target import Target
from rrr_edge.timing.progress import OnProgress, silent


def build_unproven(
    model: Path,
    target: Target,
    calibration: Images,
    out: Path,
    *,
    on_progress: OnProgress = silent,
) -> None:
    """Build an engine of the graph in the file `model` into the empty folder `out`, for its time only.

    Raises MissingLibrary where the precision has to be written into the graph and nothing here can do so.
    """
    backend_of(target).compile(model, target, calibration, out, on_progress)


def takes_prepared(target: Target) -> bool:
    """Whether the precision has to be in the graph already. Raises CannotRunHere where the target cannot have it."""
    return backend_of(target).preparation(target) is not None


def require_builder(target: Target, *, runs: bool = False) -> None:
    """Raise MissingLibrary or CannotRunHere where this machine cannot build for `target`, or run it where it `runs`."""
    backend = backend_of(target)
    if isinstance(backend, CrossCompiler) and not runs:
        backend.check_build(target)
    else:
        backend.check(target)
