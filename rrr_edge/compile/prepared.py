"""The prepared graph that a bundle keeps beside an engine: proven once, built from until what it came of changes."""

import hashlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rrr_edge.backends import backend_of
from rrr_edge.backends.graph.lowering import lower
from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.protocols import Preparation
from rrr_edge.backends.tensorrt.prepare import PREPARATION, modelopt_version, prepare, run_prepared
from rrr_edge.bundle.engine import Origin, Prepared
from rrr_edge.bundle.files import describe_file, staged_folder, write_file
from rrr_edge.bundle.folder import PREPARED, PREPARED_CARD, Bundle
from rrr_edge.bundle.reference import Images
from rrr_edge.bundle.target import Lowering, Target
from rrr_edge.bundle.verification import drops_beyond, require_answers, require_precision, verify_answers
from rrr_edge.errors import CorruptArtifact, counted
from rrr_edge.timing.machine import cpu_info
from rrr_edge.timing.progress import OnProgress, Step


@dataclass(frozen=True)
class BuildRequest:
    """An engine that is wanted. `calibration` is empty where nothing reads it; `passed_over` says what is left out."""

    bundle: Bundle
    target: Target
    calibration: Images
    max_drop: float
    on_progress: OnProgress
    passed_over: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the calibration images."""
        tests = {image.tobytes() for image in self.bundle.reference.images} if len(self.calibration) else set()
        known = sum(image.tobytes() in tests for image in self.calibration)
        flatters = (
            f"Among the {len(self.calibration)} calibration images: {counted(known, 'test photo')}, by which the "
            "engine is judged, so that its accuracy flatters. Calibrate with training photos or frames of the device."
        )
        return tuple(filter(None, (self.passed_over, flatters if known else "")))

    @property
    def preparation(self) -> Preparation:
        """What the backend asks of the graph, of a target whose backend builds from prepared ones."""
        asked = backend_of(self.target).preparation(self.target)
        assert asked is not None
        return asked

    @property
    def calibration_digest(self) -> str:
        return hashlib.sha256(self.calibration.tobytes()).hexdigest() if len(self.calibration) else ""


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
    proof = card.verification
    lost = drops_beyond(order.max_drop, proof.accuracy_reference, proof.accuracy)
    return card if card.origin == wanted and not lost else None


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
    )


def _make(order: BuildRequest, lowering: Lowering, out: Path) -> Prepared:
    (precision, turing), reference, graph = order.preparation, order.bundle.reference, out / PREPARED
    with TemporaryDirectory(dir=out) as scratch:
        lowered = Path(scratch) / "lowered.onnx"
        lower(order.bundle.model, lowering, lowered)
        prepare(lowered, precision, order.calibration, graph, order.on_progress, turing=turing)
    shares = Graph.load(graph).precision_shares()
    order.on_progress(Step("verify", 0, len(reference.images)))
    answers = run_prepared(graph, reference.images)
    verification = verify_answers(reference, answers, precision=precision, max_drop=order.max_drop)
    order.on_progress(Step("verify", len(reference.images), len(reference.images)))
    advice = f"{precision} cannot hold what the other layers compute. Try --precision bf16 or fp32."
    require_precision(precision, shares, what="the prepared graph", so="it was not kept", advice=advice)
    require_answers(verification, precision, what="prepared graph")
    card = Prepared(
        origin=_origin(order, lowering),
        file=describe_file(graph),
        verification=verification,
        precision_found=shares,
        notes=order.notes,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=cpu_info()[0],
    )
    write_file(out / PREPARED_CARD, card.to_json())
    return card
