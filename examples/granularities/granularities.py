"""Figure 3 of Sun et al. 2023 on this machine: what ResNet152 gains when elements, channels or blocks of it go.

    python examples/granularities/granularities.py [--work FOLDER] [--runs 200] [--sparsity 0,0.1,...] [--prepare]

Times only: all weights are random, and the photos are drawn. Needs the extras compress and openvino, 14 GB of disk and
6 GB of memory. `--prepare` makes and compiles everything, which a busy machine may do; the same command without it then
measures, and says all the while how long it will take. Interrupted, it goes on where it was. The results are in
examples/granularities/results, unless --out says otherwise.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
CLASSES, SIZE = 20, 128
SPARSITIES = ",".join(f"{tenth / 10:g}" for tenth in range(10))
TARGET, PRECISIONS = "openvino", ("fp32", "int8")


def draw_photos(folder: Path, *, each: int = 4) -> None:
    """A disc of its class's hue and size on noisy ground, in train/CLASS and test/CLASS."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    for split in ("train", "test"):
        for kind in range(CLASSES):
            (folder / split / f"{kind:02}").mkdir(parents=True)
            for number in range(each):
                cy, cx = rng.uniform(-20, 20, 2)
                disc = (y - cy) ** 2 + (x - cx) ** 2 < (15 + 2 * kind) ** 2
                colour = 95 * (1 + np.cos(2 * np.pi * (kind / CLASSES + np.array([0, 1, 2]) / 3)))
                pixels = rng.integers(0, 60, (SIZE, SIZE, 3)) + disc[..., None] * colour
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / f"{kind:02}" / f"{number}.png")


def rrr_edge(*words: str | Path) -> None:
    """Run a command; where it fails it has said why, and its exit code is ours."""
    print("$ rrr-edge", *words, flush=True)
    # Where anything else wants the cores, threads of PyTorch's that spin make single runs take seconds.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    code = subprocess.run([sys.executable, "-m", "rrr_edge", *map(str, words)], check=False, env=environment).returncode
    if code:
        sys.exit(code)


def main(*arguments: str) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--sparsity", default=SPARSITIES)
    parser.add_argument("--prepare", action="store_true")
    options = parser.parse_args(arguments)
    photos, bundle = options.work / "photos", options.work / "discs.rrr"
    begun = time.monotonic()
    if not photos.exists():
        draw_photos(photos)
    if not bundle.exists():
        rrr_edge("compress", photos, "-o", bundle, "--weights", "random", "--epochs", "0")
    for precision in PRECISIONS:
        if not (bundle / "engines" / f"{TARGET}-{precision}").exists():
            rrr_edge("compile", bundle, "--target", TARGET, "--precision", precision, "--max-drop", "1")
    profile = ("profile", bundle, "--target", TARGET, "--precision", PRECISIONS[-1])
    comparison = ("--against", "baseline,element,channel,block", "--sparsity", options.sparsity)
    if options.prepare:
        rrr_edge(*profile, *comparison, "--prepare")
        return
    rrr_edge(*profile, *comparison, "--runs", str(options.runs))
    shutil.copytree(bundle / "profiles" / f"{TARGET}-{PRECISIONS[-1]}", options.out, dirs_exist_ok=True)
    print(f"{options.out}: after {(time.monotonic() - begun) / 60:.1f} minutes")


if __name__ == "__main__":
    main(*sys.argv[1:])
