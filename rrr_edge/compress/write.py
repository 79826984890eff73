"""The writer of a bundle: network, reference images, manifest and provenance."""

import csv
import io
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save

from rrr_edge import __version__
from rrr_edge.bundle.evaluation import judge
from rrr_edge.bundle.files import describe_file, replace_folder, write_file, writing_to
from rrr_edge.bundle.folder import CALIBRATION, MANIFEST, MODEL, REFERENCE, REFERENCE_NETWORK, TRAINING_LOG, WEIGHTS
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.manifest import Manifest, Preprocess, Provenance
from rrr_edge.bundle.recipe import Recipe
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.reference_network import ReferenceNetwork, images_sha256
from rrr_edge.bundle.target import Precision
from rrr_edge.bundle.verification import few_images_warning, guessing_warning
from rrr_edge.compress.method import CompressedNetwork
from rrr_edge.compress.validation import note_of
from rrr_edge.compress.workdir import Workdir
from rrr_edge.errors import counted
from rrr_edge.images.dataset import Dataset, choose_balanced
from rrr_edge.images.names import shown
from rrr_edge.networks.export import export_onnx, verify_onnx
from rrr_edge.timing.machine import cpu_info
from rrr_edge.timing.progress import OnProgress, Step
from rrr_edge.training import predict
from rrr_edge.training.overfitting import fitting_words

_FILES = (WEIGHTS, MODEL, REFERENCE, CALIBRATION, TRAINING_LOG)
REFERENCE_IMAGES = 500
BUNDLE_CALIBRATION_IMAGES = 300
# Of the precisions that the bundle may be compiled for: a warning about few test photos is about this one.
_STRICTEST: Precision = "bf16"
_RECORDED = ("torch", "torchvision", "onnx", "onnxsim", "onnxruntime", "numpy", "pillow")


def write_bundle(
    workdir: Workdir,
    dataset: Dataset,
    *,
    made: CompressedNetwork,
    recipe: Recipe,
    own: ReferenceNetwork | None,
    on_progress: OnProgress,
) -> None:
    """Judge the network on the test photos and write the whole bundle, which appears in one step.

    `own` is the user's own network as it answered the test photos of `reference_rows`.
    """
    stage, preprocess = workdir.stage, Preprocess.of(recipe)
    network = made.network.cpu().eval()
    on_progress(Step("evaluate", 0, 1))
    answers = predict(network, dataset.test.images, preprocess=preprocess)
    on_progress(Step("evaluate", 1, 1))
    golden = reference_rows(dataset, recipe)
    reference = Outputs(*(answer[golden] for answer in answers))
    images, labels = dataset.test.images[golden], dataset.test.labels[golden]
    chosen = choose_balanced(dataset.train.labels, BUNDLE_CALIBRATION_IMAGES, seed=recipe.seed)
    with writing_to(stage):
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        # Not save_file: its files are for their owner's eyes only, and a full disk is not an OSError there.
        (stage / WEIGHTS).write_bytes(save({key: tensor.contiguous() for key, tensor in network.state_dict().items()}))
        files = np.array([shown(dataset.test.files[row]) for row in golden])
        np.savez_compressed(stage / REFERENCE, images=images, labels=labels, files=files, **reference._asdict())
        np.savez_compressed(stage / CALIBRATION, images=dataset.train.images[chosen])
        (stage / TRAINING_LOG).write_text(_log(made))
        for file, text in made.files.items():
            (stage / file).write_text(text)
        on_progress(Step("export", 0, 1))
        export_onnx(network, preprocess, stage / MODEL)
        verification = verify_onnx(stage / MODEL, images, labels, reference)
        on_progress(Step("export", 1, 1))
        judged = judge(answers.probabilities, dataset.test.labels, dataset.labels)
        doubts = [guessing_warning(judged, len(dataset.labels)), few_images_warning(len(images), _STRICTEST, Limits())]
        manifest = Manifest(
            name=workdir.out.stem,
            spec=network.spec,
            labels=dataset.labels,
            preprocess=preprocess,
            recipe=recipe,
            cost=made.cost(recipe.image_size),
            accuracy=judged,
            provenance=_provenance(dataset, made, recipe, doubts),
            verification=verification,
            files=tuple(describe_file(stage / file) for file in (*_FILES, *made.files)),
            parent=made.chain[-1].name if made.chain else None,
            chain=made.chain,
        )
        write_file(stage / MANIFEST, manifest.to_json())
        if own is not None:
            whole = own.model_copy(update={"images_sha256": images_sha256(manifest)})
            write_file(stage / REFERENCE_NETWORK, whole.to_json())
    with writing_to(workdir.out):
        replace_folder(stage, workdir.out)
    shutil.rmtree(workdir.work, ignore_errors=True)


def reference_rows(dataset: Dataset, recipe: Recipe) -> NDArray[np.int64]:
    """Which of the test photos the bundle holds, as reference images."""
    return choose_balanced(dataset.test.labels, REFERENCE_IMAGES, seed=recipe.seed)


def _provenance(dataset: Dataset, made: CompressedNetwork, recipe: Recipe, doubts: Sequence[str]) -> Provenance:
    photos = len(dataset.val.labels) if dataset.val else 0
    fitting = fitting_words(made.trained.history, recipe.training, photos)
    notes = [*filter(None, [made.weights.found, *made.notes, note_of(dataset), fitting, *doubts, *dataset.remarks])]
    if dataset.bad:
        named = "; ".join(f"{bad.path}: {bad.reason}" for bad in dataset.bad[:10])
        notes.append(f"{counted(len(dataset.bad), 'unreadable file')} skipped: {named}")
    if dataset.duplicates:
        train, test = dataset.duplicates[0]
        notes.append(
            f"{counted(len(dataset.duplicates), 'test photo')} also among the training photos (such as {test} = "
            f"{train}): the accuracy flatters."
        )
    return Provenance(
        weights=made.weights.name,
        weights_sha256=made.weights.sha256,
        data=shown(dataset.path.resolve().name),
        data_sha256=dataset.digest,
        images=image_counts(dataset),
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


def image_counts(dataset: Dataset) -> dict[str, int]:
    return {split: sum(classes.values()) for split, classes in dataset.counts.items()}


def _log(made: CompressedNetwork) -> str:
    text = io.StringIO()
    rows = [row.model_dump() for row in made.trained.history]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
