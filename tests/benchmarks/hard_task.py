"""What INT8, BF16 and FP16 cost on a task that is right on 30 to 60%, and the layers of three ruined networks.

    python tests/benchmarks/hard_task.py [--epochs 12] [--work FOLDER]

Draws fourteen classes of shapes in noise, compresses them from random weights, and builds engines: for OpenVINO those
that this machine has, for NVIDIA's compilers prepared graphs. Each line has the agreement with its ties, the accuracy
with the interval of its paired difference, and the time over FP32's in interleaved rounds. Then chosen layers of the
same network are ruined for 8 bits, by factors on channels that the layer after them divides by, which changes no
answer; the search must name those layers.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from fake_bundle import rewrite
from tiny_network import ruin

from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.bundle.engine import Engine, Prepared
from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import MANIFEST, MODEL, Bundle
from rrr_edge.bundle.measurements import ratio
from rrr_edge.bundle.recipe import RRR, Training
from rrr_edge.bundle.reference import Images
from rrr_edge.bundle.target import Precision, Target
from rrr_edge.compile import compile_bundle, prepare_bundle
from rrr_edge.compile.fastest import measure_beside
from rrr_edge.compress import compress
from rrr_edge.errors import RRREdgeError
from rrr_edge.timing.progress import Step, silent

CLASSES, SIZE = 14, 48
RUINED = (
    ("layer2.0.conv2",),
    ("layer1.0.conv3", "layer4.0.conv2"),
    ("layer2.0.conv2", "layer3.0.conv3", "layer4.0.conv3"),
)


def draw(kind: int, rng: np.random.Generator) -> Image.Image:
    """A ring of `kind` % 7 + 2 blots, thin or thick, of any colour, place and turn, under noise as strong as itself."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    blots, radius = kind % 7 + 2, 0.05 if kind < 7 else 0.08
    turn, (cy, cx) = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.6, 2)
    angles = turn + 2 * np.pi * np.arange(blots) / blots
    shape = np.zeros((SIZE, SIZE), bool)
    for angle in angles:
        shape |= (y - cy - 0.25 * np.sin(angle)) ** 2 + (x - cx - 0.25 * np.cos(angle)) ** 2 < radius**2
    pixels = rng.normal(110, 45, (SIZE, SIZE, 3)) + shape[..., None] * rng.choice([-1, 1]) * rng.uniform(40, 110, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_photos(folder: Path, *, train: int = 40, test: int = 40) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for kind in range(CLASSES):
            place = folder / split / f"{kind:02}"
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                draw(kind, rng).save(place / f"{number}.png")
    return folder


def ruined_copy(bundle: Bundle, layers: tuple[str, ...], to: Path) -> tuple[Bundle, set[str]]:
    """The bundle with these layers ruined, and their names in its graph."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(bundle.path, to, ignore=shutil.ignore_patterns("engines"))
    nodes = [node.name for node in Graph.load(to / MODEL).nodes if node.op_type == "Conv"]
    names = {name for name in nodes if any(f"/{layer}/" in name for layer in layers)}
    ruin(to / MODEL, names, decades=4)
    entry = describe_file(to / MODEL).model_dump(mode="json")
    rewrite(to / MANIFEST, lambda m: m.update(files=[entry if f["name"] == MODEL else f for f in m["files"]]))
    return Bundle.open(to), names


def say(name: str, made: Callable[[], Engine | Prepared], precision: Precision) -> Engine | Prepared | None:
    try:
        found = made()
    except RRREdgeError as error:
        print(f"{name}: {error} {error.advice}", flush=True)
        return None
    print(f"{name}: {found.verification.words}", flush=True)
    for doubt in found.verification.doubts:
        print(f"    {doubt}")
    if found.search is not None:
        print(f"    {found.search.words(precision) or found.search.stopped}", flush=True)
    return found


def times(bundle: Bundle, engines: dict[str, Engine], images: Images) -> None:
    built = {name: (bundle.engine_folder(engine.name), engine.target) for name, engine in engines.items()}
    measured = measure_beside(built, images, on_progress=silent)
    for name, measurement in measured.items():
        over = ratio(measurement, measured["openvino fp32"])
        low, high = over.interval
        print(f"{name}: {measurement.summary.median_ms:.3f} ms, {over.value:.3f} ({low:.3f} to {high:.3f}) of fp32's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("hard-task"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--image-size", type=int, default=48)
    parser.add_argument("--no-prepared", action="store_true", help="leave the graphs for NVIDIA's compilers out")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = options.work / "hard.rrr"
    if not folder.exists():
        training = Training(epochs=options.epochs, batch_size=32, validation_share=0)
        recipe = RRR(weights="random", image_size=options.image_size, branches=2, training=training)
        compress(write_photos(options.work / "photos"), folder, recipe=recipe, on_progress=_sparse)
    bundle = Bundle.open(folder)
    engines: dict[str, Engine] = {}
    for precision in ("fp32", "bf16", "fp16", "int8"):
        name = f"openvino {precision}"
        made = say(name, lambda p=precision: compile_bundle(bundle, "openvino", precision=p), precision)
        if isinstance(made, Engine):
            engines[name] = made
    times(bundle, engines, bundle.reference.images)
    targets = ["openvino"]
    if not options.no_prepared:
        targets.append("tensorrt")
        for precision in ("bf16", "fp16", "int8"):
            say(f"tensorrt {precision}", lambda p=precision: prepare_bundle(bundle, "tensorrt", precision=p), precision)
    for layers in RUINED:
        copy, names = ruined_copy(bundle, layers, options.work / "ruined.rrr")
        for target in targets:
            make = prepare_bundle if Target.load(target).backend == "tensorrt" else compile_bundle
            made = say(
                f"ruined {', '.join(layers)}, {target} int8",
                lambda m=make, t=target, c=copy: m(c, t, precision="int8"),
                "int8",
            )
            way = made and (made.target.quantisation if isinstance(made, Engine) else made.quantisation)
            found = set(way.float_layers) if way else set()
            print(
                f"    {'exactly those' if found == names else f'found {sorted(found)} for {sorted(names)}'}", flush=True
            )


def _sparse(step: Step) -> None:
    if step.note and step.done == step.total:
        print(step.stage, step.note, flush=True)


if __name__ == "__main__":
    main()
