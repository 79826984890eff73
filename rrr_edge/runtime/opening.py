"""The opening of a stored engine: the checks that this machine may load it, then its session."""

from rrr_edge.backends import Session, backend_of
from rrr_edge.backends.protocols import CrossCompiler, require_files, require_signature
from rrr_edge.bundle.commands import compiling
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.target import Target
from rrr_edge.timing.progress import OnProgress, Step


def open_engine(bundle: Bundle, engine: Engine, target: Target, on_progress: OnProgress) -> Session:
    """Load `engine` as `target` asks, if this machine can. Raises CannotRunHere, CorruptArtifact, MissingLibrary."""
    target.require_device()
    backend, folder, repair = backend_of(target), bundle.engine_folder(engine.name), compiling(bundle.path, target)
    backend.check(target)
    backend.require_fit(engine, repair=repair)
    require_files(backend, engine, repair=repair)
    note = backend.first_load(folder) if isinstance(backend, CrossCompiler) else ""
    if note:
        on_progress(Step("load", 0, 1, note))
    session = backend.open(folder, target)
    try:
        require_signature(session, bundle.manifest, target.batch, what=f"The engine {engine.name}", repair=repair)
        if note:
            session.run(bundle.reference.images[:1])  # what is compiled then is kept
            on_progress(Step("load", 1, 1, note))
    except BaseException:
        session.close()
        raise
    return session
