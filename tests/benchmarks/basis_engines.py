"""RRR-Net's INT8 engine after basis scaling, beside RRR-Net's own and MobileNetV3-Large's: time, by part too.

    python tests/benchmarks/basis_engines.py [--size 128] [--sparsities 0.3,0.5,0.7] [--precision int8] [--runs 300]
                                             [--threads N] [--out FOLDER]

For times only: 20 drawn letters, random weights, one epoch of each training. RRR-Net has 8 branches; its basis vectors
go until so many of its parameters are gone. Each is compiled as pairs (grouped), as products, and with --lowering auto.
Bundles in FOLDER are not made again. The engines take turns in one process. Prints medians, ratios to RRR-Net's with
their intervals, MB, MACs, what each pair gains, and the milliseconds of conv4 and conv5 by OpenVINO's clock.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tailored_tasks import shown

from rrr_edge import Bundle
from rrr_edge.backends import backend_of
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.measurements import Measurement, ratio
from rrr_edge.bundle.recipe import RRR, BasisScaling, BasisTraining, FineTune, Recipe, Training
from rrr_edge.bundle.target import Lowering, Target
from rrr_edge.compile import compile_bundle
from rrr_edge.compile.fastest import measure_beside
from rrr_edge.compress import Run, compress
from rrr_edge.timing import machine
from rrr_edge.timing.interleave import TimingSettings

LETTERS, TRAIN, TEST = "letters", 10, 2
RRR_NET = "RRR-Net"
LOWERINGS: tuple[Lowering, ...] = ("grouped", "product")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--sparsities", default="0.3,0.5,0.7")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--out", type=Path, default=Path("basis-engines"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bundles = make(options.out, options.size, [float(word) for word in options.sparsities.split(",")])
    target = Target(name="openvino", backend="openvino", precision=options.precision, threads=options.threads)
    compare(bundles, target, TimingSettings(runs=options.runs))
    environment = Environment.here(threads=target.threads, versions=backend_of(target).versions())
    print(f"\n{environment.model_dump_json()}")


def make(out: Path, size: int, sparsities: list[float]) -> dict[str, Bundle]:
    """The bundles by name, each made unless it is there; an interrupted one goes on."""
    common: dict[str, Any] = {"weights": "random", "image_size": size}
    rrr = out / "rrr.rrr"
    recipes: dict[str, Recipe] = {
        RRR_NET: RRR(**common, training=Training(epochs=1)),
        "MobileNetV3-Large": FineTune(**common, backbone="mobilenet_v3_large", training=Training(epochs=1)),
    }
    for sparsity in sparsities:
        recipes[f"basis {sparsity:g}"] = BasisScaling(
            start=str(rrr), sparsity=sparsity, prune_share=0.4, training=BasisTraining(epochs=1)
        )
    names = {RRR_NET: rrr}
    run = Run(device="cpu", resume=True)
    return {
        name: compress(
            letters(out, size), names.get(name, out / f"{name}.rrr"), recipe=recipe, run=run, on_progress=shown
        )
        for name, recipe in recipes.items()
    }


def letters(out: Path, size: int) -> Path:
    """train/ and test/ of the study's letters as files."""
    from domains import DOMAINS, draw_examples

    folder = out / f"letters-{size}"
    for split, count in (("train", TRAIN), ("test", TEST)) if not folder.is_dir() else ():
        drawn = draw_examples(LETTERS, split, count, size=size)  # type: ignore[arg-type]
        for number, (image, label) in enumerate(zip(drawn.images, drawn.labels, strict=True)):
            place = folder / split / f"{label:02} {DOMAINS[LETTERS].classes[label]}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number}.png")
    return folder


def compare(bundles: dict[str, Bundle], target: Target, timing: TimingSettings) -> None:
    engines: dict[str, tuple[Path, Target]] = {}
    cards: dict[str, tuple[Bundle, Engine]] = {}
    for name, bundle in bundles.items():
        pairs = bundle.manifest.spec.kind == "factored"
        ways: tuple[Lowering, ...] = (*LOWERINGS, "auto") if pairs else ("grouped",)
        ways = (*ways, "auto") if name == RRR_NET else ways
        for way in ways:
            own = target.model_copy(update={"name": f"{target.name}-{way}", "lowering": way})
            engine = compile_bundle(
                bundle, own, limits=Limits(min_agreement=0.0, max_drop=1.0, search_minutes=0.0), on_progress=shown
            )
            said = name if way == ways[0] and not pairs else f"{name}, {way}"
            said += f" ({engine.lowering})" if way == "auto" else ""
            engines[said] = bundle.engine_folder(engine.name), own
            cards[said] = bundle, engine
    images = next(iter(bundles.values())).reference.images
    times = measure_beside(engines, images, on_progress=shown, timing=timing)
    print("\n| engine | params | MACs | MB | median ms | of RRR-Net's time | of MobileNetV3-Large's |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, measured in times.items():
        bundle, engine = cards[name]
        cost = bundle.manifest.cost
        ratios = " | ".join(_ratio(measured, times[other]) for other in (RRR_NET, "MobileNetV3-Large"))
        print(
            f"| {name} | {cost.params / 1e6:.2f} M | {cost.macs / 1e6:.0f} M | {engine.bytes / 1e6:.1f} | "
            f"{measured.summary.median_ms:.3f} | {ratios} |"
        )
    print("\n| engine | conv4, ms | conv5, ms |\n|---|---:|---:|")
    for name, parts in by_part(engines, images).items():
        print(f"| {name} | {parts.get('conv4', 0):.3f} | {parts.get('conv5', 0):.3f} |")
    for name, (_, engine) in cards.items():
        for pair in engine.pair_times:
            print(f"{name}: {pair.name} {pair.pair_ms:.4f} ms as a pair, {pair.product_ms:.4f} ms as one")


def _ratio(one: Measurement, other: Measurement) -> str:
    found = ratio(one, other)
    return f"{found.value:.3f} ({found.interval[0]:.3f} to {found.interval[1]:.3f})"


def by_part(engines: dict[str, tuple[Path, Target]], images: Any, *, runs: int = 200) -> dict[str, dict[str, float]]:
    """The milliseconds of each part's layers, by the backend's clock, in runs that take turns."""
    found: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        sessions = {}
        for name, (folder, target) in engines.items():
            sessions[name] = backend_of(target).open_profiled(folder, target)
            stack.callback(sessions[name].close)
        for run in range(runs):
            for session in sessions.values():
                session.run(images[np.array([run % len(images)])])
        for name, session in sessions.items():
            for layer in session.layers():
                parts = found.setdefault(name, {})
                parts[layer.part] = parts.get(layer.part, 0.0) + layer.ms
    return found


if __name__ == "__main__":
    main()
