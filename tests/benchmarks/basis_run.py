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
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from kill_and_resume import write_photos
from tailored_run import Phases, torment

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
        result = torment(work, recipe, partial(phases_of, recipe), seed=options.seed)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["failures"] else 0)


def phases_of(recipe: BasisScaling, steps: Mapping[str, int]) -> Phases:
    removals = [stage for stage in steps if stage.startswith("removal")]
    return Phases(
        kill_in=(TRANSFER, *dict.fromkeys((removals[0], removals[len(removals) // 2], removals[-1]))),
        epoch={TRANSFER: steps[TRANSFER] // recipe.training.epochs, **{stage: steps[stage] for stage in removals}},
    )


if __name__ == "__main__":
    main()
