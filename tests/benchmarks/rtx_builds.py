"""Every kind of network and graph that is built by TensorRT for RTX, really built: sizes, times, types. Needs no GPU.

    python tests/benchmarks/rtx_builds.py [--only WORDS] [--json]

From RRR-Net with 8 branches, grouped, at 128x128 for one image, one thing is changed at a time. Each network is made in
FP32, FP16 and INT8 for Turing and for all GPUs, and RRR-Net also in BF16 and FP8 for those that have it; the bundle's
own graph goes through the parser too. Weights are random, statistics real. A row fails where the compiler refuses the
graph, or lists other types than were asked; then the exit code is 1. --only takes the rows whose text has these words.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rrr_edge.backends.graph.lowering import lower
from rrr_edge.backends.tensorrt.build import build
from rrr_edge.backends.tensorrt.prepare import prepare
from rrr_edge.backends.tensorrt_rtx import TensorRTRTX, find_libraries
from rrr_edge.bundle.folder import PREPARED
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.spec import NetworkSpec, source_spec
from rrr_edge.bundle.target import Lowering, Precision, Target
from rrr_edge.bundle.verification import require_precision
from rrr_edge.compress.baselines import random_network
from rrr_edge.compress.prune import without_blocks
from rrr_edge.compress.rrr import branch_widths
from rrr_edge.compress.slimming import slimming
from rrr_edge.errors import RRREdgeError
from rrr_edge.networks import ResNetSpec
from rrr_edge.networks.export import export_onnx
from rrr_edge.timing.progress import silent

CLASSES = 20
DEPTHS = (1, 1, 1, 1)
SPARSITY = 0.5
GPUS: dict[str, tuple[str, ...]] = {
    "Turing": ("7.5",),
    "all": ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
    "Ampere and later": ("8.0", "8.6", "8.9", "12.0", "12.1"),
    "Ada and later": ("8.9", "12.0", "12.1"),
}
EVERYWHERE: tuple[tuple[Precision, str], ...] = tuple(
    (precision, gpus)
    for precision in ("fp32", "fp16", "int8")
    for gpus in ("Turing", "all")  # type: ignore[misc]
)
SOME: tuple[tuple[Precision, str], ...] = (
    ("bf16", "Ampere and later"),
    ("int8", "Ampere and later"),
    ("fp8", "Ada and later"),
)


@dataclass(frozen=True)
class Case:
    network: str
    pixels: int = 128
    lowering: Lowering = "grouped"
    max_batch: int = 1
    builds: tuple[tuple[Precision, str], ...] = EVERYWHERE


@dataclass(frozen=True)
class Row:
    network: str
    pixels: int
    lowering: str
    batch: str
    precision: str
    gpus: str
    size_mb: float = 0.0
    build_s: float = 0.0
    found: str = ""
    failed: str = ""


CASES = (
    Case("8 branches", builds=(*EVERYWHERE, *SOME)),
    Case("8 branches", pixels=64),
    Case("8 branches", pixels=224),
    Case("8 branches", lowering="split"),
    Case("8 branches", lowering="dense"),
    Case("8 branches", max_batch=8),
    Case("1 branch"),
    Case("2 branches"),
    Case("32 branches"),
    Case("ResNet152"),
    Case("element-pruned"),
    Case("channel-pruned"),
    Case("block-pruned"),
)


def rrr(branches: int) -> NetworkSpec:
    if branches == 1:
        return ResNetSpec(depths=DEPTHS, num_classes=CLASSES)
    _, c4, c5 = branch_widths(DEPTHS, branches, CLASSES)
    return ResNetSpec(depths=DEPTHS, branches=branches, branch_widths=(c4, c5), num_classes=CLASSES)


NETWORKS: dict[str, Callable[[], NetworkSpec]] = {
    "1 branch": lambda: rrr(1),
    "2 branches": lambda: rrr(2),
    "8 branches": lambda: rrr(8),
    "32 branches": lambda: rrr(32),
    "ResNet152": lambda: source_spec(CLASSES),
    "element-pruned": lambda: source_spec(CLASSES),
    "channel-pruned": lambda: slimming(SPARSITY, source_spec(CLASSES)).spec,
    "block-pruned": lambda: without_blocks(SPARSITY, source_spec(CLASSES)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for row in all_rows(options.only):
        rows.append(row)
        print(as_text(row), file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    failed = sum(bool(row.failed) for row in rows)
    print(f"{len(rows)} built by {find_libraries().compiler}, {failed} of them not as asked", file=sys.stderr)
    raise SystemExit(1 if failed or not rows else 0)


def all_rows(only: str) -> Iterator[Row]:
    for case in CASES:
        wanted = [row for row in planned(case) if only in as_text(row)]
        if wanted:
            with tempfile.TemporaryDirectory() as work:
                yield from build_case(case, wanted, Path(work))


def planned(case: Case) -> Iterator[Row]:
    batch = f"1 to {case.max_batch}" if case.max_batch > 1 else "1"
    about = (case.network, case.pixels, case.lowering, batch)
    if case.lowering == "grouped" and case.max_batch == 1:
        yield Row(*about, "as it is", "all")
    for precision, gpus in case.builds:
        yield Row(*about, precision, gpus)


def build_case(case: Case, wanted: list[Row], work: Path) -> Iterator[Row]:
    images = np.random.default_rng(0).integers(0, 256, (8, case.pixels, case.pixels, 3), dtype=np.uint8)
    preprocess, model = Preprocess(image_size=case.pixels), work / "lowered.onnx"
    zeroed = SPARSITY if case.network == "element-pruned" else 0.0
    network = random_network(NETWORKS[case.network](), preprocess, images, zeroed=zeroed)
    export_onnx(network, preprocess, work / "model.onnx")
    lower(work / "model.onnx", case.lowering, model)
    for row in wanted:
        try:
            yield build_row(case, row, model, images, work)
        except RRREdgeError as error:
            yield Row(*list(asdict(row).values())[:6], failed=str(error))


def build_row(case: Case, row: Row, model: Path, images: Any, work: Path) -> Row:
    precision: Precision = "fp32" if row.precision == "as it is" else row.precision  # type: ignore[assignment]
    target = Target.load("tensorrt-rtx").model_copy(
        update={"precision": precision, "max_batch": case.max_batch, "compute_capabilities": GPUS[row.gpus]}
    )
    about = list(asdict(row).values())[:6]
    if row.precision == "as it is":
        start = time.perf_counter()
        plan = build(find_libraries(), model, target, lambda config: None, silent).plan
        return Row(*about, size_mb=len(plan) / 1e6, build_s=time.perf_counter() - start)
    out = work / f"{precision}-{row.gpus}"
    out.mkdir()
    _, turing = TensorRTRTX().preparation(target)
    prepare(model, precision, images, out / PREPARED, silent, turing=turing)
    start = time.perf_counter()
    TensorRTRTX().compile(model, target, images, out, silent)
    taken = time.perf_counter() - start
    found = TensorRTRTX().precision_built(out)
    shares = ", ".join(f"{share:.1%} {name}" for name, share in sorted(found.items()))
    require_precision(precision, found, what="the engine", so="that is a silent fallback")
    return Row(*about, size_mb=(out / "model.engine").stat().st_size / 1e6, build_s=taken, found=shares)


def as_text(row: Row) -> str:
    about = f"{row.network:15} {row.pixels:4} {row.lowering:8} {row.batch:7} {row.precision:9} {row.gpus:17}"
    return f"{about} {row.failed or f'{row.size_mb:7.1f} MB {row.build_s:6.1f} s  {row.found}'}"


if __name__ == "__main__":
    main()
