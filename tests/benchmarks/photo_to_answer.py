"""A 1280x720 JPEG to its answer, decoded in full and reduced: times in turns, and accuracy, as JSON.

    python tests/benchmarks/photo_to_answer.py [BUNDLE] [--runs 300] [--threads N]
    python tests/benchmarks/photo_to_answer.py --accuracy digits|letters [--seeds 3] [--epochs 15]

Without a BUNDLE one is made for the times (letters, 128x128, one epoch, INT8). For the accuracy, photos of 1280x720
pixels are made of scikit-learn's digits or of the study's letters, with a camera's noise, as JPEG files; networks of
64x64 pixels learn from them decoded in full and reduced, and each is tested as it learned. The difference is paired by
photo, and its interval is over all seeds' photos.
"""

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
from headline import draw_letters
from PIL import Image

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.measurements import Measurement, Subject, ratio
from rrr_edge.bundle.recipe import RRR, Recipe, Training
from rrr_edge.compile import compile_bundle
from rrr_edge.compress import compress
from rrr_edge.images.digits import write_digits
from rrr_edge.profile.frames import JPEG_QUALITY, frames_of
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.interleave import TimingSettings, interleave
from rrr_edge.timing.machine import cpu_info, usable_cores

STUDY = Path(__file__).parents[2] / "examples" / "study"
Decoding = Literal["full", "reduced"]
DECODINGS: tuple[Decoding, ...] = ("full", "reduced")
WIDTH, HEIGHT = 1280, 720
TRAIN, TEST = 40, 30


def as_photo(picture: Image.Image, rng: np.random.Generator) -> bytes:
    """`picture` as high as the frame in its middle, with noise everywhere."""
    frame = Image.new("RGB", (WIDTH, HEIGHT), (40, 40, 40))
    frame.paste(picture.convert("RGB").resize((HEIGHT, HEIGHT), Image.Resampling.BICUBIC), ((WIDTH - HEIGHT) // 2, 0))
    pixels = np.asarray(frame, np.int16) + rng.normal(0, 6, (HEIGHT, WIDTH, 1)).astype(np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_bundle(work: Path) -> Bundle:
    """As large as any, and hardly taught: its times are all that matters."""
    draw_letters(work / "letters", train=4, test=2)
    recipe = RRR(weights="random", training=Training(epochs=1, shared_batches=True))
    bundle = compress(work / "letters", work / "letters.rrr", recipe=recipe)
    compile_bundle(bundle, "openvino", precision="int8", limits=Limits(max_drop=1))
    return bundle


def time_them(bundle: Bundle, runs: int, threads: int) -> dict[str, Any]:
    """The photos are those of `rrr-edge profile`: reference images as JPEGs of a camera's size."""
    photos = []
    for frame in frames_of(bundle.reference.images[:16]):
        file = io.BytesIO()
        frame.save(file, "JPEG", quality=JPEG_QUALITY)
        photos.append(file.getvalue())
    preprocess = bundle.manifest.preprocess
    candidates: dict[str, Callable[[int], Any]] = {}
    with Classifier.open(bundle.path, threads=threads) as classifier:
        for decoding in DECODINGS:
            own = {"preprocess": preprocess.model_copy(update={"decoding": decoding})}
            one = Classifier(classifier.session, bundle.manifest.model_copy(update=own))
            candidates[f"answer, {decoding}"] = lambda r, one=one: one.predict(photos[r % 16])
            candidates[f"input, {decoding}"] = lambda r, one=one: one.preprocess(photos[r % 16])
        found = interleave(candidates, timing=TimingSettings(runs=runs))
    about = Subject(backend="openvino", precision="int8", threads=threads)
    timed = {
        name: Measurement(name=name, subject=about, samples_ms=samples) for name, samples in found.samples_ms.items()
    }
    return {
        "engine": classifier.engine_name,
        "image_size": preprocess.image_size,
        "photo_kb": round(sum(map(len, photos)) / 16e3),
        "cpu": cpu_info()[0],
        "threads": threads,
        "median_ms": {name: m.summary.median_ms for name, m in timed.items()},
        "reduced_to_full": {
            what: ratio(timed[f"{what}, reduced"], timed[f"{what}, full"]).model_dump() for what in ("answer", "input")
        },
    }


def write_photos(task: str, folder: Path) -> None:
    """train/CLASS and test/CLASS."""
    rng = np.random.default_rng(0)
    for split, label, number, picture in pictures_of(task, folder.with_name("small")):
        path = folder / split / label / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_photo(picture, rng))


def pictures_of(task: str, work: Path) -> Iterator[tuple[str, str, int, Image.Image]]:
    """Split, class, number and picture."""
    counts: dict[Literal["train", "test"], int] = {"train": TRAIN, "test": TEST}
    if task == "digits":
        write_digits(work)
        for split, count in counts.items():
            for label in sorted((work / split).iterdir()):
                for number, file in enumerate(sorted(label.iterdir())[:count]):
                    with Image.open(file) as picture:
                        yield split, label.name, number, picture
        return
    sys.path.insert(0, str(STUDY))
    import domains

    for split, count in counts.items():
        examples = domains.draw_examples(task, split, count, spoiling=domains.CLEAR)
        for place, image in enumerate(examples.images):
            label, number = divmod(place, count)
            yield split, f"{label:02}", number, Image.fromarray(image)


def learn(photos: Path, out: Path, decoding: Decoding, *, epochs: int, seed: int) -> tuple[float, list[bool]]:
    """The accuracy on the test photos, as `compress` finds it, and which photos were right."""

    def of(cls: type[Preprocess], recipe: Recipe) -> Preprocess:
        return cls(image_size=recipe.image_size, fit=recipe.fit, decoding=decoding)

    training = Training(epochs=epochs, shared_batches=True, augment=False)
    recipe = RRR(weights="random", image_size=64, seed=seed, training=training)
    with patch.object(Preprocess, "of", classmethod(of)):
        bundle = compress(photos, out, recipe=recipe)
    assert bundle.manifest.preprocess.decoding == decoding
    assert bundle.manifest.accuracy
    compile_bundle(bundle, "openvino", precision="fp32")
    with Classifier.open(bundle.path, precision="fp32") as classifier:
        files = sorted((photos / "test").glob("*/*"))
        right = [classifier.predict(file).label == file.parent.name for file in files]
    return bundle.manifest.accuracy.accuracy, right


def accuracies(task: str, seeds: int, epochs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as work:
        photos = Path(work) / "photos"
        write_photos(task, photos)
        found: dict[Decoding, list[bool]] = {"full": [], "reduced": []}
        by_seed = []
        for seed in range(seeds):
            row = {}
            for decoding in DECODINGS:
                accuracy, right = learn(
                    photos, Path(work) / f"{decoding}{seed}.rrr", decoding, epochs=epochs, seed=seed
                )
                found[decoding] += right
                row[decoding] = accuracy
            by_seed.append(row)
            print(row, file=sys.stderr, flush=True)
    difference = np.array(found["reduced"], float) - np.array(found["full"], float)
    half = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    return {
        "task": task,
        "photos": len(difference),
        "by_seed": by_seed,
        "accuracy": {decoding: float(np.mean(right)) for decoding, right in found.items()},
        "reduced_minus_full": float(difference.mean()),
        "interval": [float(difference.mean() - half), float(difference.mean() + half)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--accuracy", choices=("digits", "letters", "textures", "shapes"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=usable_cores())
    asked = parser.parse_args()
    if asked.accuracy:
        result = accuracies(asked.accuracy, asked.seeds, asked.epochs)
        print(json.dumps(result, indent=2))
        return
    with tempfile.TemporaryDirectory() as work:
        bundle = Bundle.open(asked.bundle) if asked.bundle else make_bundle(Path(work))
        result = time_them(bundle, asked.runs, asked.threads)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
