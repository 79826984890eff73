"""The whole path on handwritten digits, as a user would walk it with their own photos."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rrr_edge.bundle.commands import command_line, compressing
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.folder import MANIFEST, Bundle
from rrr_edge.bundle.outputs import require_output
from rrr_edge.bundle.profile import Profile
from rrr_edge.bundle.recipe import RRR, Training
from rrr_edge.bundle.target import Precision, Target
from rrr_edge.bundle.verification import shares_of
from rrr_edge.cli.comparison import against_source_network
from rrr_edge.cli.display import Display
from rrr_edge.compile import compile_bundle
from rrr_edge.compress import Run, compress
from rrr_edge.errors import BadInput, CannotRunHere, RRREdgeError, UsageError
from rrr_edge.images.digits import write_digits
from rrr_edge.profile import profile_bundle
from rrr_edge.report import REPORT, write_report
from rrr_edge.report.page import GENERATOR
from rrr_edge.runtime.classifier import Classifier, Prediction
from rrr_edge.timing.machine import usable_cores
from rrr_edge.timing.progress import OnProgress, Step

IMAGE_SIZE = 64
TARGET = "openvino"
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
_CELL, _LINE, _COLUMNS = 128, 16, 8


def run_demo(out: Path, *, epochs: int, force: bool, display: Display) -> None:
    """Write photos, compress, compile, profile, report and predict into the folder `out`; print what came of it.

    An interrupted demo goes on where it stopped. Raises UsageError where `out` is a bundle, or has a finished demo in
    it, or one with other settings, and `force` is not given; and what the verbs raise.
    """
    photos, path, picture, page = (out / name for name in ("digits", "digits.rrr", "predictions.png", REPORT))
    if (out / MANIFEST).exists():
        raise UsageError(f"{out} is a bundle, not a folder for a demo.", advice="Choose another folder with --out.")
    resume = not force and _is_interrupted(photos, picture)
    if any(made.exists() for made in (photos, path)) and not (force or resume):
        raise UsageError(f"{out} has a demo in it.", advice="Choose another folder with --out, or add --force.")
    require_output(page, GENERATOR)
    if resume:
        display.say(f"{out} has an interrupted demo in it, which goes on where it stopped; --force begins anew")
    else:
        for made in (photos, path):
            shutil.rmtree(made, ignore_errors=True)
        picture.unlink(missing_ok=True)
        display.say(f"1/5  writing 1,797 handwritten digits to {photos}")
        write_digits(photos, size=IMAGE_SIZE)
    display.say(f"2/5  compress {photos} -> {path}")
    run = Run(resume=resume, force=not resume)
    with display.progress() as on_progress:
        bundle = _compress(photos, path, epochs, run, display, on_progress)
    display.say(f"3/5  compile for {TARGET}: {', '.join(PRECISIONS)}")
    with display.progress() as on_progress:
        engines = _compile(bundle, display, on_progress)
    display.say(f"4/5  profile the INT8 engine beside ResNet152 -> {page}")
    with display.progress() as on_progress:
        profile = _profile(bundle, on_progress)
    said = write_report([path], page)
    display.say(f"5/5  predict some test photos -> {picture}")
    _predict(bundle, photos, picture)

    display.table("Engines", [_engine_row(engine) for engine in engines])
    display.profile(profile, "One photo, on this machine")
    document: dict[str, Any] = {
        "bundle": str(path),
        "picture": str(picture),
        "report": str(page),
        "verdict": said,
        "profile": str(bundle.profile_folder("openvino-int8")),
    }
    document |= {"engines": {engine.name: engine.verification.accuracy for engine in engines}}
    document |= {"ratios": {ratio.of: ratio.value for ratio in profile.ratios}}
    display.result(
        document,
        f"{said}\n{page} is the page to send around.\n\n"
        "With your own photos, sorted into a folder for each class:\n"
        f"  {' && '.join(_own_photos(Path('mine.rrr')))}",
    )


def _is_interrupted(photos: Path, picture: Path) -> bool:
    """Whether the photos are there, which are written at once, and not the picture, which comes last."""
    return photos.is_dir() and {"train", "test"} == {file.name for file in photos.iterdir()} and not picture.exists()


def _own_photos(bundle: Path) -> tuple[str, ...]:
    return (
        compressing(bundle),
        command_line("compile", bundle, target=TARGET),
        command_line("profile", bundle, target=TARGET),
    )


def _compress(photos: Path, path: Path, epochs: int, run: Run, display: Display, on_progress: OnProgress) -> Bundle:
    """From ImageNet's weights where they can be had, else from random ones, which is said; going on, from those of the
    interrupted run.
    """
    training = Training(epochs=epochs, shared_batches=True, validation_share=0)
    recipe = RRR(image_size=IMAGE_SIZE, training=training)
    begun = run.workdir(path).begun() if run.resume else None
    if begun:
        recipe = recipe.model_copy(update={"weights": begun.weights})
    try:
        bundle = compress(photos, path, recipe=recipe, run=run, on_progress=on_progress)
    except BadInput as error:
        if begun:
            raise
        display.warn(f"{error} The demo goes on with random weights.")
        random = recipe.model_copy(update={"weights": "random"})
        bundle = compress(photos, path, recipe=random, run=run, on_progress=on_progress)
    for note in bundle.manifest.provenance.notes:
        display.say(f"note: {note}")
    return bundle


def _compile(bundle: Bundle, display: Display, on_progress: OnProgress) -> list[Engine]:
    """Those that are not there yet."""
    engines = []
    for precision in PRECISIONS:
        with suppress(RRREdgeError):
            engines.append(bundle.engine(Target.resolve(TARGET, precision)))
            continue
        try:
            engines.append(compile_bundle(bundle, TARGET, precision=precision, on_progress=on_progress))
        except CannotRunHere as error:
            display.warn(f"{precision} is left out. {error}")
    return engines


def _profile(bundle: Bundle, on_progress: OnProgress) -> Profile:
    """That of an interrupted demo, where it came so far."""
    with suppress(RRREdgeError):
        return Profile.read(bundle.profile_folder("openvino-int8"))
    on_progress(Step("baseline", 0, 1, "ResNet152 is built and exported"))
    baselines = against_source_network(bundle, threads=usable_cores())
    on_progress(Step("baseline", 1, 1))
    return profile_bundle(bundle, TARGET, baselines=baselines, on_progress=on_progress)


def _predict(bundle: Bundle, photos: Path, picture: Path) -> None:
    """A grid of test photos, three of each class, with what the INT8 engine answers; wrong answers are red."""
    files = [file for label in bundle.manifest.labels for file in sorted((photos / "test" / label).iterdir())[:3]]
    files += [file for file in sorted((photos / "test").glob("*/*")) if file not in files][: -len(files) % _COLUMNS]
    with Classifier.open(bundle.path, TARGET, precision="int8") as classifier:
        cells = [_cell(file, classifier.predict(file)) for file in files]
    rows = [np.hstack(cells[start : start + _COLUMNS]) for start in range(0, len(cells), _COLUMNS)]
    Image.fromarray(np.vstack(rows)).save(picture)


def _cell(file: Path, answer: Prediction) -> np.ndarray:
    cell = Image.new("RGB", (_CELL + 8, _CELL + 2 * _LINE + 12), "white")
    with Image.open(file) as photo:
        cell.paste(photo.convert("RGB").resize((_CELL, _CELL)), (4, 4))
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(13)
    right = answer.label == file.parent.name
    verdict = answer.label if right else f"{answer.label}, not {file.parent.name}"
    draw.text((6, _CELL + 6), f"{verdict}   {answer.probability:.1%}", "black" if right else "firebrick", font)
    draw.text((6, _CELL + 6 + _LINE), f"uncertainty {answer.uncertainty:.2f}", "dimgray", font)
    return np.asarray(cell)


def _engine_row(engine: Engine) -> dict[str, str]:
    proof = engine.verification
    return {
        "engine": engine.name,
        "MB": f"{engine.bytes / 1e6:.1f}",
        "MACs run in": shares_of(engine.precision_found, digits=0),
        "accuracy": f"{proof.accuracy:.2%}",
        "PyTorch's": f"{proof.accuracy_reference:.2%}",
        "top-1 alike": proof.agreement_words,
        "test photos": str(proof.images),
    }
