"""Networks that users would take instead, beside RRR-Net: answers, sizes and times of verified engines on one task.

    python tests/benchmarks/rivals.py [--size 64] [--epochs 6] [--photos 800] [--networks rrr,mobilenet_v2,...]
                                      [--engines fp32,bf16,int8] [--prepare fp16,int8] [--runs 100] [--threads N]
                                      [--search-minutes 10] [--out FOLDER]

The task are the handwritten digits in scikit-learn, learned from random weights, in so few epochs that the accuracies
say little of what ImageNet's weights and one's own photos would give: they are there to judge the engines by. Bundles
and engines in FOLDER are not made again. OpenVINO's engines of one precision take turns in one process; `--prepare`
makes and verifies the graphs that TensorRT builds from, too. What is refused is printed with the reason. Prints a
table and the environment.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
from tailored_tasks import shown

from rrr_edge import Bundle, Classifier
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.measurements import Measurement, ratio
from rrr_edge.bundle.recipe import RRR, FineTune, Recipe, Training
from rrr_edge.bundle.sources import CLASSIFIERS, AnyBackbone, name_of
from rrr_edge.bundle.target import Target
from rrr_edge.compile import compile_bundle, prepare_bundle
from rrr_edge.compress import Run, compress
from rrr_edge.errors import RRREdgeError
from rrr_edge.images.digits import write_digits
from rrr_edge.profile.onnx_baselines import running, shuffled_images
from rrr_edge.timing import machine
from rrr_edge.timing.interleave import TimingSettings, interleave

OURS = "rrr"
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--photos", type=int, default=800, help="for training; the test has all 359")
    parser.add_argument("--networks", default=",".join((OURS, "resnet18", "resnet50", *CLASSIFIERS)))
    parser.add_argument("--engines", default="fp32,bf16,int8")
    parser.add_argument("--prepare", default="")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--search-minutes", type=float, default=10, help="for repairs of an engine that misses a limit")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--out", type=Path, default=Path("rivals"))
    options = parser.parse_args()
    photos = digits(options.out, options.size, options.photos)
    limits = Limits(search_minutes=options.search_minutes)
    training = Training(epochs=options.epochs, shared_batches=True)
    bundles = {name: bundle_of(name, photos, options.size, training) for name in words(options.networks)}
    rows = {name: facts(bundle) for name, bundle in bundles.items()}
    for precision in words(options.engines):
        target = Target(name="openvino", backend="openvino", precision=precision, threads=options.threads)
        add_engines(rows, bundles, target, limits, TimingSettings(runs=options.runs))
    for precision in words(options.prepare):
        add_prepared(rows, bundles, Target.load("tensorrt").model_copy(update={"precision": precision}), limits)
    print(table(rows, words(options.engines), words(options.prepare)))
    print(json.dumps(Environment.here(threads=options.threads, versions={}).model_dump(mode="json")))


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def digits(out: Path, size: int, photos: int) -> Path:
    """All test digits, and the first `photos` training digits, as many of each class."""
    folder = out / f"digits-{size}-{photos}"
    if not folder.exists():
        every = out / f"digits-{size}"
        shutil.rmtree(every, ignore_errors=True)
        write_digits(every, size=size)
        for label in (every / "train").iterdir():
            for file in sorted(label.iterdir())[photos // 10 :]:
                file.unlink()
        every.rename(folder)
    return folder


def bundle_of(name: str, photos: Path, size: int, training: Training) -> Bundle:
    """Of the network called `name`, made unless it is there; an interrupted one goes on."""
    common: dict[str, Any] = {"weights": "random", "image_size": size, "training": training}
    recipe: Recipe = RRR(**common) if name == OURS else FineTune(backbone=cast(AnyBackbone, name), **common)
    run = Run(device="cpu", resume=True)
    return compress(photos, photos.with_name(f"{name}-{size}.rrr"), recipe=recipe, run=run, on_progress=shown)


def facts(bundle: Bundle) -> Row:
    cost, accuracy = bundle.manifest.cost, bundle.manifest.accuracy
    assert accuracy is not None
    return {"params": cost.params, "macs": cost.macs, "torch": accuracy.accuracy}


def add_engines(
    rows: dict[str, Row], bundles: dict[str, Bundle], target: Target, limits: Limits, timing: TimingSettings
) -> None:
    """Compile all, verify, and time those that pass in turns."""
    precision, runs = target.precision, {}
    with ExitStack() as until_end:
        for name, bundle in bundles.items():
            try:
                kept = target.engine_name in bundle.engine_names()
                engine = (
                    bundle.engine(target) if kept else compile_bundle(bundle, target, limits=limits, on_progress=shown)
                )
            except RRREdgeError as error:
                rows[name][precision] = f"{error} {error.advice}"
                continue
            files = [file for file in bundle.engine_folder(engine.name).iterdir() if file.suffix in (".xml", ".bin")]
            verified = engine.verification
            rows[name][precision] = {
                "mb": sum(file.stat().st_size for file in files) / 1e6,
                "accuracy": verified.accuracy,
                "alike": verified.top1_agreement,
                "share": engine.precision_found.get(precision, 0.0),
                "floats": len(engine.target.quantisation.float_layers) if engine.target.quantisation else 0,
            }
            opened = Classifier.open(bundle.path, target, precision=precision, threads=target.threads)
            classifier = until_end.enter_context(opened)
            runs[name] = running(classifier.session, shuffled_images(bundle))
        timed = interleave(runs, timing=timing, on_progress=shown)
    subject = {"backend": target.backend, "precision": precision, "threads": target.threads}
    measured = {
        name: Measurement.model_validate({"name": name, "subject": subject, "samples_ms": samples})
        for name, samples in timed.samples_ms.items()
    }
    for name, one in measured.items():
        rows[name][precision]["ms"] = float(np.median(one.samples_ms))
        if OURS in measured and name != OURS:
            over = ratio(one, measured[OURS])
            rows[name][precision]["of_ours"] = (over.value, *over.interval)
    print(f"{precision}: other programs took {timed.background_load or 0:.0%} of the cores' time")


def add_prepared(rows: dict[str, Row], bundles: dict[str, Bundle], target: Target, limits: Limits) -> None:
    for name, bundle in bundles.items():
        try:
            card = prepare_bundle(bundle, target, limits=limits, on_progress=shown)
        except RRREdgeError as error:
            rows[name][f"prepared {target.precision}"] = f"{error} {error.advice}"
            continue
        rows[name][f"prepared {target.precision}"] = {
            "alike": card.verification.top1_agreement,
            "share": card.precision_found.get(target.precision, 0.0),
            "floats": len(card.quantisation.float_layers) if card.quantisation else 0,
        }


def table(rows: dict[str, Row], engines: Sequence[str], prepared: Sequence[str]) -> str:
    """Markdown, a line a network, and what was refused under it."""
    kinds = [*engines, *(f"prepared {precision}" for precision in prepared)]
    head = ["network", "params", "MACs", "torch", *kinds]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    refused = []
    for name, row in rows.items():
        cells = [f"{row['params'] / 1e6:.2f} M", f"{row['macs'] / 1e6:.0f} M", f"{row['torch']:.1%}"]
        for kind in kinds:
            found = row[kind]
            refused += [f"{name}, {kind}: {found}"] if isinstance(found, str) else []
            cells.append("refused" if isinstance(found, str) else said(found))
        lines.append(["RRR-Net" if name == OURS else name_of(name), *cells])
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), *refused])


def said(found: Row) -> str:
    """Time and its ratio to ours, size, accuracy, share of the MACs in the precision, answers as torch's."""
    parts = [f"{found['ms']:.3f} ms"] if "ms" in found else []
    if "of_ours" in found:
        value, low, high = found["of_ours"]
        parts.append(f"{value:.2f} ({low:.2f} to {high:.2f})")
    parts += [f"{found['mb']:.1f} MB", f"{found['accuracy']:.1%}"] if "mb" in found else []
    parts += [f"{found['share']:.0%} of MACs", f"{found['alike']:.1%} alike"]
    parts += [f"{found['floats']} layers floats"] if found["floats"] else []
    return ", ".join(parts)


if __name__ == "__main__":
    main()
