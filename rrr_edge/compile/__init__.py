"""Verb 2, compilation: an engine built from a bundle, verified against the network, stored with its engine.json."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from rrr_edge.backends import Backend, backend_of
from rrr_edge.backends.build import require_builder, takes_prepared
from rrr_edge.backends.protocols import CrossCompiler, require_signature
from rrr_edge.bundle.commands import compiling, compressing
from rrr_edge.bundle.engine import Engine, Prepared
from rrr_edge.bundle.files import describe_file, write_file
from rrr_edge.bundle.folder import ENGINE, PREPARED, PREPARED_CARD, Bundle, writing_engine
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.search import LayerLoss, SearchResult
from rrr_edge.bundle.target import Lowering, Precision, Target
from rrr_edge.bundle.verification import Verification, require_precision
from rrr_edge.compile.build import Built, build_fastest, lowerings_of, may_be_faster_split
from rrr_edge.compile.prepared import keep_prepared
from rrr_edge.compile.refusal import require_answers
from rrr_edge.compile.request import BuildRequest, read_calibration
from rrr_edge.compile.search import find_quantisation, wants_search
from rrr_edge.compile.searched import build_found
from rrr_edge.compile.sense import DEFAULT, require_sense
from rrr_edge.compile.sensitivity import explain
from rrr_edge.errors import CannotRunHere, GateFailed, RRREdgeError, UsageError
from rrr_edge.images.dataset import calibration_folder
from rrr_edge.images.layouts import passed_over
from rrr_edge.runtime.verify import answer
from rrr_edge.timing.machine import cpu_info
from rrr_edge.timing.progress import OnProgress, Step, silent

__all__ = ["compile_bundle", "explain_bundle", "may_be_faster_split", "prepare_bundle", "require_sense"]


def compile_bundle(
    bundle: Bundle,
    target: Target | str,
    *,
    precision: Precision | None = None,
    calib_data: str | Path | None = None,
    limits: Limits = DEFAULT,
    on_progress: OnProgress = silent,
) -> Engine:
    """Build, verify and keep the engine of `bundle` for `target`; an older one is replaced only by a proven one.

    `precision` replaces the target's own; `calib_data` (a folder, or the name of a packaged set) replaces the bundle's
    calibration images for int8; `limits` are what the answers to the reference images must keep. Where plain int8 or
    fp8 misses one, another way to quantise is searched (search.py). Where the backend takes a prepared graph, that is
    made and kept before anything is asked of this machine. A backend that builds without the device may do so here:
    the graph then answers for the engine, on the CPU.

    Raises UsageError (no such target, no share, images that nothing reads), MissingLibrary, CannotRunHere (this machine
    cannot run it), GateFailed (it answers differently, or runs in another precision: nothing is kept), BadInput
    (calibration images).
    """
    target = Target.resolve(target, precision)
    require_sense(bundle, target, calib_data=calib_data, limits=limits)
    order = _request(bundle, target, calib_data, limits, on_progress)
    lowerings = lowerings_of(bundle, target)
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
    limits: Limits = DEFAULT,
    on_progress: OnProgress = silent,
) -> Prepared:
    """Make, verify and keep the graph from which `compile_bundle` builds on the machine that has the GPU.

    The arguments are those of `compile_bundle`. Raises UsageError (`target` takes no prepared graph, or which one is
    best can only be measured on it), MissingLibrary, GateFailed (nothing is kept), BadInput (calibration images).
    """
    target = Target.resolve(target, precision)
    require_sense(bundle, target, calib_data=calib_data, limits=limits, prepare_only=True)
    order = _request(bundle, target, calib_data, limits, on_progress)
    return keep_prepared(order, *lowerings_of(bundle, target))


def explain_bundle(
    bundle: Bundle,
    target: Target | str,
    *,
    precision: Precision | None = None,
    calib_data: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> tuple[LayerLoss, ...]:
    """What is lost by each layer where it alone is in int8 or fp8, the most harmful first; kept for a later search.

    The arguments are those of `compile_bundle`. Raises UsageError where the target has no such layers.
    """
    target = Target.resolve(target, precision)
    require_sense(bundle, target, calib_data=calib_data)
    order = _request(bundle, target, calib_data, DEFAULT, on_progress)
    lowerings = lowerings_of(bundle, target)
    if order.quantiser is None or len(lowerings) > 1:
        raise UsageError(
            f"Layers are explained for int8 and fp8 in one lowering, not for {target.precision} with the "
            f"{target.backend} backend{' and --lowering auto' if len(lowerings) > 1 else ''}.",
            advice=f"Ask for another, such as: {compiling(bundle.path, Target.load('openvino'))}",
        )
    return explain(order, lowerings[0])


def _request(
    bundle: Bundle, target: Target, calib_data: str | Path | None, limits: Limits, on_progress: OnProgress
) -> BuildRequest:
    images = read_calibration(bundle, target, calib_data)
    left_out = passed_over(calibration_folder(calib_data)) if calib_data is not None else ""
    return BuildRequest(bundle, target, images, limits, on_progress, left_out)


def _build_proven(
    order: BuildRequest, lowerings: tuple[Lowering, ...], folder: Path, refused: tuple[str, ...] = ()
) -> Engine:
    """Build into `folder`, verify, and write the card. Raises GateFailed.

    Of several lowerings the fastest is taken that is not refused; `refused` says which were.
    """
    order.on_progress(Step("build", 0, 1, order.target.engine_name))
    built = build_fastest(order, lowerings, folder)
    try:
        return _proven(order, built._replace(left_out=(*refused, *built.left_out)), folder)
    except GateFailed as refusal:
        # Without products there is nothing to mix.
        gone = {built.lowering, "product"} if built.lowering == "mixed" else {built.lowering}
        others = tuple(lowering for lowering in lowerings if lowering not in gone)
        if not others:
            raise
        said = f"The lowering {built.lowering} was left out: {refusal}"
    for file in folder.iterdir():
        file.unlink()
    return _build_proven(order, others, folder, (*refused, said))


def _proven(order: BuildRequest, built: Built, folder: Path) -> Engine:
    """Verify what was built into `folder`, after a search where that is wanted, and write the card."""
    bundle, target = order.bundle, order.target
    lowering, order = built.lowering, replace(order, products=built.products)
    found: SearchResult | None = None
    doubts: tuple[str, ...] = ()
    if takes_prepared(target):
        card = Prepared.from_json_file(folder / PREPARED_CARD)
        target, found = target.model_copy(update={"quantisation": card.quantisation}), card.search
        order = replace(order, target=target)
    proof = _prove(order, folder)
    if not takes_prepared(target) and wants_search(order, proof.verification):
        with order.lowered(lowering) as model:
            found = find_quantisation(order, lowering, model)
        if found.found is not None:
            way, ratio, doubts = build_found(order, found.found.quantisation, lowering, folder)
            found, target = found.built(way, ratio), target.model_copy(update={"quantisation": way})
            order = replace(order, target=target)
            proof = _prove(order, folder)
    require_precision(
        target.precision,
        proof.precision_found,
        what="the engine",
        so="it was not kept",
        quantisation=target.quantisation,
    )
    require_answers(order, proof.verification, what="engine", searched=found)
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
        lowering_ratios=built.ratios,
        products=built.products,
        pair_times=built.pair_times,
        search=found,
        notes=(
            *order.notes,
            *built.left_out,
            *built.doubts,
            *doubts,
            *(found.notes(proof.verification.images) if found else ()),
        ),
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


def _prove(order: BuildRequest, folder: Path) -> _Proof:
    """How the engine in `folder` answers, or, where its device is elsewhere, how its prepared graph answered."""
    target, backend = order.target, backend_of(order.target)
    if isinstance(backend, CrossCompiler) and not _runs_here(backend, target):
        card = Prepared.from_json_file(folder / PREPARED_CARD)
        return _Proof("graph", card.verification, backend.precision_built(folder), backend.builder_versions())
    session = backend.open(folder, target)
    try:
        repair = compressing(order.bundle.path, anew=True)
        require_signature(session, order.bundle.manifest, target.batch, what="The graph", repair=repair)
        found, outputs = session.precision_found(), answer(session, order.bundle.reference.images, order.on_progress)
    finally:
        session.close()
    verification = order.judge(outputs)
    return _Proof("engine", verification, found, backend.versions())


def _runs_here(backend: Backend, target: Target) -> bool:
    try:
        backend.check(target)
    except CannotRunHere:
        return False
    return True
