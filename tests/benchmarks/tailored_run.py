"""A whole tailoring of a ResNet50 at 64 pixels: its time and memory, and what is left of it when it is killed.

    python tests/benchmarks/tailored_run.py [--backbone resnet50] [--size 64] [--photos 12] [--epochs 2]
                                            [--drop-blocks 2] [--threads 1] [--seed 0] [--work FOLDER]

Random weights stand in for ImageNet's. Their teacher guesses, so a number of blocks goes: a search for it (auto) is
refused. A process compresses a few photos with the method nettailor, undisturbed. Then the same is begun again, killed
with SIGKILL at a step drawn from each phase in turn (teacher, student, tuning, evaluation), and resumed each time. It
must repeat no more than one epoch, and end with the same weights, byte for byte. The processes are forked from one that
has imported everything. Prints a JSON summary; exit status 1 where anything differs.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from kill_and_resume import compress_and_exit, what_is_wrong, write_photos

from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import WEIGHTS, Bundle
from rrr_edge.bundle.recipe import NetTailor, Recipe, TailorTraining


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--photos", type=int, default=12, help="training photos of each of three classes")
    parser.add_argument("--epochs", type=int, default=2, help="of the teacher and the student; each tuning has half")
    parser.add_argument("--drop-blocks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="where to work, for a look at it afterwards [a temporary folder]")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        write_photos(work / "photos", size=options.size, train=options.photos)
        recipe = NetTailor(
            backbone=options.backbone,
            weights="random",
            image_size=options.size,
            training=TailorTraining(epochs=options.epochs, batch_size=6, learning_rate=0.02),
            tune_epochs=max(1, options.epochs // 2),
            drop_blocks=options.drop_blocks,
        )
        result = torment(work, recipe, partial(phases_of, recipe), seed=options.seed)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["failures"] else 0)


class Told(NamedTuple):
    """A line from the process at work."""

    stage: str
    done: int
    total: int


class Ended(NamedTuple):
    """How a process ended, and what it told."""

    killed: bool
    status: int
    told: list[Told]
    error: str
    seconds: float
    peak_mb: float


class Phases(NamedTuple):
    """The stages to be killed in, and the steps of an epoch in those that train."""

    kill_in: tuple[str, ...]
    epoch: dict[str, int]


def phases_of(recipe: NetTailor, steps: Mapping[str, int]) -> Phases:
    tunings = [stage for stage in steps if stage.startswith("tune")]
    epochs = dict.fromkeys(("teacher", "student"), recipe.training.epochs)
    epochs |= dict.fromkeys(tunings, recipe.tune_epochs or recipe.training.epochs)
    return Phases(
        kill_in=("teacher", "student", *dict.fromkeys((tunings[0], tunings[-1]))),
        epoch={stage: steps[stage] // count for stage, count in epochs.items()},
    )


def torment(
    work: Path, recipe: Recipe, phases_of: Callable[[Mapping[str, int]], Phases], *, seed: int
) -> dict[str, Any]:
    """Compress undisturbed, and again, killed in each of the phases that follow from the steps by stage."""
    whole = run(work, recipe, "whole.rrr")
    if whole.error or whole.status:
        raise SystemExit(f"A run that nobody killed failed: {whole.error or whole.status}")
    expected = sha256(work / "whole.rrr" / WEIGHTS)
    steps = {told.stage: told.total for told in whole.told}
    phases = phases_of(steps)
    draw, before = random.Random(seed), list[Told]()
    kills, failures = dict[str, int](), list[str]()
    for phase in (*phases.kill_in, "evaluate", None):
        drawn = draw.randint(1, steps[phase]) if phase in phases.epoch else 0
        at = Told(phase, drawn, steps[phase]) if phase else None
        ended = run(work, recipe, "it.rrr", kill_at=at, resume=bool(before))
        again = [told for told in ended.told if told in before and told.stage in phases.epoch]
        if any(len(again) > phases.epoch[told.stage] for told in again):
            failures.append(f"{ended.told[0]}: more than an epoch is repeated")
        if at and not ended.killed:
            failures.append(f"it ended before {at}: {ended.error}")
            break
        kills[f"{at.stage} {at.done} of {at.total}" if at else "not again"] = len(again)
        before = ended.told
    if wrong := ended.error or what_is_wrong(work / "it.rrr", expected):
        failures.append(wrong)
    cost = Bundle.open(work / "whole.rrr").manifest.cost
    return {
        "backbone": recipe.backbone,
        "image_size": recipe.image_size,
        "steps": steps,
        "whole_run_s": round(whole.seconds, 1),
        "peak_mb": round(whole.peak_mb),
        "parameters": cost.params,
        "of_them_shared": cost.shared_params,
        "killed_at, and steps repeated before": kills,
        "failures": failures,
    }


def run(work: Path, recipe: Recipe, name: str, *, kill_at: Told | None = None, resume: bool = False) -> Ended:
    """Fork a process that compresses, and kill it once it has told `kill_at`."""
    reader, writer = os.pipe()
    start = time.monotonic()
    if not (child := os.fork()):
        os.close(reader)
        compress_and_exit(work, recipe, name, writer=writer, resume=resume)
    os.close(writer)
    told, error = [], ""
    with os.fdopen(reader) as pipe:
        for line in pipe:
            stage, *numbers = line.rstrip("\n").split("\t")
            if stage == "error":
                error = numbers[0]
                continue
            told.append(Told(stage, *map(int, numbers)))
            if told[-1] == kill_at:
                os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and kill_at is not None
    return Ended(killed, status, told, error, time.monotonic() - start, usage.ru_maxrss / 1000)


if __name__ == "__main__":
    main()
