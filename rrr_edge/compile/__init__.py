"""Verb 2, compilation: an engine built from a bundle, verified against the network, stored with its engine.json."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from rrr_edge.backends import Backend, backend_of
from rrr_edge.backends.build import require_builder, takes_prepared
from rrr_edge.backends.graph.lowering import lower
from rrr_edge.backends.protocols import CrossCompiler, require_signature
from rrr_edge.bundle.commands import compressing
from rrr_edge.bundle.engine import Engine, Prepared
from rrr_edge.bundle.files import describe_file, scratch_folder, write_file
from rrr_edge.bundle.folder import ENGINE, PREPARED, PREPARED_CARD, Bundle, writing_engine
from rrr_edge.bundle.measurements import Ratio
from rrr_edge.bundle.reference import Images, Reference
from rrr_edge.bundle.target import LOWERINGS, Lowering, Precision, Target
from rrr_edge.bundle.verification import (
    MAX_DROP,
    Verification,
    require_answers,
    require_precision,
    require_share,
    verify_answers,
)
from rrr_edge.compile.fastest import fastest as race
from rrr_edge.compile.prepared import BuildRequest, keep_prepared, write_prepared
from rrr_edge.errors import BadInput, CannotRunHere, RRREdgeError, UsageError
from rrr_edge.images.dataset import calibration_folder, read_folder
from rrr_edge.images.layouts import passed_over
from rrr_edge.runtime.verify import answer
from rrr_edge.timing.machine import cpu_info
from rrr_edge.timing.progress import OnProgress, Step, silent

# The share of unreadable calibration images that is passed over, as in the scan of a data set.
MAX_BAD = 0.01


def compile_bundle(
    bundle: Bundle,
    target: Target | str,
    *,
    precision: Precision | None = None,
    calib_data: str | Path | None = None,
    max_drop: float = MAX_DROP,
    on_progress: OnProgress = silent,
) -> Engine:
    """Build, verify and keep the engine of `bundle` for `target`; an older one is replaced only by a proven one.

    `precision` replaces the target's own; `calib_data` (a folder, or the name of a packaged set) replaces the bundle's
    calibration images for int8; `max_drop` is the accuracy (absolute) that the reference images may lose. Where the
    backend takes a prepared graph, that is made and kept before anything is asked of this machine. A backend that
    builds without the device may do so here: the graph then answers for the engine, on the CPU.

    Raises UsageError (no such target, no share, images that nothing reads), MissingLibrary, CannotRunHere (this machine
    cannot run it), GateFailed (it answers differently, or runs in another precision: nothing is kept), BadInput
    (calibration images).
    """
    target = Target.resolve(target, precision)
    require_sense(bundle, target, calib_data=calib_data, max_drop=max_drop)
    order = _request(bundle, target, calib_data, max_drop, on_progress)
    lowerings = _lowerings(bundle, target)
    kept = takes_prepared(target) and len(lowerings) == 1
    if kept:
        keep_prepared(order, lowerings[0])
    try:
        require_builder(target, runs=len(lowerings) > 1)  # the fastest is found by running them
    except RRREdgeError as error:
        if kept:
            error.message += f" The prepared graph is kept in {bundle.engine_folder(target.engine_name)}."
        raise
    _ = bundle.reference  # which is whole, or nothing is built
    with writing_engine(bundle, target.engine_name) as folder:
        return _build_proven(order, lowerings, folder)


def prepare_bundle(
    bundle: Bundle,
    target: Target | str,
    *,
    precision: Precision | None = None,
    calib_data: str | Path | None = None,
    max_drop: float = MAX_DROP,
    on_progress: OnProgress = silent,
) -> Prepared:
    """Make, verify and keep the graph from which `compile_bundle` builds on the machine that has the GPU.

    The arguments are those of `compile_bundle`. Raises UsageError (`target` takes no prepared graph, or which one is
    best can only be measured on it), MissingLibrary, GateFailed (nothing is kept), BadInput (calibration images).
    """
    target = Target.resolve(target, precision)
    require_sense(bundle, target, calib_data=calib_data, max_drop=max_drop, prepare_only=True)
    order = _request(bundle, target, calib_data, max_drop, on_progress)
    return keep_prepared(order, *_lowerings(bundle, target))


def require_sense(
    bundle: Bundle,
    target: Target,
    *,
    calib_data: str | Path | None = None,
    max_drop: float = MAX_DROP,
    prepare_only: bool = False,
) -> None:
    """Raise UsageError or CannotRunHere for what can be refused before anything is made.

    Where a graph has to be prepared first, the machine that builds from it is not asked.
    """
    require_share(max_drop)
    if bundle.manifest.spec.branches == 1 and target.lowering not in ("grouped", "auto"):
        raise UsageError(
            f"{bundle.path} has no branches that could be {target.lowering}.",
            advice="Compile with --lowering grouped.",
        )
    if calib_data is not None:
        if not _reads_images(target):
            raise UsageError(
                f"Nothing reads --calib-data for {target.precision} with the {target.backend} backend.",
                advice="Leave it out, or ask for --precision int8.",
            )
        calibration_folder(calib_data)
    if not takes_prepared(target):
        if prepare_only:
            raise UsageError(
                f"The {target.backend} backend takes the bundle's own graph; there is nothing to prepare.",
                advice="Compile without --prepare-only.",
            )
        backend_of(target).check(target)
    elif prepare_only and len(lowerings := _lowerings(bundle, target)) > 1:
        raise UsageError(
            "The fastest lowering can only be measured on the target itself.",
            advice=f"Prepare one of them with --lowering {', '.join(lowerings)}.",
        )


def _build_proven(order: BuildRequest, lowerings: tuple[Lowering, ...], folder: Path) -> Engine:
    """Build into `folder`, verify, and write the card. Raises GateFailed."""
    bundle, target = order.bundle, order.target
    order.on_progress(Step("build", 0, 1, target.engine_name))
    lowering, ratios = _build_fastest(order, lowerings, folder)
    proof = _prove(order, bundle.reference, folder)
    require_precision(target.precision, proof.precision_found, what="the engine", so="it was not kept")
    require_answers(proof.verification, target.precision, what="engine")
    own = [file for file in sorted(folder.iterdir()) if file.name not in (PREPARED, PREPARED_CARD)]
    engine = Engine(
        target=target,
        model_sha256=bundle.model_sha256,
        files=tuple(describe_file(file) for file in own),
        versions=proof.versions,
        verification=proof.verification,
        precision_found=proof.precision_found,
        verified_by=proof.by,
        calibration=order.calibration_digest if target.precision in ("int8", "fp8") else "",
        lowering=lowering,
        lowering_ratios=ratios,
        notes=order.notes,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=cpu_info()[0],
    )
    write_file(folder / ENGINE, engine.to_json())
    return engine


class _Proof(NamedTuple):
    by: Literal["engine", "graph"]
    verification: Verification
    precision_found: dict[str, float]
    versions: dict[str, str]


def _prove(order: BuildRequest, reference: Reference, folder: Path) -> _Proof:
    """How the engine in `folder` answers, or, where its device is elsewhere, how its prepared graph answered."""
    target, backend = order.target, backend_of(order.target)
    if isinstance(backend, CrossCompiler) and not _runs_here(backend, target):
        card = Prepared.from_json_file(folder / PREPARED_CARD)
        return _Proof("graph", card.verification, backend.precision_built(folder), backend.builder_versions())
    session = backend.open(folder, target)
    try:
        repair = compressing(order.bundle.path, anew=True)
        require_signature(session, order.bundle.manifest, target.batch, what="The graph", repair=repair)
        found, outputs = session.precision_found(), answer(session, reference.images, order.on_progress)
    finally:
        session.close()
    verification = verify_answers(reference, outputs, precision=target.precision, max_drop=order.max_drop)
    return _Proof("engine", verification, found, backend.versions())


def _runs_here(backend: Backend, target: Target) -> bool:
    try:
        backend.check(target)
    except CannotRunHere:
        return False
    return True


def _lowerings(bundle: Bundle, target: Target) -> tuple[Lowering, ...]:
    """What is to be tried; without branches there is nothing to choose from."""
    if bundle.manifest.spec.branches == 1:
        return ("grouped",)
    return LOWERINGS if target.lowering == "auto" else (target.lowering,)


def _build_fastest(
    order: BuildRequest, lowerings: tuple[Lowering, ...], out: Path
) -> tuple[Lowering, tuple[Ratio, ...]]:
    """Build into `out`; of several lowerings the fastest on this machine, with the others' times over grouped's."""
    if len(lowerings) == 1:
        _build(order, lowerings[0], out)
        return lowerings[0], ()
    with TemporaryDirectory(dir=out) as scratch:
        folders = {lowering: Path(scratch) / lowering for lowering in lowerings}
        for lowering, folder in folders.items():
            folder.mkdir()
            _build(order, lowering, folder)
        fastest, ratios = race(folders, order.target, order.bundle.reference.images, on_progress=order.on_progress)
        for file in folders[fastest].iterdir():
            file.rename(out / file.name)
    return fastest, ratios


def _build(order: BuildRequest, lowering: Lowering, out: Path) -> None:
    target, backend = order.target, backend_of(order.target)
    calibration = order.calibration if target.precision in ("int8", "fp8") else order.calibration[:0]
    if takes_prepared(target):
        backend.compile(write_prepared(order, lowering, out), target, calibration, out, order.on_progress)
    elif lowering == "grouped":
        backend.compile(order.bundle.model, target, calibration, out, order.on_progress)
    else:
        with scratch_folder() as scratch:
            lowered = scratch / f"{lowering}.onnx"
            lower(order.bundle.model, lowering, lowered)
            backend.compile(lowered, target, calibration, out, order.on_progress)


def _reads_images(target: Target) -> bool:
    """Typical images tell int8 and fp8 their ranges, and fp16 where it is written into the graph."""
    return target.precision in ("int8", "fp8") or (target.precision == "fp16" and takes_prepared(target))


def _request(
    bundle: Bundle, target: Target, calib_data: str | Path | None, max_drop: float, on_progress: OnProgress
) -> BuildRequest:
    if not _reads_images(target):
        return BuildRequest(bundle, target, bundle.reference.images[:0], max_drop, on_progress)
    if calib_data is None:
        return BuildRequest(bundle, target, bundle.calibration, max_drop, on_progress)
    images = _calibration(bundle, calib_data)
    return BuildRequest(bundle, target, images, max_drop, on_progress, passed_over(calibration_folder(calib_data)))


def _calibration(bundle: Bundle, calib_data: str | Path) -> Images:
    folder = calibration_folder(calib_data)
    pictures = read_folder(folder, bundle.manifest.preprocess, limit=300)
    bad, count = pictures.bad, len(pictures.files) + len(pictures.bad)
    if len(bad) > MAX_BAD * count:
        named = ", ".join(f"{file.path} ({file.reason})" for file in bad[:10])
        raise BadInput(
            f"{len(bad)} of {count} calibration images in {folder} cannot be read, more than {MAX_BAD:.0%}: "
            f"{named}{' and more' if len(bad) > 10 else ''}.",
            advice="Repair or remove them.",
        )
    return pictures.images
