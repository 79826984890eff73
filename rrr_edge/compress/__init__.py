"""VERB 1: photos -> bundle. The recipe's type picks the method; everything around it is the same for all."""

import csv
import io
import platform
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save

from rrr_edge import __version__
from rrr_edge.backends.protocols import Outputs
from rrr_edge.bundle import (
    CALIBRATION,
    MANIFEST,
    MODEL,
    REFERENCE,
    TRAINING_LOG,
    WEIGHTS,
    Bundle,
    Manifest,
    Preprocess,
    Provenance,
    describe_file,
)
from rrr_edge.compress.method import Made, Material, Method, cost_of
from rrr_edge.compress.recycle import RECYCLE
from rrr_edge.compress.transfer import FINE_TUNE, LINEAR_PROBE
from rrr_edge.compress.weights import check_source
from rrr_edge.dataset import Dataset, choose_balanced, scan
from rrr_edge.errors import RRREdgeError, UsageError
from rrr_edge.export import export_onnx, verify_onnx
from rrr_edge.files import replace_folder, write_file, writing_to
from rrr_edge.machine import cpu_info
from rrr_edge.networks import build
from rrr_edge.progress import Report, Step, silent
from rrr_edge.recipe import RRR, FineTune, LinearProbe, Recipe
from rrr_edge.record import Record
from rrr_edge.training import Examples, accuracy, predict
from rrr_edge.training import Run as TrainingRun

METHODS: dict[type[Recipe], Method[Any]] = {RRR: RECYCLE, LinearProbe: LINEAR_PROBE, FineTune: FINE_TUNE}

_FILES = (WEIGHTS, MODEL, REFERENCE, CALIBRATION, TRAINING_LOG)
REFERENCE_IMAGES = 500
CALIBRATION_IMAGES = 300
_RECORDED = ("torch", "torchvision", "onnx", "onnxsim", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Run:
    """How a compression is carried out; none of it decides the result.

    `max_bad` is the share of unreadable images that is skipped; `resume` goes on with an interrupted run of the same
    recipe and photos; `force` replaces an existing bundle or an interrupted run.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_bad: float = 0.01
    resume: bool = False
    force: bool = False


def compress(
    data: str | Path,
    out: str | Path,
    *,
    recipe: Recipe = RRR(),  # noqa: B008  (frozen)
    run: Run = Run(),
    report: Report = silent,
) -> Bundle:
    """Turn a ResNet152 into the network that `recipe` describes, trained on the photos in `data`, as the bundle `out`.

    Until the bundle is whole, everything is in a hidden folder beside it, which an interruption leaves for `resume`.

    Raises UsageError (something is there already), BadInput (photos, weights), GateFailed (the training diverged, or
    the exported graph answers differently), Interrupted.
    """
    out = Path(out)
    check_source(recipe.weights)
    dataset = scan(data, image_size=recipe.image_size, seed=recipe.seed, max_bad=run.max_bad, report=report)
    task = _Task(recipe=recipe, data_sha256=dataset.digest)
    if finished := _finished(out, task, run):
        return finished
    work = _claim(out, task, run)
    preprocess = Preprocess(image_size=recipe.image_size)
    training = TrainingRun(device=run.device, checkpoints=work / "training", resume=run.resume, report=report)
    try:
        examples = Examples(dataset.train.images, dataset.train.labels)
        made = METHODS[type(recipe)].make(recipe, Material(dataset, examples, preprocess, training))
    except RRREdgeError:
        if not (work / "training").exists():
            shutil.rmtree(work, ignore_errors=True)  # nothing was learned that could be resumed
        raise
    _write(work / "bundle", out.stem, dataset, made=made, recipe=recipe, preprocess=preprocess, report=report)
    with writing_to(out):
        replace_folder(work / "bundle", out)
    shutil.rmtree(work, ignore_errors=True)
    return Bundle.open(out)


def plan(
    data: str | Path,
    out: str | Path,
    *,
    recipe: Recipe = RRR(),  # noqa: B008  (frozen)
    run: Run = Run(),
    report: Report = silent,
) -> dict[str, Any]:
    """What `compress` would do, found out without training or writing. Raises as `compress` does before it trains.

    Where a block selection is to find the depths, `network` and `cost` are those that it starts from.
    """
    check_source(recipe.weights)
    dataset = scan(data, image_size=recipe.image_size, seed=recipe.seed, max_bad=run.max_bad, report=report)
    method = METHODS[type(recipe)]
    with torch.device("meta"):
        network = build(method.spec(recipe, len(dataset.labels)))
    method.freeze(recipe, network)
    return {
        "bundle": str(out),
        "photos": _counts(dataset),
        "classes": len(dataset.labels),
        "unreadable": [f"{bad.path}: {bad.reason}" for bad in dataset.bad],
        "duplicates": [f"{train} = {test}" for train, test in dataset.duplicates],
        "network": network.spec.model_dump(),
        "cost": cost_of(network, recipe.image_size).model_dump(),
        "recipe": recipe.model_dump(),
    }


class _Task(Record):
    """What an interrupted run was about: only the same is resumed."""

    recipe: Recipe
    data_sha256: str


def _finished(out: Path, task: _Task, run: Run) -> Bundle | None:
    """The bundle, where the run to be resumed had already ended; refuses to overwrite any other."""
    if not out.exists():
        with writing_to(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        return None
    if run.resume and not run.force:
        bundle = Bundle.open(out)
        if (bundle.manifest.recipe, bundle.manifest.provenance.data_sha256) == (task.recipe, task.data_sha256):
            shutil.rmtree(_work_folder(out), ignore_errors=True)
            return bundle
    if not run.force:
        raise UsageError(f"{out} exists.", advice="Choose another name, or replace it with --force.")
    if not (out / MANIFEST).is_file():
        raise UsageError(f"{out} exists and is no bundle: it is not replaced.", advice="Choose another name.")
    return None


def _claim(out: Path, task: _Task, run: Run) -> Path:
    """The work folder of this task: the interrupted one, or a new one."""
    work = _work_folder(out)
    note = work / "task.json"
    if note.is_file() and run.resume:
        interrupted = _Task.from_json_file(note)
        if interrupted != task:
            what = "photos" if interrupted.recipe == task.recipe else "settings"
            raise UsageError(
                f"The interrupted run in {work} had other {what}.",
                advice=f"Give the same {what} again, or start anew with --force.",
            )
    elif note.is_file() and not run.force:
        raise UsageError(
            f"An interrupted run for {out} is kept in {work}.",
            advice="Go on with --resume, or start anew with --force.",
        )
    else:
        with writing_to(out):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
        write_file(note, task.to_json())
    return work


def _work_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.work")


def _write(
    stage: Path, name: str, dataset: Dataset, *, made: Made, recipe: Recipe, preprocess: Preprocess, report: Report
) -> None:
    """Judge the network on the test photos and write the whole bundle into the folder `stage`."""
    network = made.network.cpu().eval()
    report(Step("evaluate", 0, 1))
    answers = predict(network, dataset.test.images, preprocess=preprocess)
    report(Step("evaluate", 1, 1))
    golden = choose_balanced(dataset.test.labels, REFERENCE_IMAGES, seed=recipe.seed)
    reference = Outputs(*(answer[golden] for answer in answers))
    images, labels = dataset.test.images[golden], dataset.test.labels[golden]
    chosen = choose_balanced(dataset.train.labels, CALIBRATION_IMAGES, seed=recipe.seed)
    with writing_to(stage):
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        # Not save_file: its files are for their owner's eyes only, and a full disk is not an OSError there.
        (stage / WEIGHTS).write_bytes(save({key: tensor.contiguous() for key, tensor in network.state_dict().items()}))
        np.savez_compressed(stage / REFERENCE, images=images, labels=labels, **reference._asdict())
        np.savez_compressed(stage / CALIBRATION, images=dataset.train.images[chosen])
        (stage / TRAINING_LOG).write_text(_log(made))
        for file, text in made.files.items():
            (stage / file).write_text(text)
        report(Step("export", 0, 1))
        export_onnx(network, preprocess, stage / MODEL)
        verification = verify_onnx(stage / MODEL, images, labels, reference)
        report(Step("export", 1, 1))
        manifest = Manifest(
            name=name,
            spec=network.spec,
            labels=dataset.labels,
            preprocess=preprocess,
            recipe=recipe,
            cost=cost_of(network, recipe.image_size),
            accuracy=accuracy(answers.probabilities, dataset.test.labels, dataset.labels),
            provenance=_provenance(dataset, made),
            verification=verification,
            files=tuple(describe_file(stage / file) for file in (*_FILES, *made.files)),
        )
        write_file(stage / MANIFEST, manifest.to_json())


def _provenance(dataset: Dataset, made: Made) -> Provenance:
    notes = list(made.notes)
    if dataset.bad:
        named = "; ".join(f"{bad.path}: {bad.reason}" for bad in dataset.bad[:10])
        notes.append(f"{len(dataset.bad)} unreadable files were skipped: {named}")
    if dataset.duplicates:
        train, test = dataset.duplicates[0]
        notes.append(
            f"{len(dataset.duplicates)} test photos are also training photos (such as {test} = {train}): "
            "the accuracy flatters."
        )
    return Provenance(
        weights=made.weights.name,
        weights_sha256=made.weights.sha256,
        data=dataset.path.resolve().name,
        data_sha256=dataset.digest,
        images=_counts(dataset),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        duration_s=round(made.earlier_s + sum(row.seconds for row in made.trained.history), 1),
        machine=f"{cpu_info()[0]}, trained on {made.trained.device} in {made.trained.precision}",
        versions={"python": platform.python_version(), "rrr-edge": __version__} | {p: version(p) for p in _RECORDED},
        notes=tuple(notes),
    )


def _counts(dataset: Dataset) -> dict[str, int]:
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {name: len(split.files) for name, split in splits.items() if split is not None}


def _log(made: Made) -> str:
    text = io.StringIO()
    rows = [row.model_dump() for row in made.trained.history]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
