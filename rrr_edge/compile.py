"""VERB 2: bundle + target -> an engine that has been proven to answer like the network it came from."""

import hashlib
import time
from pathlib import Path

import numpy as np

from rrr_edge.backends import Images, Outputs, Session, backend_of
from rrr_edge.bundle import ENGINE, Bundle, Engine, Verification, describe_file, writing_engine
from rrr_edge.dataset import calibration_folder, read_folder
from rrr_edge.errors import BadInput, GateFailed, UsageError
from rrr_edge.files import write_file
from rrr_edge.machine import cpu_info
from rrr_edge.progress import Report, Step, silent
from rrr_edge.target import Precision, Target
from rrr_edge.verification import demand_precision, verify

# The share of unreadable calibration images that is passed over, as in the scan of a data set.
MAX_BAD = 0.01


def compile_bundle(
    bundle: Bundle,
    target: Target | str,
    *,
    precision: Precision | None = None,
    calib_data: str | Path | None = None,
    max_drop: float = 0.01,
    report: Report = silent,
) -> Engine:
    """Build, verify and keep the engine of `bundle` for `target`; an older one is replaced only by a proven one.

    `precision` replaces the target's own; `calib_data` (a folder, or the name of a packaged set) replaces the bundle's
    calibration images for int8; `max_drop` is the accuracy (absolute) that the reference images may lose.

    Raises UsageError (no such target, no share), MissingLibrary, CannotRunHere (this machine cannot run it), GateFailed
    (it answers differently, or runs in another precision: nothing is kept), BadInput (calibration images).
    """
    demand_share(max_drop)
    target = Target.load(target) if isinstance(target, str) else target
    if precision is not None:
        target = target.model_copy(update={"precision": precision})
    backend = backend_of(target)
    backend.check(target)
    model, reference = bundle.model, bundle.reference
    calibration = _calibration(bundle, calib_data) if target.precision == "int8" else reference.images[:0]

    name = target.engine_name
    with writing_engine(bundle, name) as folder:
        report(Step("build", 0, 1, name))
        backend.compile(model, target, calibration, folder, report)
        session = backend.open(folder, target)
        try:
            found = session.precision_found()
            outputs = _answer(session, reference.images, report)
        finally:
            session.close()
        verification = verify(
            Outputs(reference.probabilities, reference.branch_probabilities),
            outputs,
            reference.labels,
            precision=target.precision,
            against="torch",
            max_drop=max_drop,
        )
        _demand(verification, found, target)
        engine = Engine(
            target=target,
            model_sha256=bundle.model_sha256,
            files=tuple(describe_file(file) for file in sorted(folder.iterdir())),
            versions=backend.versions(),
            verification=verification,
            precision_found=found,
            calibration=hashlib.sha256(calibration.tobytes()).hexdigest() if len(calibration) else "",
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            machine=cpu_info()[0],
        )
        write_file(folder / ENGINE, engine.to_json())
    return engine


def demand_share(max_drop: float) -> None:
    """Raise UsageError unless `max_drop` lies between 0 and 1."""
    if not 0 <= max_drop <= 1:
        raise UsageError(f"--max-drop is a share between 0 and 1, such as 0.01, not {max_drop:g}.")


def _calibration(bundle: Bundle, calib_data: str | Path | None) -> Images:
    if calib_data is None:
        return bundle.calibration
    folder = calibration_folder(calib_data)
    pictures = read_folder(folder, image_size=bundle.manifest.preprocess.image_size, limit=300)
    bad, count = pictures.bad, len(pictures.files) + len(pictures.bad)
    if len(bad) > MAX_BAD * count:
        named = ", ".join(f"{file.path} ({file.reason})" for file in bad[:10])
        raise BadInput(
            f"{len(bad)} of {count} calibration images in {folder} cannot be read, more than {MAX_BAD:.0%}: "
            f"{named}{' and more' if len(bad) > 10 else ''}.",
            advice="Repair or remove them.",
        )
    return pictures.images


def _answer(session: Session, images: Images, report: Report) -> Outputs:
    parts = []
    for start in range(0, len(images), 16):
        parts.append([part.copy() for part in session.run(images[start : start + 16])])
        report(Step("verify", min(start + 16, len(images)), len(images)))
    return Outputs(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _demand(verification: Verification, found: dict[str, float], target: Target) -> None:
    """Raise GateFailed unless the engine answers alike and computes in the precision that was asked."""
    demand_precision(target.precision, found, what="the engine", so="it was not kept")
    if not verification.passed:
        advice = "Try --precision bf16 or fp32."
        if target.precision == "int8":
            advice = (
                "Calibrate with typical photos (--calib-data DIR), raise --max-drop, or choose another --precision."
            )
        raise GateFailed(
            f"The {target.precision} engine does not answer like the network: {'; '.join(verification.failures)}. "
            "It was not kept.",
            advice=advice,
        )
