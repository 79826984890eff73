"""How fast branches train, against the authors' way: one separate network after the other.

    python tests/benchmarks/training_throughput.py [--json] [--rounds 7] [--threads N] [--size 128] [--full VIEWS]
                                                   [--accuracy SEEDS]

The rival is written here, as the authors of RRR-Net train: every branch a network of its own, made of torchvision's
modules, with its own AdamW, its own augmented batches and its own float32 pass through the frozen stump. Ours are the
package's own steps, in this machine's best precision: batches that all branches share, batches of each branch's own,
and these from kept features. They are timed in turns in one process. An "image" has gone through a step of all eight
branches. The time of the paper's recipe (400 images, 300 epochs) is projected from it, with what keeping 64 views
of every image costs before; `--full VIEWS` really trains it.
"""

import argparse
import json
import resource
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck

from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.measurements import Measurement, Subject, ratio
from rrr_edge.bundle.recipe import Training
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.bundle.structure import STUMP_CHANNELS, in_stump
from rrr_edge.compress.rrr.slicing import branch_widths
from rrr_edge.networks import Network, build, cost
from rrr_edge.timing import machine
from rrr_edge.timing.interleave import TimingSettings, interleave
from rrr_edge.timing.progress import Step, silent
from rrr_edge.training import Examples, Run, predict, reestimate_stump, train
from rrr_edge.training.batches import Batches, normalise
from rrr_edge.training.branches import BranchCrossEntropy
from rrr_edge.training.checkpoint import Identity, TrainingProgress
from rrr_edge.training.objective import Computation
from rrr_edge.training.run import open_fabric, precision_of
from rrr_edge.training.share import Share
from rrr_edge.training.state import State

BRANCHES, CLASSES, DEPTHS = 8, 20, (1, 1, 1, 1)
IMAGES, BATCH, EPOCHS, VIEWS = 400, 32, 300, 64
IMAGES_TIMED, VIEWS_TIMED = 128, 4
KEPT = "own, kept features"
# The task of --accuracy: as many images a class to learn from as in the paper's Meta-Album, all others for the test.
TASK_SIZE, TASK_EPOCHS, TASK_IMAGES_A_CLASS = 64, 20, 20
OURS: dict[str, dict[str, Any]] = {
    "shared batches": {"shared_batches": True},
    "own batches": {},
    KEPT: {"feature_views": VIEWS},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--full", type=int, metavar="VIEWS", help="train the paper's recipe too; 0: without kept views")
    parser.add_argument("--accuracy", type=int, metavar="SEEDS", help="compare test errors too, over so many seeds")
    options = parser.parse_args()
    if options.accuracy == 1:
        parser.error("the errors of one seed say nothing of the others: --accuracy 2 or more")
    torch.set_num_threads(options.threads)
    result = measure(size=options.size, rounds=options.rounds, threads=options.threads)
    if options.full is not None:
        result["full"] = train_in_full(options.size, options.full)
    if options.accuracy:
        result["accuracy"] = compare_errors(range(options.accuracy))
    result["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps(result, indent=2) if options.json else as_text(result))


def measure(*, size: int, rounds: int, threads: int) -> dict[str, Any]:
    spec = spec_for(CLASSES)
    preprocess, examples = Preprocess(image_size=size), random_examples(IMAGES_TIMED, size)
    candidates: dict[str, Callable[[int], None]] = {
        "rival": Baseline(spec, examples, preprocess),
        "shared batches": Ours(spec, examples, preprocess, shared_batches=True),
        "own batches": Ours(spec, examples, preprocess),
        KEPT: (views := Ours(spec, examples, preprocess, feature_views=VIEWS_TIMED)),
    }
    timing = TimingSettings(runs=rounds, settle_runs=0, warm_up_ms=0, warm_up_runs=1, warm_up_limit_ms=0)
    timed = interleave(candidates, timing=timing)
    params = cost(spec, size).params
    rival, *measured = (
        Measurement(
            name=name,
            subject=Subject(
                backend="torch eager",
                precision="fp32" if name == "rival" else views.precision,
                threads=threads,
                params=params,
            ),
            samples_ms=timed.samples_ms[name],
            background_load=timed.background_load,
        )
        for name in candidates
    )
    rates = {m.name: 1000 * IMAGES_TIMED / m.summary.median_ms for m in (rival, *measured)}
    minutes = {name: IMAGES * EPOCHS / rate / 60 for name, rate in rates.items()}
    minutes[KEPT] += VIEWS * IMAGES * views.seconds_a_view / 60
    return {
        "size": size,
        "batch": BATCH,
        "branches": BRANCHES,
        "images_per_second": rates,
        "rival_over_ours": [ratio(rival, m).model_dump(mode="json") for m in measured],
        "paper_recipe_minutes_projected": minutes,
        "gb_of_kept_features": IMAGES * VIEWS * STUMP_CHANNELS * (size // 8) ** 2 * 2 / 1e9,
        "measurements": [m.model_dump(mode="json") for m in (rival, *measured)],
        "environment": Environment.here(threads=threads, versions={"torch": torch.__version__}).model_dump(mode="json"),
    }


def train_in_full(size: int, views: int) -> dict[str, Any]:
    """The paper's recipe for 20 images of each of 20 classes, on random pixels: only the time means anything."""
    network = build(spec_for(CLASSES))
    network.freeze_stump()
    start = time.perf_counter()
    train(
        network,
        random_examples(IMAGES, size),
        training=Training(epochs=EPOCHS, batch_size=BATCH, feature_views=views),
        preprocess=Preprocess(image_size=size),
        run=Run(on_progress=on_stderr),
    )
    return {"feature_views": views, "minutes": (time.perf_counter() - start) / 60}


def compare_errors(seeds: Sequence[int]) -> dict[str, Any]:
    """Test errors of eight branches that vote, and the differences from the rival's: mean, 95% t-interval, seeds.

    Nothing but the way of training and its precision differ: the same random weights to begin with; one stump, whose
    weights stay and whose statistics are those of the images; AdamW at a constant rate; no average over the last
    epochs. The seeds draw from the same digits, so the interval is about luck in training. A branch draws 20 of an
    image's 64 views here; in the paper's 300 epochs each of them comes back five times, which this does not test.
    """
    preprocess = Preprocess(image_size=TASK_SIZE)
    errors: dict[str, list[float]] = {name: [] for name in ("rival", *OURS)}
    for seed in seeds:
        learned, asked = digits(seed)
        spec = spec_for(int(learned.labels.max()) + 1)
        training = Training(epochs=TASK_EPOCHS, batch_size=BATCH, ema_fraction=0)
        for name, how in OURS.items():
            network = adapted(spec, learned, preprocess, training, seed)
            train(
                network, learned, training=training.model_copy(update=how), preprocess=preprocess, seed=seed, run=Run()
            )
            answers = predict(network, asked.images, preprocess=preprocess).probabilities.argmax(1)
            errors[name].append(float(np.mean(answers != asked.labels)))
        network = adapted(spec, learned, preprocess, training, seed)
        rival = Baseline(spec, learned, preprocess, seed=seed)
        rival.take(network.state_dict())
        for epoch in range(TASK_EPOCHS):
            rival(epoch)
        errors["rival"].append(float(np.mean(rival.answer(asked.images) != asked.labels)))
        print(f"seed {seed}: {', '.join(f'{name} {of[-1]:.1%}' for name, of in errors.items())}", file=sys.stderr)
    differences = {name: np.subtract(errors[name], errors["rival"]) for name in OURS}
    return {
        "seeds": len(seeds),
        "epochs": TASK_EPOCHS,
        "errors": errors,
        "difference_from_rival": {
            name: {"mean": float(each.mean()), "half_width": half_width(each)} for name, each in differences.items()
        },
    }


def half_width(values: Any) -> float:
    """Of the 95% t-interval of the mean."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def adapted(spec: ResNetSpec, examples: Examples, preprocess: Preprocess, training: Training, seed: int) -> Network:
    torch.manual_seed(seed)
    network = build(spec)
    reestimate_stump(network, examples, training=training, preprocess=preprocess, seed=seed)
    return network


def digits(seed: int) -> tuple[Examples, Examples]:
    """To learn from and to be asked, drawn anew for every seed."""
    bunch = load_digits()
    gray = [Image.fromarray(np.uint8(image * 255 / 16)) for image in bunch.images]
    large = [image.resize((TASK_SIZE, TASK_SIZE), Image.Resampling.BILINEAR).convert("RGB") for image in gray]
    images, labels = np.stack([np.asarray(image) for image in large]), bunch.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    learned = np.concatenate([order[labels[order] == label][:TASK_IMAGES_A_CLASS] for label in range(10)])
    asked = np.setdiff1d(order, learned)
    return Examples(images[learned], labels[learned]), Examples(images[asked], labels[asked])


def spec_for(classes: int) -> ResNetSpec:
    _, *widths = branch_widths(DEPTHS, BRANCHES, classes)
    return ResNetSpec(depths=DEPTHS, branches=BRANCHES, branch_widths=tuple(widths), num_classes=classes)


class Ours:
    """An epoch of the package's training, begun where the last call ended."""

    def __init__(self, spec: ResNetSpec, examples: Examples, preprocess: Preprocess, **settings: Any) -> None:
        torch.manual_seed(0)
        network = build(spec)
        network.freeze_stump()
        # Kept for good, unlike in `train`: nothing else uses the network.
        network.to(memory_format=torch.channels_last).train()
        training = Training(epochs=EPOCHS, batch_size=BATCH, ema_fraction=0, **settings)
        fabric = open_fabric(Run(device="cpu"))
        self.precision = precision_of(Run(), fabric.device)
        streams = range(1 if training.shared_batches else spec.branches)
        self._batches = Batches(examples, 0, BATCH, streams=streams)
        identity = Identity(training=training, seed=0, precision=self.precision, data_sha256="", network_sha256="")
        progress = TrainingProgress(identity=identity, steps_per_epoch=self._batches.steps)
        at = Computation(fabric, self.precision, preprocess)
        objective = BranchCrossEntropy(network)
        self._state = State(objective, Share(fabric, network), at, training=training, progress=progress)
        if training.feature_views:
            start = time.perf_counter()
            self._batches = self._state.objective.prepare(self._batches, training, at, silent)
            self.seconds_a_view = (time.perf_counter() - start) / (training.feature_views * len(examples))

    def __call__(self, run: int) -> None:
        first = self._state.progress.step
        for batch in self._batches.run(first, first + self._batches.steps):
            self._state.learn(batch, since=time.perf_counter())


class Baseline:
    """An epoch of one branch, then of the next."""

    def __init__(self, spec: ResNetSpec, examples: Examples, preprocess: Preprocess, *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self._preprocess = preprocess
        self._stump = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False),
                bn1=nn.BatchNorm2d(64),
                relu=nn.ReLU(inplace=True),
                maxpool=nn.MaxPool2d(3, 2, 1),
                layer1=nn.Sequential(bottleneck(64, 64, 1)),
                layer2=nn.Sequential(bottleneck(256, 128, 2)),
            )
        )
        self._stump.eval().requires_grad_(False)
        c4, c5 = spec.branch_widths
        self._branches = [
            nn.Sequential(
                OrderedDict(
                    layer3=nn.Sequential(bottleneck(512, c4, 2)),
                    layer4=nn.Sequential(bottleneck(4 * c4, c5, 2)),
                    avgpool=nn.AdaptiveAvgPool2d(1),
                    flatten=nn.Flatten(),
                    fc=nn.Linear(4 * c5, spec.num_classes),
                )
            )
            for _ in range(spec.branches)
        ]
        built = sum(p.numel() for part in (self._stump, *self._branches) for p in part.parameters())
        if built != (expected := cost(spec, preprocess.image_size).params):
            raise SystemExit(f"The rival has {built} parameters, and not {expected}.")
        self._optimizers = [torch.optim.AdamW(b.parameters(), lr=1e-3, weight_decay=0.01) for b in self._branches]
        self._batches = [Batches(examples, seed, BATCH, streams=range(i, i + 1)) for i in range(spec.branches)]

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Begin where the fused network with this state would: each branch has its rows of every tensor."""
        self._stump.load_state_dict({name: tensor for name, tensor in state.items() if in_stump(name)})
        tail = {name: tensor for name, tensor in state.items() if not in_stump(name)}
        for number, branch in enumerate(self._branches):
            branch.load_state_dict({n: t.chunk(BRANCHES)[number] if t.ndim else t for n, t in tail.items()})

    def answer(self, images: Any) -> Any:
        """The classes for which the branches vote."""
        for branch in self._branches:
            branch.eval()
        with torch.inference_mode():
            inputs = normalise(torch.from_numpy(images).permute(0, 3, 1, 2), self._preprocess)
            features = torch.cat([self._stump(part) for part in inputs.split(64)])
            return sum(branch(features).softmax(1) for branch in self._branches).argmax(1).numpy()

    def __call__(self, run: int) -> None:
        for branch, optimizer, batches in zip(self._branches, self._optimizers, self._batches, strict=True):
            for images, labels in batches.run(run * batches.steps, (run + 1) * batches.steps):
                inputs = normalise(images[:, 0], self._preprocess).contiguous()
                loss = F.cross_entropy(branch(self._stump(inputs)), labels[:, 0])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()


def bottleneck(inputs: int, planes: int, stride: int) -> nn.Module:
    skip = nn.Sequential(nn.Conv2d(inputs, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes))
    block: nn.Module = Bottleneck(inputs, planes, stride, skip)
    return block


def random_examples(count: int, size: int) -> Examples:
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Examples(images, np.arange(count) % CLASSES)


def on_stderr(step: Step) -> None:
    if step.done % 100 == 0:
        print(f"{step.stage} {step.done} of {step.total}  {step.note}", file=sys.stderr)


def as_text(result: dict[str, Any]) -> str:
    environment = result["environment"]
    minutes = result["paper_recipe_minutes_projected"]
    gains = {r["to"]: r for r in result["rival_over_ours"]}
    lines = [
        f"{name:20} {rate:6.1f} images/s, the paper's recipe {minutes[name]:6.1f} min"
        + (f", {g['value']:.2f} times the rival (95% {g['interval'][0]:.2f} .. {g['interval'][1]:.2f})" if g else "")
        for name, rate in result["images_per_second"].items()
        for g in [gains.get(name)]
    ]
    if "full" in result:
        lines.append(f"really trained, {result['full']['feature_views']} views: {result['full']['minutes']:.1f} min")
    if "accuracy" in result:
        found = result["accuracy"]
        title = f"test errors on digits, {found['seeds']} seeds, {found['epochs']} epochs: rival"
        lines.append(f"{title} {np.mean(found['errors']['rival']):.2%}")
        lines += [
            f"{name:20} {np.mean(found['errors'][name]):.2%}, {100 * d['mean']:+.2f} points from the rival's "
            f"(95% ± {100 * d['half_width']:.2f})"
            for name, d in found["difference_from_rival"].items()
        ]
    lines.append(f"{VIEWS} kept views of {IMAGES} images: {result['gb_of_kept_features']:.1f} GB")
    unstable = [m["name"] for m in result["measurements"] if m["summary"]["unstable"]]
    if unstable:
        lines.append(f"unstable: {', '.join(unstable)}; close other programs and repeat")
    return "\n".join(
        [
            *lines,
            f"peak memory {result['peak_memory_gb']:.1f} GB",
            f"{environment['cpu']}, {environment['threads']} threads, torch {environment['versions']['torch']}",
        ]
    )


if __name__ == "__main__":
    main()
