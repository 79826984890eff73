"""The prepared graph that a bundle keeps beside an engine: verified once, used until one of its inputs changes."""

import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rrr_edge.backends.graph.lowering import lower
from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.tensorrt.prepare import PREPARATION, modelopt_version, prepare, run_prepared
from rrr_edge.bundle.engine import Origin, Prepared
from rrr_edge.bundle.files import describe_file, staged_folder, write_file
from rrr_edge.bundle.folder import PREPARED, PREPARED_CARD
from rrr_edge.bundle.quantisation import Quantisation
from rrr_edge.bundle.target import Lowering
from rrr_edge.bundle.verification import Verification, require_precision
from rrr_edge.compile.refusal import require_answers
from rrr_edge.compile.request import BuildRequest
from rrr_edge.compile.search import TOLERANCE, find_quantisation, wants_search
from rrr_edge.errors import CorruptArtifact
from rrr_edge.timing.machine import cpu_info
from rrr_edge.timing.progress import Step


def keep_prepared(order: BuildRequest, lowering: Lowering) -> Prepared:
    """See that the bundle holds the prepared graph of `order`; an engine beside it stays as it is.

    Raises MissingLibrary and GateFailed (it answers differently, or in another precision: nothing is changed).
    """
    folder = order.bundle.engine_folder(order.target.engine_name)
    if kept := _still_right(order, lowering):
        return kept
    with staged_folder(folder) as stage:
        if folder.exists():
            shutil.copytree(folder, stage, dirs_exist_ok=True)
        return _make(order, lowering, stage)


def write_prepared(order: BuildRequest, lowering: Lowering, out: Path) -> Path:
    """Put the prepared graph with its card into the folder `out`, from the bundle if it is there; return its path."""
    if _still_right(order, lowering):
        for name in (PREPARED, PREPARED_CARD):
            shutil.copyfile(order.bundle.engine_folder(order.target.engine_name) / name, out / name)
    else:
        _make(order, lowering, out)
    return out / PREPARED


def _still_right(order: BuildRequest, lowering: Lowering) -> Prepared | None:
    """The kept graph's card, if the graph is whole, would be made alike again and loses no more than is allowed."""
    try:
        card = order.bundle.prepared(order.target)
    except CorruptArtifact:
        return None
    wanted = _origin(order, lowering)
    if wanted.modelopt is None:  # this machine could not make it, but may build from it
        wanted = wanted.model_copy(update={"modelopt": card.origin.modelopt})
    limits = order.limits
    missed = any(miss.surely for miss in card.verification.misses(order.target.precision, limits))
    share = card.quantisation.least_share if card.quantisation else None
    too_little = share is not None and share < limits.min_share - TOLERANCE
    return card if card.origin == wanted and not missed and not too_little else None


def _origin(order: BuildRequest, lowering: Lowering) -> Origin:
    precision, turing = order.preparation
    return Origin(
        model_sha256=order.bundle.model_sha256,
        precision=precision,
        lowering=lowering,
        calibration=order.calibration_digest,
        preparation=PREPARATION,
        modelopt=None if precision == "fp32" else modelopt_version(),
        turing=turing,
        quantisation=order.target.quantisation,
    )


def _make(order: BuildRequest, lowering: Lowering, out: Path) -> Prepared:
    precision, graph = order.target.precision, out / PREPARED
    with TemporaryDirectory(dir=out) as scratch:
        lowered = Path(scratch) / "lowered.onnx"
        lower(order.bundle.model, lowering, lowered)
        way, found = order.target.quantisation, None
        _write(order, way, lowered, graph)
        verification = _verify(order, graph)
        if wants_search(order, verification):
            found = find_quantisation(order, lowering, lowered)
            if found.found is not None:
                way = found.found.quantisation
                _write(order, way, lowered, graph)
                verification = _verify(order, graph)
    shares = Graph.load(graph).precision_shares()
    require_precision(
        precision,
        shares,
        what="the prepared graph",
        so="it was not kept",
        quantisation=way,
        advice=f"{precision} cannot hold what the other layers compute. Try --precision bf16 or fp32.",
    )
    require_answers(order, verification, what="prepared graph", searched=found)
    card = Prepared(
        origin=_origin(order, lowering),
        file=describe_file(graph),
        verification=verification,
        precision_found=shares,
        quantisation=way,
        search=found,
        notes=(*order.notes, *(found.notes(verification.images) if found else ())),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=cpu_info()[0],
    )
    write_file(out / PREPARED_CARD, card.to_json())
    return card


def _write(order: BuildRequest, way: Quantisation | None, lowered: Path, out: Path) -> None:
    """Write the graph in the file `lowered` in the target's precision."""
    precision, turing = order.preparation
    if way is None or order.quantiser is None:
        prepare(lowered, precision, order.calibration, out, order.on_progress, turing=turing)
    else:
        quantised = order.quantiser.quantise(lowered, order.target, order.calibration, way, order.on_progress)
        quantised.write(way.float_layers, out)


def _verify(order: BuildRequest, graph: Path) -> Verification:
    images = order.bundle.reference.images
    order.on_progress(Step("verify", 0, len(images)))
    verification = order.judge(run_prepared(graph, images))
    order.on_progress(Step("verify", len(images), len(images)))
    return verification
