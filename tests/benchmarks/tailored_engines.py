"""The INT8 engine of a tailored ResNet50 beside its teacher's and RRR-Net's: time, size and accuracy on one task.

    python tests/benchmarks/tailored_engines.py [--size 64] [--epochs 6] [--drop-blocks 4] [--precision int8]
                                                [--runs 200] [--threads N] [--out FOLDER]

ImageNet's place is taken by a ResNet50 that has learned the drawn shapes of examples/study; the task are its digits.
The teacher is fine-tuned, the tailored network imitates it, RRR-Net has 8 branches. Bundles in FOLDER are not made
again. The engines take turns in one process. Prints JSON: medians, ratios with their intervals, MB, MACs, accuracies.
"""

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tailored_tasks import draw_source, photos, shown

from rrr_edge import Bundle, Classifier
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.measurements import Measurement, ratio
from rrr_edge.bundle.recipe import RRR, FineTune, NetTailor, Recipe, TailorTraining, Training
from rrr_edge.bundle.spec import source_spec
from rrr_edge.bundle.target import Target
from rrr_edge.compile import compile_bundle
from rrr_edge.compress import Run, compress
from rrr_edge.networks import build
from rrr_edge.profile.onnx_baselines import running, shuffled_images
from rrr_edge.timing import machine
from rrr_edge.timing.interleave import TimingSettings, interleave
from rrr_edge.training import Run as TrainingRun
from rrr_edge.training import train

BACKBONE, TASK, SOURCE = "resnet50", "digits", ("shapes",)
SOURCE_PHOTOS, SOURCE_EPOCHS = 60, 12
# Networks that learned so little change many answers in INT8: it is said, and not refused.
_ANY = Limits(max_drop=1.0, min_agreement=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--drop-blocks", type=int, default=4)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--out", type=Path, default=Path("tailored-engines"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bundles = make(options.out, options.size, options.epochs, options.drop_blocks)
    target = Target(name="openvino", backend="openvino", precision=options.precision, threads=options.threads)
    print(json.dumps(compare(bundles, target, TimingSettings(runs=options.runs)), indent=2))


def make(out: Path, size: int, epochs: int, drop_blocks: int) -> dict[str, Bundle]:
    """The three bundles by name, each made unless it is there; an interrupted one goes on."""
    common: dict[str, Any] = {
        "backbone": BACKBONE,
        "weights": str(source_network(out, size)),
        "image_size": size,
    }
    step = {"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 5e-4, "ema_fraction": 0.0}
    teacher = out / "teacher.rrr"
    recipes: dict[str, Recipe] = {
        "teacher": FineTune(**common, training=Training(epochs=epochs, schedule={"shape": "step"}, **step)),
        "tailored": NetTailor(
            **common,
            teacher=str(teacher),
            drop_blocks=drop_blocks,
            training=TailorTraining(epochs=epochs, learning_rate=0.02),
        ),
        "rrr-net": RRR(**common, training=Training(epochs=2 * epochs, shared_batches=True)),
    }
    run = Run(device="cpu", resume=True)
    return {
        name: compress(photos(out, TASK, size), out / f"{name}.rrr", recipe=recipe, run=run, on_progress=shown)
        for name, recipe in recipes.items()
    }


def source_network(out: Path, size: int) -> Path:
    path = out / f"{BACKBONE}-{size}.safetensors"
    if not path.is_file():
        examples = draw_source(SOURCE, SOURCE_PHOTOS, size)
        torch.manual_seed(0)
        network = build(source_spec(int(examples.labels.max()) + 1, BACKBONE))
        training = Training(epochs=SOURCE_EPOCHS, ema_fraction=0.0, schedule={"shape": "cosine"})
        run = TrainingRun(device="cpu", checkpoints=path.with_suffix(".checkpoints"), resume=True, on_progress=shown)
        train(network, examples, training=training, preprocess=Preprocess(image_size=size), run=run)
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return path


def compare(bundles: dict[str, Bundle], target: Target, timing: TimingSettings) -> dict[str, Any]:
    found, runs = {}, {}
    with ExitStack() as until_end:
        for name, bundle in bundles.items():
            engine = compile_bundle(bundle, target, precision=target.precision, limits=_ANY)
            folder = bundle.engine_folder(engine.name)
            found[name] = {
                "mb": round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 2),
                "params": bundle.manifest.cost.params,
                "shared_params": bundle.manifest.cost.shared_params,
                "macs": bundle.manifest.cost.macs,
                "accuracy_torch": engine.verification.accuracy_reference,
                "accuracy_engine": engine.verification.accuracy,
                "top1_agreement": engine.verification.top1_agreement,
                "verified": engine.verification.passed,
            }
            opened = Classifier.open(bundle.path, target, precision=target.precision, threads=target.threads)
            classifier = until_end.enter_context(opened)
            runs[name] = running(classifier.session, shuffled_images(bundle))
        timed = interleave(runs, timing=timing, on_progress=shown)
    measured = {
        name: Measurement.model_validate(
            {
                "name": name,
                "subject": {"backend": target.backend, "precision": target.precision, "threads": target.threads},
                "samples_ms": samples,
            }
        )
        for name, samples in timed.samples_ms.items()
    }
    for name, m in measured.items():
        over = ratio(m, measured["teacher"])
        found[name] |= {
            "median_ms": round(float(np.median(m.samples_ms)), 3),
            "of_the_teachers_time": [round(value, 3) for value in (over.value, *over.interval)],
        }
    environment = Environment.here(threads=target.threads, versions={}).model_dump(mode="json")
    return {"engines": found, "background_load": timed.background_load, "environment": environment}


if __name__ == "__main__":
    main()
