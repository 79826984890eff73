"""VERB 1: photos -> bundle. The recipe's type picks the method; everything around it is the same for all."""

import csv
import io
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

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
from rrr_edge.compress.prune import BLOCK, CHANNEL, ELEMENT
from rrr_edge.compress.recycle import RECYCLE
from rrr_edge.compress.transfer import FINE_TUNE, LINEAR_PROBE
from rrr_edge.compress.weights import check_source
from rrr_edge.dataset import Dataset, choose_balanced, scan
from rrr_edge.errors import MissingLibrary, RRREdgeError, UsageError
from rrr_edge.export import export_onnx, verify_onnx
from rrr_edge.files import replace_folder, write_file, writing_to
from rrr_edge.machine import cpu_info
from rrr_edge.networks import Network, build
from rrr_edge.progress import Report, Step, silent
from rrr_edge.recipe import RRR, Block, Channel, Element, FineTune, LinearProbe, Recipe
from rrr_edge.record import Record
from rrr_edge.training import Device, Examples, accuracy, check_device, check_training, predict
from rrr_edge.training import Run as TrainingRun

METHODS: dict[type[Recipe], Method[Any]] = {
    RRR: RECYCLE,
    LinearProbe: LINEAR_PROBE,
    FineTune: FINE_TUNE,
    Element: ELEMENT,
    Channel: CHANNEL,
    Block: BLOCK,
}

_ANOTHER = "Choose another name, or replace it with --force."
_FILES = (WEIGHTS, MODEL, REFERENCE, CALIBRATION, TRAINING_LOG)
REFERENCE_IMAGES = 500
CALIBRATION_IMAGES = 300
# What is needed once the training is over.
_EXPORT = ("onnx", "onnxscript", "onnxsim", "onnxruntime")
_RECORDED = ("torch", "torchvision", "onnx", "onnxsim", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Run:
    """How a compression is carried out; none of it decides the result.

    `max_bad` is the share of unreadable images that is skipped; `resume` goes on with an interrupted run of the same
    recipe and photos; `force` replaces an existing bundle or an interrupted run. `after_scan` is told what was found in
    the photos, before anything is trained.
    """

    device: Device = "auto"
    max_bad: float = 0.01
    resume: bool = False
    force: bool = False
    after_scan: Callable[[Dataset], None] | None = None


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

    Photos in val/ are judged now and then while the training goes on; they decide nothing.

    Raises UsageError (something is there already, settings that contradict each other), BadInput (photos, weights),
    MissingLibrary, CannotRunHere, GateFailed (the training diverged, or the exported graph answers differently),
    Interrupted.
    """
    out = Path(out)
    recipe, dataset, _ = _prepare(data, out, recipe=recipe, run=run, report=report)
    task = _Task(recipe=recipe, data_sha256=dataset.digest)
    if finished := _finished(out, task, run):
        return finished
    work = _claim(out, task, run)
    preprocess = Preprocess(image_size=recipe.image_size)
    training = TrainingRun(
        device=run.device,
        checkpoints=work / "training",
        resume=run.resume,
        validation=Examples(dataset.val.images, dataset.val.labels) if dataset.val else None,
        report=report,
    )
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
    recipe, dataset, network = _prepare(data, Path(out), recipe=recipe, run=run, report=report)
    _check_task(Path(out), _Task(recipe=recipe, data_sha256=dataset.digest), run)
    return {
        "bundle": str(out),
        "photos": _counts(dataset),
        "classes": len(dataset.labels),
        "photos_per_class": dataset.counts,
        "unreadable": [f"{bad.path}: {bad.reason}" for bad in dataset.bad],
        "duplicates": [f"{train} = {test}" for train, test in dataset.duplicates],
        "network": network.spec.model_dump(),
        "cost": cost_of(network, recipe.image_size).model_dump(),
        "recipe": recipe.model_dump(),
    }


class _Prepared(NamedTuple):
    """The resolved recipe, the photos, and the network as it will learn, on no device."""

    recipe: Recipe
    dataset: Dataset
    network: Network


def _prepare(data: str | Path, out: Path, *, recipe: Recipe, run: Run, report: Report) -> _Prepared:
    """All that can be refused is refused here, what does not need the photos before they are read."""
    _check_libraries()
    check_device(run.device)
    check_source(recipe.weights)
    method = METHODS[type(recipe)]
    recipe = method.resolve(recipe)
    _check_place(out, run)
    dataset = scan(data, image_size=recipe.image_size, seed=recipe.seed, max_bad=run.max_bad, report=report)
    if run.after_scan:
        run.after_scan(dataset)
    with torch.device("meta"):
        network = build(method.spec(recipe, len(dataset.labels)))
    method.freeze(recipe, network)
    check_training(network, recipe.training)
    return _Prepared(recipe, dataset, network)


def _check_libraries() -> None:
    for name in _EXPORT:
        try:
            import_module(name)
        except ImportError as error:
            raise MissingLibrary(error.name or name, extra="compress", purpose="Exporting to ONNX") from error


class _Task(Record):
    """What an interrupted run was about: only the same is resumed."""

    recipe: Recipe
    data_sha256: str


def _check_place(out: Path, run: Run) -> None:
    """Refuse to overwrite a bundle, anything else, or an interrupted run."""
    if out.exists():
        if not (run.force or run.resume):
            raise UsageError(f"{out} exists.", advice=_ANOTHER)
        if not (out / MANIFEST).is_file():
            raise UsageError(f"{out} exists and is no bundle: it is not replaced.", advice="Choose another name.")
    elif _note(out).is_file() and not (run.force or run.resume):
        raise UsageError(
            f"An interrupted run for {out} is kept in {_work_folder(out)}.",
            advice="Go on with --resume, or start anew with --force.",
        )


def _check_task(out: Path, task: _Task, run: Run) -> None:
    """Refuse to go on with another task than the one that was begun, or finished, at this place."""
    if not run.resume:
        return
    if out.exists() and not run.force:
        manifest = Bundle.open(out).manifest
        if _Task(recipe=manifest.recipe, data_sha256=manifest.provenance.data_sha256) != task:
            raise UsageError(f"{out} exists.", advice=_ANOTHER)
    elif _note(out).is_file():
        interrupted = _Task.from_json_file(_note(out))
        if interrupted != task:
            what = "photos" if interrupted.recipe == task.recipe else "settings"
            raise UsageError(
                f"The interrupted run in {_work_folder(out)} had other {what}.",
                advice=f"Give the same {what} again, or start anew with --force.",
            )


def _finished(out: Path, task: _Task, run: Run) -> Bundle | None:
    """The bundle, where the run to be resumed had already ended."""
    _check_task(out, task, run)
    if run.force or not out.exists():
        return None
    shutil.rmtree(_work_folder(out), ignore_errors=True)
    return Bundle.open(out)


def _claim(out: Path, task: _Task, run: Run) -> Path:
    """The work folder of this task: the interrupted one, or a new one."""
    work = _work_folder(out)
    if not (run.resume and _note(out).is_file()):
        with writing_to(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
        write_file(_note(out), task.to_json())
    return work


def _work_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.work")


def _note(out: Path) -> Path:
    """What an interrupted run was about."""
    return _work_folder(out) / "task.json"


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
        versions={"python": platform.python_version(), "rrr-edge": __version__} | {p: _version(p) for p in _RECORDED},
        notes=tuple(notes),
    )


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # installed under another name, such as onnxruntime-gpu, or not by pip
        return str(getattr(sys.modules.get(library), "__version__", "unknown"))


def _counts(dataset: Dataset) -> dict[str, int]:
    return {split: sum(classes.values()) for split, classes in dataset.counts.items()}


def _log(made: Made) -> str:
    text = io.StringIO()
    rows = [row.model_dump() for row in made.trained.history]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
