"""The headline: RRR-Net as an INT8 engine beside the ResNet152 that it came from, and the cost of embedding it.

Draws 20 letters in the fonts that matplotlib carries (128x128), compresses, compiles and profiles, all in one run:

    python tests/benchmarks/headline.py [--work FOLDER] [--epochs 25] [--runs 300] [--json]

Checks: how much faster the INT8 engine is than ResNet152 in PyTorch and as an INT8 engine; what `Classifier.predict`
adds for a ready frame and for one of 1280x720; that torch, ONNX Runtime and every engine agree on all test images;
that OpenVINO's own benchmark_app finds the same time.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.recipe import RRR, Training
from rrr_edge.cli.comparison import against_source_network
from rrr_edge.compile import compile_bundle
from rrr_edge.compress import compress
from rrr_edge.errors import CannotRunHere
from rrr_edge.profile import profile_bundle
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.interleave import TimingSettings, interleave
from rrr_edge.timing.machine import usable_cores

LETTERS = "ABDEFGHJKLMNPQRSTUWZ"
SIZE = 128


def draw_letters(folder: Path, *, train: int = 20, test: int = 20, seed: int = 0) -> None:
    """train/LETTER and test/LETTER: bright letters, shifted and turned, on noisy dark ground."""
    from matplotlib import font_manager
    from PIL import ImageDraw, ImageFont

    fonts = sorted(
        {f.fname for f in font_manager.fontManager.ttflist if Path(f.fname).name.startswith(("DejaVu", "STIXGeneral"))}
    )
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for letter in LETTERS:
            (folder / split / letter).mkdir(parents=True)
            for number in range(count):
                font = ImageFont.truetype(str(rng.choice(fonts)), int(rng.integers(60, 96)))
                picture = Image.new("L", (SIZE, SIZE))
                ImageDraw.Draw(picture).text(tuple(rng.integers(56, 72, 2)), letter, 255, font, anchor="mm")
                picture = picture.rotate(float(rng.uniform(-15, 15)))
                light = rng.integers(90, 196, 3) * (np.asarray(picture)[..., None] / 255)
                pixels = rng.integers(0, 60, (SIZE, SIZE, 3)) + light
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / letter / f"{number}.png")


def make_bundle(work: Path, epochs: int) -> Bundle:
    path = work / "letters.rrr"
    if path.exists():
        return Bundle.open(path)
    if not (work / "letters").exists():
        draw_letters(work / "letters")
    return compress(work / "letters", path, recipe=RRR(weights="random", training=Training(epochs=epochs)))


def embedding_cost(bundle: Bundle, runs: int) -> dict[str, float]:
    """Medians, ms, interleaved: the raw engine call, and `predict` of a ready frame and of a 1280x720 frame."""
    frames = bundle.reference.images
    large = [np.asarray(Image.fromarray(frame).resize((1280, 720))) for frame in frames[:16]]
    with Classifier.open(bundle.path, "openvino", precision="int8") as classifier:
        found = interleave(
            {
                "engine": lambda r: classifier.session.run(frames[(i := r % len(frames)) : i + 1]),
                "ready frame": lambda r: classifier.predict(frames[r % len(frames)]),
                "1280x720 frame": lambda r: classifier.predict(large[r % len(large)]),
            },
            timing=TimingSettings(runs=runs),
        )
    return {name: float(np.median(samples)) for name, samples in found.samples_ms.items()}


def benchmark_app_ms(bundle: Bundle) -> float:
    """The median latency, ms, that OpenVINO's own tool finds for the INT8 engine."""
    model = bundle.engine_folder("openvino-int8") / "model.xml"
    command = [str(Path(sys.executable).with_name("benchmark_app")), "-m", str(model), "-d", "CPU", "-api", "sync"]
    command += [
        "-hint",
        "none",
        "-nstreams",
        "1",
        "-nthreads",
        str(usable_cores()),
        "-infer_precision",
        "f32",
        "-t",
        "10",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Median:\s*([\d.]+) (ms|us)", said)
    assert found, said
    return float(found[1]) / (1000 if found[2] == "us" else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(exist_ok=True)
        result = run(make_bundle(work, options.epochs), options.runs)
    print(json.dumps(result, indent=2))


def run(bundle: Bundle, runs: int) -> dict[str, Any]:
    agreement = {"onnxruntime on model.onnx": bundle.manifest.verification.model_dump()}
    for target, precision in (
        ("openvino", "fp32"),
        ("openvino", "bf16"),
        ("openvino", "int8"),
        ("onnxruntime", "fp32"),
    ):
        try:
            engine = compile_bundle(bundle, target, precision=precision)  # type: ignore[arg-type]
        except CannotRunHere as error:
            agreement[f"{target} {precision}"] = {"left out": str(error)}
            continue
        agreement[f"{target} {precision}"] = {**engine.verification.model_dump(), "macs": engine.precision_found}
    against = against_source_network(bundle, threads=usable_cores())
    profile = profile_bundle(bundle, "openvino", baselines=against, timing=TimingSettings(runs=runs))
    cost = embedding_cost(bundle, runs)
    theirs = benchmark_app_ms(bundle)
    return {
        "environment": profile.environment.model_dump(),
        "times, ms": {m.name: [round(m.summary.median_ms, 4), m.summary.unstable] for m in profile.measurements},
        "times slower than the INT8 engine": {r.of: [round(r.value, 2), *r.interval] for r in profile.ratios},
        "embedding, ms": cost,
        "ready frame adds, ms": cost["ready frame"] - cost["engine"],
        "1280x720 frame / engine": cost["1280x720 frame"] / cost["engine"],
        "benchmark_app median, ms": theirs,
        "benchmark_app / profile": theirs / profile.engine.summary.median_ms,
        "test accuracy": bundle.manifest.accuracy.accuracy if bundle.manifest.accuracy else None,
        "agreement": agreement,
    }


if __name__ == "__main__":
    main()
