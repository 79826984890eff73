"""The state of a bundle and its engines: what is wrong and what repairs it, without loading an engine."""

import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Literal

from rrr_edge.backends import backend_of
from rrr_edge.backends.protocols import GPUBackend, GPUModel, require_files
from rrr_edge.bundle.calibration import Calibration
from rrr_edge.bundle.commands import compiling, compiling_first, compiling_named, verifying
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.target import NAME, PRECISIONS
from rrr_edge.errors import CannotRunHere, CorruptArtifact, RRREdgeError, UsageError
from rrr_edge.runtime.verify import is_verified_here

LoadVerdict = Literal["load", "prepared", "rebuild", "refuse"]


@dataclass(frozen=True)
class Finding:
    """`load`: it is sound. `prepared`: a graph from which `repair` builds the engine, on a machine that can.

    `rebuild`: `repair` mends it. `refuse`: not on this machine, or not at all.
    """

    what: str
    verdict: LoadVerdict
    why: str = ""
    repair: str = ""
    exit_code: int = 0


def examine(path: str | Path, gpu: GPUModel | None = None) -> list[Finding]:
    """One finding for the bundle and one for each of its engines. Raises BadInput where `path` is no bundle.

    Engines for GPUs are judged for `gpu`, where it is given, instead of for this machine's.
    """
    bundle = Bundle.open(path)
    try:
        bundle.check()
    except CorruptArtifact as error:
        return [_finding(str(bundle.path), "refuse", error)]
    engines = [_engine(bundle, name, gpu) for name in bundle.engine_folders()]
    why, repair = ("", "") if engines else ("It has no engine yet.", compiling_first(bundle.path))
    return [Finding(str(bundle.path), "load", why, repair), *engines]


def _engine(bundle: Bundle, name: str, gpu: GPUModel | None) -> Finding:
    target, _, precision = name.rpartition("-")
    if not re.match(NAME, target) or precision not in PRECISIONS:
        why = f"Engines are called TARGET-PRECISION, with one of {', '.join(PRECISIONS)}."
        return Finding(
            name, "refuse", why, f"rm -r {quote(str(bundle.engine_folder(name)))}", CorruptArtifact.exit_code
        )
    try:
        engine = bundle.engine_named(name, repair=compiling_named(bundle.path, target, precision))
        engine.target.require_device()
        backend = backend_of(engine.target)
        described = gpu if isinstance(backend, GPUBackend) else None
        if described is None:
            backend.check(engine.target)
    except UsageError as error:
        if bundle.is_prepared(name):
            return Finding(name, "prepared", "No engine has been built of it yet.", error.advice.removeprefix("Run: "))
        return _finding(name, "rebuild", error)
    except CorruptArtifact as error:
        return _finding(name, "rebuild", error)
    except RRREdgeError as error:
        return _finding(name, "refuse", error)
    repair = compiling(bundle.path, engine.target)
    try:
        Calibration.of(bundle, engine)
        if isinstance(backend, GPUBackend) and described is not None:
            backend.require_gpu(engine, described, repair=repair)
            verified = engine.verified_by == "engine" or bundle.verified(engine) is not None
        else:
            backend.require_fit(engine, repair=repair)
            require_files(backend, engine, repair=repair)
            verified = is_verified_here(bundle, engine, backend)
    except (CannotRunHere, CorruptArtifact) as error:
        return _finding(name, "rebuild", error)
    if verified:
        return Finding(name, "load")
    return Finding(name, "load", "It has not been verified on such a GPU yet.", verifying(bundle.path, engine.target))


def _finding(what: str, verdict: LoadVerdict, error: RRREdgeError) -> Finding:
    return Finding(what, verdict, str(error), error.advice.removeprefix("Run: "), error.exit_code)
