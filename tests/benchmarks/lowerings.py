"""What the branches' lowerings cost on this machine: the same network as grouped, split and dense, timed in turns.

    python tests/benchmarks/lowerings.py [--json] [--runs 200] [--threads N] [--size 128]

The network is the paper's for 20 classes, with random weights and real statistics, at batch 1. The three graphs must
answer alike in ONNX Runtime before anything is timed.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fused_branches import BRANCHES, CLASSES, DEPTHS, with_real_statistics

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.graph.lowering import lower
from rrr_edge.backends.onnxruntime import run_model
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.bundle.target import LOWERINGS, Lowering, Target
from rrr_edge.compile.fastest import fastest
from rrr_edge.compress.rrr.slicing import branch_widths
from rrr_edge.errors import RRREdgeError
from rrr_edge.networks import build
from rrr_edge.networks.export import export_onnx
from rrr_edge.timing import machine
from rrr_edge.timing.interleave import TimingSettings
from rrr_edge.timing.progress import silent

RUNTIMES = (("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"), ("onnxruntime", "fp32"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--size", type=int, default=128)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        result = measure(
            Path(work), size=options.size, threads=options.threads, timing=TimingSettings(runs=options.runs)
        )
    print(json.dumps(result, indent=2) if options.json else as_text(result))


def measure(work: Path, *, size: int, threads: int, timing: TimingSettings) -> dict[str, Any]:
    images = np.random.default_rng(0).integers(0, 256, (32, size, size, 3), dtype=np.uint8)
    models = write_models(work, size)
    expected = run_model(models["grouped"], images)
    difference = max(
        float(np.abs(a - b).max())
        for model in models.values()
        for a, b in zip(expected, run_model(model, images), strict=True)
    )
    if difference > 1e-5:
        raise SystemExit(f"The lowerings are not the same: their probabilities differ by {difference:.1e}.")
    found, versions = {}, {}
    for backend, precision in RUNTIMES:
        target = Target(name=backend, backend=backend, precision=precision, threads=threads)  # type: ignore[arg-type]
        try:
            BACKENDS[backend].check(target)
        except RRREdgeError as error:
            found[f"{backend} {precision}"] = {"left out": str(error)}
            continue
        versions |= BACKENDS[backend].versions()
        engines = {name: work / f"{backend}-{precision}-{name}" for name in LOWERINGS}
        for name, folder in engines.items():
            folder.mkdir()
            BACKENDS[backend].compile(models[name], target, images, folder, silent)
        winner, ratios = fastest(engines, target, images, on_progress=silent, timing=timing)
        found[f"{backend} {precision}"] = {
            "fastest": winner,
            "over grouped": {ratio.of: [ratio.value, *ratio.interval] for ratio in ratios},
        }
    environment = Environment.here(threads=threads, versions=versions).model_dump(mode="json")
    return {"size": size, "max_abs_difference": difference, "runtimes": found, "environment": environment}


def write_models(work: Path, size: int) -> dict[Lowering, Path]:
    torch.manual_seed(0)
    _, *widths = branch_widths(DEPTHS, BRANCHES, CLASSES)
    spec = ResNetSpec(depths=DEPTHS, branches=BRANCHES, branch_widths=tuple(widths), num_classes=CLASSES)
    with torch.no_grad():
        network = with_real_statistics(build(spec), size)
    export_onnx(network, Preprocess(image_size=size), work / "model.onnx")
    models: dict[Lowering, Path] = {name: work / f"{name}.onnx" for name in LOWERINGS}
    for name, path in models.items():
        lower(work / "model.onnx", name, path)
    return models


def as_text(result: dict[str, Any]) -> str:
    environment, lines = result["environment"], []
    for runtime, found in result["runtimes"].items():
        times = (f"{name} {r[0]:.3f} ({r[1]:.3f} .. {r[2]:.3f})" for name, r in found.get("over grouped", {}).items())
        lines.append(f"{runtime:17} over grouped: {', '.join(times)}" if "fastest" in found else f"{runtime}: {found}")
    versions = ", ".join(f"{library} {version}" for library, version in environment["versions"].items())
    return "\n".join([*lines, f"{environment['cpu']}, {environment['threads']} threads, {versions}"])


if __name__ == "__main__":
    main()
