"""Studies that nobody carried out: plans of tiny data sets, and records with errors that are asked for."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from made_up import HERE, samples

from rrr_edge.bundle.manifest import Cost
from rrr_edge.bundle.measurements import Subject
from rrr_edge.bundle.target import Target
from rrr_edge.bundle.verification import Accuracy
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.methods import read_methods
from rrr_edge.study.plan import Cell, Method, Plan, find_data
from rrr_edge.study.records import CellRecord, CurvePoint, EngineResult, TimedEngine, Timing
from rrr_edge.timing.statistics import wilson_interval

TARGET = Target(name="openvino", backend="openvino", precision="int8", threads=2)


def write_data(folder: Path, *names: str) -> Path:
    """Data sets by their folders alone: what is in the files is for those who read them."""
    for name in names:
        for split in ("train", "test"):
            for label in ("cup", "mug"):
                file = folder / name / split / label / "1.png"
                file.parent.mkdir(parents=True)
                file.write_bytes(f"{name}{label}".encode())
    return folder


def make_plan(data: Path, words: str = "rrr,finetune", *, seeds: tuple[int, ...] = (0,), **settings: object) -> Plan:
    named = read_methods(words.split(","), {"epochs": 2, "image_size": 32, "weights": "random"})
    methods = tuple(Method(name=name, recipes=recipes) for name, recipes in named)
    return Plan.model_validate({"data": find_data([data]), "methods": methods, "seeds": seeds, **settings})


def make_record(cell: Cell, error: float, *, images: int = 400, **changes: object) -> CellRecord:
    right = round((1 - error) * images)
    fields: dict[str, object] = {
        "cell": cell,
        "data_sha256": cell.data.listing,
        "weights_sha256": "",
        "classes": 2,
        "images": {"train": 100, "test": images},
        "accuracy": Accuracy(
            images=images,
            correct=right,
            accuracy=right / images,
            interval=wilson_interval(right, images),
            calibration_error=0.02,
            per_class={},
        ),
        "cost": Cost(
            params=1000 * len(cell.method), trainable_params=10, macs=5000 * len(cell.method), weights_bytes=9
        ),
        "engine": None,
        "train_s": 90.0,
        "own_s": 90.0,
        "threads": 2,
        "curve": tuple(CurvePoint(epoch=e, train=1 - 0.9 / e) for e in (1, 2, 4, 8)),
        "notes": (),
        "machine": HERE.cpu,
        "versions": {"rrr-edge": "0"},
        "created": "2026-01-02T03:04:05Z",
    }
    if cell.target:
        fields["engine"] = EngineResult(
            name=cell.target.engine_name,
            card_sha256=f"{cell.words} card",
            bytes=8_000_000,
            images=images,
            accuracy=right / images,
            accuracy_reference=right / images,
            precision_found={"int8": 1.0},
        )
    return CellRecord.model_validate(fields | changes)


def write_study(folder: StudyFolder, plan: Plan, errors: Mapping[str, float], ms: Mapping[str, float]) -> None:
    """Every cell with the method's error, its data set's own and some of its seed, and engines of the method's time."""
    folder.write_plan(plan)
    for cell in plan.cells:
        rng = np.random.default_rng([cell.seed, len(cell.data.name), sum(cell.data.name.encode())])
        harder, luck = rng.uniform(-0.1, 0.3), np.random.default_rng([cell.seed, len(cell.method)]).normal(0, 0.01)
        folder.write_record(make_record(cell, float(np.clip(errors[cell.method] + harder + luck, 0, 0.95))))
    for seed in plan.seeds:
        for data in plan.data:
            if plan.target:
                folder.write_timing(make_timing(plan, data.name, seed, ms))


def make_timing(plan: Plan, data: str, seed: int, ms: Mapping[str, float], **changes: object) -> Timing:
    assert plan.target
    cells = [c for c in plan.cells if (c.data.name, c.seed, c.purpose) == (data, seed, "test")]
    fields: dict[str, object] = {
        "data": data,
        "seed": seed,
        "target": plan.target,
        "engines": tuple(
            TimedEngine(
                method=cell.method,
                card_sha256=f"{cell.words} card",
                subject=Subject(backend="openvino", precision="int8", threads=2),
                samples_ms=samples(ms[cell.method], seed=seed),
            )
            for cell in cells
        ),
        "runs": 200,
        "background_load": 0.0,
        "unsettled": (),
        "environment": HERE,
        "created": "2026-01-02T03:04:05Z",
    }
    return Timing.model_validate(fields | changes)
