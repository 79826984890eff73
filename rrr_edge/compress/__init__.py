"""VERB 1: photos -> bundle. The recipe's type picks the method; everything around it is the same for all."""

import csv
import io
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
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
from rrr_edge.compress.place import Place, Task
from rrr_edge.compress.prune import BLOCK, CHANNEL, ELEMENT
from rrr_edge.compress.recycle import RECYCLE
from rrr_edge.compress.transfer import FINE_TUNE, LINEAR_PROBE
from rrr_edge.compress.weights import check_download, check_source
from rrr_edge.dataset import Dataset, choose_balanced, require_folder, scan
from rrr_edge.errors import MissingLibrary
from rrr_edge.export import export_onnx, verify_onnx
from rrr_edge.files import replace_folder, write_file, writing_to
from rrr_edge.machine import cpu_info
from rrr_edge.networks import Network, build
from rrr_edge.progress import Report, Step, silent
from rrr_edge.recipe import RRR, Block, Channel, Element, FineTune, LinearProbe, Recipe
from rrr_edge.target import Precision
from rrr_edge.training import Device, Examples, accuracy, check_device, check_training, predict
from rrr_edge.training import Run as TrainingRun
from rrr_edge.training.loop import open_fabric
from rrr_edge.training.share import first_does
from rrr_edge.verification import MAX_DROP, chance, coarse

METHODS: dict[type[Recipe], Method[Any]] = {
    RRR: RECYCLE,
    LinearProbe: LINEAR_PROBE,
    FineTune: FINE_TUNE,
    Element: ELEMENT,
    Channel: CHANNEL,
    Block: BLOCK,
}

_FILES = (WEIGHTS, MODEL, REFERENCE, CALIBRATION, TRAINING_LOG)
REFERENCE_IMAGES = 500
CALIBRATION_IMAGES = 300
# Of the precisions that the bundle may be compiled for.
_STRICTEST: Precision = "bf16"
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

    def place(self, out: str | Path) -> Place:
        return Place(Path(out), resume=self.resume, force=self.force)


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
    Where torchrun started several processes, the first one writes, and all train.

    Photos in val/ are judged now and then while the training goes on; they decide nothing.

    Raises UsageError (something is there already, settings that contradict each other), BadInput (photos, weights),
    MissingLibrary, CannotRunHere, GateFailed (the training diverged, or the exported graph answers differently),
    Interrupted.
    """
    place = run.place(out)
    fabric = open_fabric(TrainingRun(device=run.device))
    first_does(fabric, place.check)
    recipe, dataset, _ = _prepare(data, recipe=recipe, run=run, report=report)
    task = Task(recipe=recipe, data_sha256=dataset.digest)
    training = TrainingRun(
        device=run.device,
        checkpoints=place.training,
        resume=run.resume,
        validation=Examples(dataset.val.images, dataset.val.labels) if dataset.val else None,
        report=report,
    )
    with ExitStack() as until_end:
        if first_does(fabric, lambda: place.claim(task, until_end)):
            examples = Examples(dataset.train.images, dataset.train.labels)
            material = Material(dataset, examples, Preprocess(image_size=recipe.image_size), training)
            made = METHODS[type(recipe)].make(recipe, material)
            first_does(fabric, lambda: _write(place, dataset, made=made, recipe=recipe, report=report))
    return Bundle.open(place.out)


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
    place = run.place(out)
    place.check()
    recipe, dataset, network = _prepare(data, recipe=recipe, run=run, report=report)
    place.check_task(Task(recipe=recipe, data_sha256=dataset.digest))
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


def _prepare(data: str | Path, *, recipe: Recipe, run: Run, report: Report) -> _Prepared:
    """All that can be refused is refused here, what does not need the photos before they are read."""
    _check_libraries()
    check_device(run.device)
    check_source(recipe.weights)
    method = METHODS[type(recipe)]
    recipe = method.resolve(recipe)
    require_folder(Path(data))
    check_download(recipe.weights)
    dataset = scan(data, image_size=recipe.image_size, seed=recipe.seed, max_bad=run.max_bad, report=report)
    if run.after_scan:
        run.after_scan(dataset)
    with torch.device("meta"):
        network = build(method.spec(recipe, len(dataset.labels)))
    method.freeze(recipe, network)
    check_training(network, method.training(recipe), images=len(dataset.train.labels))
    return _Prepared(recipe, dataset, network)


def _check_libraries() -> None:
    for name in _EXPORT:
        try:
            import_module(name)
        except ImportError as error:
            raise MissingLibrary(error.name or name, extra="compress", purpose="Exporting to ONNX") from error


def _write(place: Place, dataset: Dataset, *, made: Made, recipe: Recipe, report: Report) -> None:
    """Judge the network on the test photos and write the whole bundle, which appears in one step."""
    stage, preprocess = place.stage, Preprocess(image_size=recipe.image_size)
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
        judged = accuracy(answers.probabilities, dataset.test.labels, dataset.labels)
        doubts = [chance(judged, len(dataset.labels)), coarse(len(images), _STRICTEST, MAX_DROP)]
        manifest = Manifest(
            name=place.out.stem,
            spec=network.spec,
            labels=dataset.labels,
            preprocess=preprocess,
            recipe=recipe,
            cost=cost_of(network, recipe.image_size),
            accuracy=judged,
            provenance=_provenance(dataset, made, doubts),
            verification=verification,
            files=tuple(describe_file(stage / file) for file in (*_FILES, *made.files)),
        )
        write_file(stage / MANIFEST, manifest.to_json())
    with writing_to(place.out):
        replace_folder(stage, place.out)
    shutil.rmtree(place.work, ignore_errors=True)


def _provenance(dataset: Dataset, made: Made, doubts: Sequence[str]) -> Provenance:
    notes = [*made.notes, *filter(None, doubts)]
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
