"""A whole basis scaling, double pruning included: its time and memory, and what is left of it when it is killed.

    python tests/benchmarks/basis_run.py [--backbone resnet50] [--size 64] [--photos 12] [--epochs 2] [--sparsity 0.5]
                                         [--then-sparsity 0.7] [--threads 1] [--seed 0] [--work FOLDER]

Random weights stand in for ImageNet's. A process compresses a few photos with the method basis, undisturbed. Then the
same is begun again, killed with SIGKILL at a step drawn from each phase in turn (before the first removal, the first, a
middle and the last one, evaluation), and resumed each time. It must repeat no more than one epoch, and end with the
same weights, byte for byte. The processes are forked from one that has imported everything. Prints a JSON summary; exit
status 1 where anything differs.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from kill_and_resume import what_is_wrong, write_photos
from tailored_run import Told, run

from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import WEIGHTS, Bundle
from rrr_edge.bundle.recipe import BasisScaling, BasisTraining

TRANSFER = "transfer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--photos", type=int, default=12, help="training photos of each of three classes")
    parser.add_argument("--epochs", type=int, default=2, help="before the first removal")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--then-sparsity", type=float, default=0.7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="where to work, for a look at it afterwards [a temporary folder]")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        write_photos(work / "photos", size=options.size, train=options.photos)
        recipe = BasisScaling(
            backbone=options.backbone,
            weights="random",
            image_size=options.size,
            sparsity=options.sparsity,
            then="channel",
            then_sparsity=options.then_sparsity,
            prune_share=0.25,
            training=BasisTraining(epochs=options.epochs, batch_size=6),
        )
        result = torment(work, recipe, seed=options.seed)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["failures"] else 0)


def torment(work: Path, recipe: BasisScaling, *, seed: int) -> dict[str, Any]:
    whole = run(work, recipe, "whole.rrr")
    if whole.error or whole.status:
        raise SystemExit(f"A run that nobody killed failed: {whole.error or whole.status}")
    expected = sha256(work / "whole.rrr" / WEIGHTS)
    steps = {told.stage: told.total for told in whole.told}
    removals = [stage for stage in steps if stage.startswith("removal")]
    epoch = {TRANSFER: steps[TRANSFER] // recipe.training.epochs, **{stage: steps[stage] for stage in removals}}
    draw, before = random.Random(seed), list[Told]()
    kills, failures = dict[str, int](), list[str]()
    some = dict.fromkeys((removals[0], removals[len(removals) // 2], removals[-1]))
    for phase in (TRANSFER, *some, "evaluate", None):
        at = Told(phase, draw.randint(1, steps[phase]) if phase in epoch else 0, steps[phase]) if phase else None
        ended = run(work, recipe, "it.rrr", kill_at=at, resume=bool(before))
        again = [told for told in ended.told if told in before and told.stage in epoch]
        if any(len(again) > epoch[told.stage] for told in again):
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
        "killed_at, and steps repeated before": kills,
        "failures": failures,
    }


if __name__ == "__main__":
    main()
