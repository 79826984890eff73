"""The verification of an engine on the device at hand, on the bundle's reference images."""

import time

from rrr_edge.backends import Backend, Session, backend_of
from rrr_edge.backends.protocols import GPUBackend
from rrr_edge.bundle.commands import compiling
from rrr_edge.bundle.engine import DeviceVerification, Engine
from rrr_edge.bundle.files import sha256, write_file
from rrr_edge.bundle.folder import ENGINE, VERIFIED, Bundle
from rrr_edge.bundle.limits import MAX_DROP, Limits
from rrr_edge.bundle.reference import Images, Outputs, in_batches
from rrr_edge.bundle.target import Target
from rrr_edge.bundle.verification import has_precision, require_precision, verify_answers
from rrr_edge.errors import CannotRunHere, GateFailed
from rrr_edge.runtime.opening import open_engine
from rrr_edge.timing.machine import cpu_info
from rrr_edge.timing.progress import OnProgress, Step, silent

# What an engine of a GPU was verified on is another device when one of these differs.
_DEVICE = ("gpu", "cuda driver")


def verify_engine(
    bundle: Bundle, target: Target, *, max_drop: float | None = None, on_progress: OnProgress = silent
) -> DeviceVerification:
    """Run the reference images through the engine of `bundle` for `target`, and store what came of it beside it.

    `max_drop` is the accuracy (absolute) that may be lost. Unless it is given, that is 0.01, or 0.01 more than was lost
    when it was compiled, and missed only where the interval lies beyond it.
    Raises what opening an engine raises, and GateFailed, when the record is written, where it answers differently.
    """
    engine = bundle.engine(target)
    session = open_engine(bundle, engine, engine.target, on_progress)
    try:
        return verify_session(bundle, engine, session, max_drop=max_drop, on_progress=on_progress)
    finally:
        session.close()


def verify_session(
    bundle: Bundle,
    engine: Engine,
    session: Session,
    *,
    max_drop: float | None = None,
    on_progress: OnProgress = silent,
) -> DeviceVerification:
    """`verify_engine` for a `session` of `engine` that is open already."""
    target, before = engine.target, engine.verification
    lost = max(0.0, before.accuracy_reference - before.accuracy)
    outputs = answer(session, bundle.reference.images, on_progress)
    verification = verify_answers(
        bundle.reference,
        outputs,
        precision=target.precision,
        layers=bundle.manifest.spec.layers,
        limits=Limits(min_agreement=before.min_agreement, max_drop=max_drop, default_drop=lost + MAX_DROP),
    )
    folder = bundle.engine_folder(engine.name)
    record = DeviceVerification(
        engine_sha256=sha256(folder / ENGINE),
        versions=backend_of(target).versions(),
        verification=verification,
        precision_found=session.precision_found(),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=cpu_info()[0],
    )
    try:
        write_file(folder / VERIFIED, record.to_json())
    except CannotRunHere:
        on_progress(Step("verify", len(outputs.probabilities), len(outputs.probabilities), "it cannot be stored"))
    if not verification.passed:
        raise GateFailed(
            f"The engine {engine.name} does not answer like the network on this device: "
            f"{'; '.join(verification.failures)}.",
            advice=f"Compile it here: {compiling(bundle.path, target)}",
        )
    require_precision(
        target.precision,
        record.precision_found,
        what="the engine",
        so="it is not what was asked",
        quantisation=target.quantisation,
    )
    return record


def is_verified_here(bundle: Bundle, engine: Engine, backend: Backend) -> bool:
    """Whether the engine has answered rightly on such a device: on a CPU it did when it was compiled."""
    record = bundle.verified(engine)
    if record is not None and not _passed(record, engine):
        return False
    if not isinstance(backend, GPUBackend):
        return True
    runs = [engine.versions] if engine.verified_by == "engine" else []
    if record is not None:
        runs.append(record.versions)
    here = backend.versions()
    return any(all(run.get(name) == here[name] for name in _DEVICE) for run in runs)


def _passed(record: DeviceVerification, engine: Engine) -> bool:
    """Whether the answers were right and the layers ran in the precision that was asked."""
    asked, quantisation = engine.target.precision, engine.target.quantisation
    return record.verification.passed and has_precision(asked, record.precision_found, quantisation)


def answer(session: Session, images: Images, on_progress: OnProgress, stage: str = "verify") -> Outputs:
    """What `session` answers to `images`, in batches of 16."""
    done = 0

    def run(chunk: Images) -> Outputs:
        nonlocal done
        outputs = session.run(chunk)
        done += len(chunk)
        on_progress(Step(stage, done, len(images)))
        return outputs

    return in_batches(run, images, 16)
