"""Kill a small compression at random moments, again and again, and see what `resume` makes of it.

    python tests/benchmarks/kill_and_resume.py [--kills 100] [--seed 0] [--work FOLDER]

Each time a process starts `rrr_edge.compress.compress` on a few photos, is killed with SIGKILL at a moment drawn
uniformly from the time that a whole run takes, and a second one resumes. That one must end with a valid bundle, repeat
no more than one epoch, and have, byte for byte, the weights of a run that nobody killed. The processes are forked from
one that has imported everything, since the imports would take most of the time. Prints a JSON summary; exit status 1
where anything differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import WEIGHTS, Bundle
from rrr_edge.bundle.recipe import RRR, Recipe, Training
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.compress import Run, compress
from rrr_edge.errors import RRREdgeError
from rrr_edge.networks import build
from rrr_edge.timing.progress import Step

CLASSES, TRAINING_PHOTOS, TEST_PHOTOS, SIZE = 3, 20, 4, 32
BATCH, EPOCHS = 8, 5
STEPS = -(-CLASSES * TRAINING_PHOTOS // BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="where to work, for a look at it afterwards [a temporary folder]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.work:
        options.work.mkdir(parents=True)
        result = torment(options.work, options.kills, options.seed)
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = torment(Path(folder), options.kills, options.seed)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["failures"] else 0)


class Ended(NamedTuple):
    """How a process ended: `stage` and `steps` (of training) are what it said last and first."""

    killed: bool
    error: str
    stage: str
    first_step: int | None
    last_step: int
    seconds: float


def torment(work: Path, kills: int, seed: int) -> dict[str, Any]:
    write_photos(work / "photos")
    recipe = RRR(
        weights=str(write_weights(work / "weights.safetensors")),
        image_size=SIZE,
        branches=2,
        training=Training(epochs=EPOCHS, batch_size=BATCH),
    )
    whole = start_and_wait(work, recipe, "whole.rrr")
    if whole.error:
        raise SystemExit(f"A run that nobody killed failed: {whole.error}")
    expected = sha256(work / "whole.rrr" / WEIGHTS)
    dice, stages, failures = random.Random(seed), Counter[str](), list[str]()
    repeated, resumed_s = list[int](), list[float]()
    while stages.total() < kills:
        for left in (work / "it.rrr", work / ".it.rrr.work"):
            shutil.rmtree(left, ignore_errors=True)
        after_s = dice.uniform(0, whole.seconds)
        killed = start_and_wait(work, recipe, "it.rrr", kill_after_s=after_s)
        if not killed.killed:
            if killed.error:
                failures.append(f"without being killed: {killed.error}")
                break
            continue
        stages[killed.stage] += 1
        resumed = start_and_wait(work, recipe, "it.rrr", resume=True)
        resumed_s.append(resumed.seconds)
        again = killed.last_step - (resumed.first_step - 1) if resumed.first_step else 0
        repeated.append(again)
        if wrong := resumed.error or what_is_wrong(work / "it.rrr", expected) or ("" if again <= STEPS else f"{again}"):
            failures.append(f"kill {stages.total()} after {after_s:.2f} s ({killed.stage}): {wrong}")
    return {
        "kills": stages.total(),
        "killed_while": dict(stages),
        "failures": failures,
        "steps_per_epoch": STEPS,
        "epochs": EPOCHS,
        "most_steps_repeated": max(repeated),
        "median_steps_repeated": statistics.median(repeated),
        "whole_run_s": round(whole.seconds, 2),
        "median_resumed_run_s": round(statistics.median(resumed_s), 2),
    }


def what_is_wrong(path: Path, expected: str) -> str:
    try:
        bundle = Bundle.open(path)
        bundle.check()
    except RRREdgeError as error:
        return str(error)
    if bundle.manifest.accuracy is None or not bundle.manifest.verification.passed:
        return "the bundle is not whole"
    if sha256(path / WEIGHTS) != expected:
        return "the weights differ from those of a run that was not killed"
    left = [file.name for file in path.parent.iterdir() if file.name.startswith(".")]
    return f"left behind: {', '.join(left)}" if left else ""


def start_and_wait(
    work: Path, recipe: RRR, name: str, *, kill_after_s: float | None = None, resume: bool = False
) -> Ended:
    reader, writer = os.pipe()
    start = time.monotonic()
    if not (child := os.fork()):
        os.close(reader)
        compress_and_exit(work, recipe, name, writer=writer, resume=resume)
    os.close(writer)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as pipe:
        said = [line.rstrip("\n").split("\t") for line in pipe]
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - start
    errors = [line[1] for line in said if line[0] == "error"]
    steps = [int(line[1]) for line in said if line[0] == "train"]
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and kill_after_s is not None
    return Ended(
        killed=killed,
        error=errors[0] if errors else "" if killed or status == 0 else f"wait status {status}",
        stage=said[-1][0] if said else "start",
        first_step=steps[0] if steps else None,
        last_step=steps[-1] if steps else 0,
        seconds=seconds,
    )


def compress_and_exit(work: Path, recipe: Recipe, name: str, *, writer: int, resume: bool) -> NoReturn:
    """What the child does; it tells the pipe each step."""

    def report(step: Step) -> None:
        os.write(writer, f"{step.stage}\t{step.done}\t{step.total}\n".encode())

    status = 1
    try:
        compress(work / "photos", work / name, recipe=recipe, run=Run(device="cpu", resume=resume), on_progress=report)
        status = 0
    except BaseException as error:
        os.write(writer, f"error\t{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def write_photos(folder: Path, *, size: int = SIZE, train: int = TRAINING_PHOTOS) -> None:
    pixels = np.random.default_rng(0)
    for split, count in (("train", train), ("test", TEST_PHOTOS)):
        for label in range(CLASSES):
            (folder / split / f"class{label}").mkdir(parents=True)
            for number in range(count):
                image = pixels.integers(0, 128, (size, size, 3), dtype=np.uint8)
                image[..., label] += 100
                Image.fromarray(image).save(folder / split / f"class{label}" / f"{number}.png")


def write_weights(path: Path) -> Path:
    """Random ones of the blocks that are kept, as a file, so that the stump is adapted and frozen as usual."""
    torch.manual_seed(0)
    save_file(build(ResNetSpec(depths=(1, 1, 1, 1))).state_dict(), path)
    return path


if __name__ == "__main__":
    main()
