"""The work on one cell: compress, compile, record. What an earlier process has finished of it is not repeated."""

import csv
import shutil
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from rrr_edge import __version__
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.evaluation import sha256_of
from rrr_edge.bundle.files import scratch_folder
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Manifest
from rrr_edge.bundle.reused import Chained
from rrr_edge.errors import BadInput, GateFailed, MissingLibrary
from rrr_edge.images.layouts import require_folder
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.plan import Cell
from rrr_edge.study.records import CellRecord, CurvePoint, EngineResult
from rrr_edge.study.splits import write_nested_split
from rrr_edge.timing.machine import cpu_info
from rrr_edge.timing.progress import OnProgress, silent

# So many points of a learning curve are kept.
_POINTS = 50


def run_cell(cell: Cell, study: StudyFolder, on_progress: OnProgress = silent) -> CellRecord:
    """Make the cell's bundle and engine, and record what came of them. Raises what compressing and compiling raise.

    An engine that is refused for its answers is recorded so: the method is then none for that target and precision.
    """
    with ExitStack() as until_end:
        if cell.purpose == "validation":
            require_folder(Path(cell.data.path))
            data = until_end.enter_context(scratch_folder()) / cell.data.name
            write_nested_split(Path(cell.data.path), data, seed=cell.seed)
        else:
            data = Path(cell.data.path)
        bundle, train_s, own_s = _compressed(cell, study, data, on_progress)
    engine, refused = _compiled(cell, bundle, on_progress)
    manifest = bundle.manifest
    if manifest.accuracy is None:
        raise BadInput(f"{cell.data.path} has no test photos to judge a method by.")
    record = CellRecord(
        cell=cell,
        data_sha256=manifest.provenance.data_sha256,
        weights_sha256=manifest.provenance.weights_sha256,
        classes=len(manifest.labels),
        images=manifest.provenance.images,
        accuracy=manifest.accuracy,
        cost=manifest.cost,
        engine=engine,
        refused=refused,
        train_s=train_s,
        own_s=own_s,
        threads=training_threads(),
        curve=_curve(bundle),
        notes=manifest.provenance.notes,
        machine=cpu_info()[0],
        versions={"rrr-edge": __version__, "torch": version("torch")},
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    study.write_record(record)
    if cell.purpose == "validation":  # its accuracy is all that is asked
        for made in study.place(cell).glob("*.rrr"):
            shutil.rmtree(made, ignore_errors=True)
    return record


def training_threads() -> int:
    import torch

    return int(torch.get_num_threads())


def _compressed(cell: Cell, study: StudyFolder, data: Path, on_progress: OnProgress) -> tuple[Bundle, float, float]:
    """The bundle of the last recipe, the seconds of all trainings and of the cell's own; an interrupted one goes on."""
    if (record := study.record(cell)) and record.cell.makes_same_network(cell) and study.bundle(cell).is_dir():
        return Bundle.open(study.bundle(cell)), record.train_s, record.own_s
    try:
        from rrr_edge.compress import Run, compress
    except ModuleNotFoundError as error:
        raise MissingLibrary(error.name or "torch", extra="compress", purpose="A cell of a study") from error
    from rrr_edge.compress.chain import going_on

    run = Run(device=cell.device, max_bad=cell.max_bad, resume=True)
    start, finished = study.begin(cell)
    for step, recipe in enumerate(cell.recipes[finished:], start=finished + 1):
        out = study.bundle(cell, step if step < len(cell.recipes) else None)
        whole = going_on(recipe, str(start)) if start and isinstance(recipe, Chained) else recipe
        start = compress(data, out, recipe=whole, run=run, on_progress=on_progress).path
    assert start is not None
    bundle = Bundle.open(start)
    return bundle, *_spent(bundle.manifest, len(cell.recipes) - finished)


def _spent(manifest: Manifest, own_steps: int) -> tuple[float, float]:
    """The seconds of all trainings, and those of the last `own_steps`."""
    spent = [*(ancestor.duration_s for ancestor in manifest.chain), manifest.provenance.duration_s]
    return sum(spent), sum(spent[len(spent) - own_steps :])


def _compiled(cell: Cell, bundle: Bundle, on_progress: OnProgress) -> tuple[EngineResult | None, str]:
    if cell.target is None:
        return None, ""
    from rrr_edge.compile import compile_bundle

    name = cell.target.engine_name
    try:
        kept = name in bundle.engine_names() and bundle.engine(cell.target).target == cell.target
        engine = (
            bundle.engine(cell.target)
            if kept
            else compile_bundle(bundle, cell.target, limits=cell.limits, on_progress=on_progress)
        )
    except GateFailed as error:
        return None, str(error)
    return _summed_up(engine, bundle), ""


def _summed_up(engine: Engine, bundle: Bundle) -> EngineResult:
    return EngineResult(
        name=engine.name,
        card_sha256=sha256_of(bundle, engine.name),
        bytes=engine.bytes,
        images=engine.verification.images,
        accuracy=engine.verification.accuracy,
        accuracy_reference=engine.verification.accuracy_reference,
        precision_found=engine.precision_found,
    )


def _curve(bundle: Bundle) -> tuple[CurvePoint, ...]:
    """The training's log, thinned to a number of points; the last epoch and those with validation stay."""
    if bundle.training_log is None:
        return ()
    with bundle.training_log.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train_accuracy")]
    each = -(-len(rows) // _POINTS) if rows else 1
    return tuple(
        CurvePoint(
            epoch=int(row["epoch"]),
            train=float(row["train_accuracy"]),
            validation=float(row["validation_accuracy"]) if row.get("validation_accuracy") else None,
        )
        for place, row in enumerate(rows, start=1)
        if place % each == 0
        or place in (1, len(rows))
        or (len(rows) <= 10 * _POINTS and row.get("validation_accuracy"))
    )
