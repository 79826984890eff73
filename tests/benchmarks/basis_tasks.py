"""Basis scaling on the study's drawn tasks: how much goes for one point, and against channels at the same parameters.

    python tests/benchmarks/basis_tasks.py [--domains digits,letters,shapes,textures] [--seeds 3] [--size 32]
                                           [--epochs 20] [--source-epochs 6] [--arms whole,chain] [--out FOLDER]

ImageNet's place is taken by a bottleneck ResNet of 9 blocks that has learned two of the four domains of examples/study.
On each of the other two, photos of train/ are learned from, those of val/ decide, those of test/ (other fonts, other
writers) are reported. The arm "whole" prunes that network, of which no weight is fine-tuned:

    basis      factors and classifier learn; vectors go until val/ has lost more than a point
    magnitude  channels of the smallest norm go at once, to the same parameters; then the classifier learns
    taylor     channels of the least Taylor term go, 10% at a time, to the same parameters; the classifier learns

all of them for the same number of epochs. The arm "chain" prunes the RRR-Net that was trained from it. Every finished
task is a line of FOLDER/results.jsonl, and what is there is not run again. Prints the tasks, and of each comparison the
mean difference with its 95% t-interval over the tasks' means and Wilcoxon's signed-rank test over all pairs.
"""

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from tailored_tasks import SOURCE_PHOTOS, SOURCES, draw_source, photos, right, shown

from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.factored import delivered
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import RRR, BasisScaling, BasisTraining, Training
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.bundle.verification import Accuracy
from rrr_edge.compress.basis.channels import Channels, slimmer
from rrr_edge.compress.basis.decompose import decompose, deliver
from rrr_edge.compress.basis.removals import Found, Removals
from rrr_edge.compress.method import Inputs
from rrr_edge.compress.rrr import RECYCLE
from rrr_edge.compress.rrr.slicing import reuse
from rrr_edge.compress.slimming import slim, slimming
from rrr_edge.compress.stages import Stages
from rrr_edge.images.dataset import Dataset, scan
from rrr_edge.networks import Network, ResNet, build
from rrr_edge.training import Examples, Run, minimise
from rrr_edge.training.whole import CrossEntropy

DEPTHS = (2, 2, 3, 2)
POINT = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", default=",".join(SOURCES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=20, help="before the first removal; of RRR-Net twice as many")
    parser.add_argument("--source-epochs", type=int, default=6)
    parser.add_argument("--arms", default="whole,chain")
    parser.add_argument("--normalise", default="layer", choices=("none", "layer", "cost"))
    parser.add_argument("--out", type=Path, default=Path("basis-tasks"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = options.out / "results.jsonl"
    found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    settings = {"size": options.size, "epochs": options.epochs, "normalise": options.normalise}
    settings |= {"source_epochs": options.source_epochs}
    arms = {"whole": whole_arm, "chain": chain_arm}
    for seed in range(options.seeds):
        for domain in options.domains.split(","):
            for arm in options.arms.split(","):
                place = {"arm": arm, "domain": domain, "seed": seed, **settings}
                if not any(place.items() <= result.items() for result in found):
                    task = Task(options, domain, seed)
                    since = time.perf_counter()
                    result = arms[arm](task)
                    found.append(place | result | {"seconds": round(time.perf_counter() - since)})
                    lines.write_text("".join(f"{json.dumps(one)}\n" for one in found))
                    print(json.dumps(found[-1]), flush=True)
    for arm in options.arms.split(","):
        report(arm, [r for r in found if settings.items() <= r.items() and r["arm"] == arm])
    print(f"\n{Environment.here(threads=1, versions={'torch': torch.__version__}).model_dump_json()}")


@dataclass(frozen=True)
class Judging(Stages):
    """Notes the accuracy on the test photos too, which decides nothing."""

    on_test: list[float] = field(default_factory=list)

    def judge(self, network: Network) -> Accuracy | None:
        self.on_test.append(right(network, self.inputs.dataset, "test"))  # type: ignore[arg-type]
        return super().judge(network)


class Task:
    """A domain's photos with a seed, and what its source network has learned."""

    def __init__(self, options: Any, domain: str, seed: int) -> None:
        self.seed, self.size, self.epochs = seed, options.size, options.epochs
        self.preprocess = Preprocess(image_size=self.size)
        self.dataset: Dataset = scan(photos(options.out, domain, self.size), self.preprocess, seed=seed)
        self.source = source_file(options.out, SOURCES[domain], self.size, options.source_epochs)
        self.train = Examples(self.dataset.train.images, self.dataset.train.labels)
        assert self.dataset.val is not None
        self.val = Examples(self.dataset.val.images, self.dataset.val.labels)
        self.recipe = BasisScaling(
            seed=seed,
            image_size=self.size,
            max_drop=POINT,
            normalise=options.normalise,
            training=BasisTraining(epochs=self.epochs, batch_size=32),
        )

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.dataset, self.train, self.preprocess, Run(device="cpu", on_progress=shown))

    @property
    def classes(self) -> int:
        return len(self.dataset.labels)

    def prune(self, network: Network) -> Found:
        stages = Judging(self.inputs, self.seed, self.val)
        found = Removals(self.recipe, network, stages).run()
        # The first is that of the transfer, the second that before the first removal.
        self.unpruned_test = stages.on_test[1]
        return found

    def begin(self) -> ResNet:
        spec = ResNetSpec(depths=DEPTHS, num_classes=self.classes)
        network = build(spec)
        network.load_state_dict(reuse(load_file(self.source), spec, seed=self.seed))
        return network

    def learn_head(self, network: Network, epochs: int, seed: int = 0) -> None:
        network.requires_grad_(False)
        network.fc.requires_grad_(True)
        training = Training(**(self.recipe.training.model_dump() | {"epochs": epochs}))
        objective = CrossEntropy(network, adapts=False)
        minimise(objective, self.train, training=training, preprocess=self.preprocess, seed=seed, run=self.inputs.run)

    def judged(self, name: str, network: Network) -> dict[str, float]:
        return {f"{name}_{split}": right(network, self.dataset, split) for split in ("val", "test")}  # type: ignore[arg-type]


def whole_arm(task: Task) -> dict[str, Any]:
    found = task.prune(task.begin())
    made, taken = deliver(found.network), found.rows[found.taken]
    whole = cost(task.begin().spec, task.size)
    first = found.rows[0]
    result = task.judged("basis", made) | {"unpruned_val": first.accuracy, "sparsity": taken.sparsity}
    result |= {"macs": taken.macs / whole.macs, "removals": taken.removals}
    result["unpruned_test"] = task.unpruned_test
    epochs = task.epochs + taken.removals + 1
    target = max(taken.params, 1)
    result |= task.judged("magnitude", by_magnitude(task, 1 - target / whole.params, epochs))
    result |= task.judged("taylor", by_taylor(task, target))
    return result


def by_magnitude(task: Task, sparsity: float, epochs: int) -> Network:
    network = task.begin()
    ratio = slimming(max(0.0, sparsity), network.spec).ratio  # type: ignore[arg-type]
    network = slim(network, ratio, criterion="magnitude", seed=task.seed) if ratio else network
    task.learn_head(network, epochs)
    return network


def by_taylor(task: Task, target: int) -> Network:
    network: Network = task.begin()
    task.learn_head(network, task.epochs)
    decompose(network)
    number = 0
    while cost(deliver(network).spec, task.size).params > target:
        channels = Channels(network, task.inputs)
        order = channels.weakest(task.recipe.normalise)
        count = max(1, round(task.recipe.prune_share * len(order)))
        while count > 1 and params_without(channels, order[: count - 1], task.size) <= target:
            count -= 1
        network = channels.without(order[:count])
        number += 1
        task.learn_head(network, 1, seed=number)
    return deliver(network)


def params_without(channels: Channels, gone: tuple[str, ...], size: int) -> int:
    return cost(delivered(slimmer(channels.spec, Counter(gone))), size).params


def chain_arm(task: Task) -> dict[str, Any]:
    """RRR-Net from the source's leading blocks, then basis scaling."""
    recipe = RRR(
        backbone="resnet50",
        weights=str(task.source),
        image_size=task.size,
        seed=task.seed,
        training=Training(epochs=2 * task.epochs, batch_size=32),
    )
    rrr = RECYCLE.make(RECYCLE.resolve(recipe), task.inputs).network.cpu().eval()
    result = task.judged("unpruned", rrr)
    before = cost(rrr.spec, task.size)
    found = task.prune(rrr)
    taken = found.rows[found.taken]
    result |= task.judged("basis", deliver(found.network))
    return result | {"sparsity": taken.sparsity, "macs": taken.macs / before.macs, "removals": taken.removals}


def source_file(out: Path, domains: tuple[str, str], size: int, epochs: int) -> Path:
    """The weights of a network of DEPTHS that has learned clear pictures of `domains`."""
    path = out / f"{'-'.join(domains)}-{size}-{epochs}.safetensors"
    if path.is_file():
        return path
    examples = draw_source(domains, SOURCE_PHOTOS // 2, size)
    torch.manual_seed(0)
    network = build(ResNetSpec(depths=DEPTHS, num_classes=int(examples.labels.max()) + 1))
    training = Training(epochs=epochs, batch_size=32, ema_fraction=0.0, augment=False)
    run = Run(device="cpu", on_progress=shown)
    trained = minimise(
        CrossEntropy(network), examples, training=training, preprocess=Preprocess(image_size=size), run=run
    )
    print(f"{path.name}: {trained.history[-1].train_accuracy:.1%} of what it learned, in the last epoch", flush=True)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return path


def report(arm: str, results: list[dict[str, Any]]) -> None:
    if not results:
        return
    names = [name for name in ("unpruned", "basis", "magnitude", "taylor") if f"{name}_test" in results[0]]
    columns = [f"{name} {split}" for name in names for split in ("val", "test")]
    print(f"\n{arm}\n| task | seed | parameters gone | MACs left | " + " | ".join(columns) + " |")
    print("|---|---:|---:|---:|" + "---:|" * len(columns))
    for r in sorted(results, key=lambda r: (r["domain"], r["seed"])):
        cells = " | ".join(f"{r[column.replace(' ', '_')]:.1%}" for column in columns)
        print(f"| {r['domain']} | {r['seed']} | {r['sparsity']:.1%} | {r['macs']:.1%} | {cells} |")
    gone = [r["sparsity"] for r in results]
    print(f"parameters gone: mean {np.mean(gone):.1%}, least {min(gone):.1%}, most {max(gone):.1%}")
    for other in names:
        if other != "basis":
            compare("basis", other, results)


def compare(one: str, other: str, results: list[dict[str, Any]]) -> None:
    differences = np.array([100 * (r[f"{one}_test"] - r[f"{other}_test"]) for r in results])
    domains = sorted({r["domain"] for r in results})
    means = [np.mean([d for d, r in zip(differences, results, strict=True) if r["domain"] == name]) for name in domains]
    said = f"{one} - {other}, points of test accuracy: {differences.mean():+.1f}"
    if len(means) > 1:
        low, high = stats.t.interval(0.95, len(means) - 1, np.mean(means), stats.sem(means))
        said += f" (95% t-interval over {len(means)} tasks {low:+.1f} to {high:+.1f})"
    if np.any(differences):
        said += f"; Wilcoxon over {len(differences)} pairs, two-sided: p = {stats.wilcoxon(differences).pvalue:.3g}"
    print(f"{said}; better in {int((differences > 0).sum())}, worse in {int((differences < 0).sum())}")


if __name__ == "__main__":
    main()
