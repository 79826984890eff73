"""What the study runs: a backbone from the other domains, then each condition on the target, one result after another.

A backbone is what ImageNet's weights are in the paper: a file of tensors in torchvision's naming, learned from
pictures that have nothing to do with the target. All conditions of a target and a seed begin with its same stump.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from domains import CLEAR, DOMAINS, draw_examples
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.files import sha256, write_file
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Schedule, Split, Training
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.spec import SMALLEST_DEPTHS, ResNetSpec, source_spec
from rrr_edge.bundle.structure import in_stump
from rrr_edge.compress.rrr.slicing import branch_widths, split
from rrr_edge.compress.weights import load_weights
from rrr_edge.errors import BadInput
from rrr_edge.networks import Network, ResNet, build
from rrr_edge.timing.progress import OnProgress, silent
from rrr_edge.training import CrossEntropy, Examples, Run, minimise, predict, reestimate_stump, train
from rrr_edge.training.stage_weights import state_of

BRANCHES = 8


class Condition(NamedTuple):
    """`split` fills the branches out of the backbone; None leaves them as they were drawn. The stump is always its."""

    branches: int
    split: Split | None
    dropout: float = 0.0
    shared_batches: bool = False


CONDITIONS: dict[str, Condition] = {
    "one branch": Condition(1, "paper"),
    "dropout": Condition(1, "paper", dropout=0.05),
    "paper": Condition(BRANCHES, "paper"),
    "coherent": Condition(BRANCHES, "coherent"),
    "random": Condition(BRANCHES, None),
    "coherent, shared": Condition(BRANCHES, "coherent", shared_batches=True),
}


class Settings(Record):
    """What decides the results beside the drawing; images are counted a class.

    `feature_views`: so many augmented views of an image go through the frozen stump once, and the branches learn from
    these. The backbone learns from pictures of `backbone_size` pixels, as large ones would take most of the time.
    """

    image_size: int = Field(default=128, ge=32)
    train_images: int = Field(default=20, ge=1)
    test_images: int = Field(default=40, ge=1)
    epochs: int = Field(default=12, ge=1)
    feature_views: int = Field(default=4, ge=1)
    backbone_size: int = Field(default=64, ge=32)
    backbone_images: int = Field(default=80, ge=1)
    backbone_epochs: int = Field(default=7, ge=1)


class Place(NamedTuple):
    """One run's place in the study."""

    seed: int
    domain: str
    condition: str


class Result(Record):
    """A finished run. `error` is the share of the test images answered wrongly, `branch_error` the branches' mean one.

    `backbone_error` is that of the backbone on pictures of its own domains that it did not learn from. `seconds` are
    the run's own, without what it has in common with others: the backbone and the adapted stump.
    """

    seed: int
    domain: str
    condition: str
    settings: Settings
    images: int
    error: float
    branch_error: float
    loss: float
    backbone_sha256: str
    backbone_error: float
    data_sha256: str
    seconds: float
    precision: str
    environment: Environment

    @property
    def place(self) -> Place:
        return Place(self.seed, self.domain, self.condition)

    @property
    def origin(self) -> tuple[str, str]:
        """What all results of a domain must have in common to be compared."""
        return self.data_sha256, self.backbone_sha256


def places(seeds: Sequence[int], domains: Sequence[str], conditions: Sequence[str]) -> list[Place]:
    """Seed by seed, so that a study that is stopped is balanced up to its last seed."""
    return [Place(seed, domain, condition) for seed in seeds for domain in domains for condition in conditions]


@dataclass(frozen=True)
class Results:
    """A file with one result a line, written only in whole lines."""

    path: Path

    def read(self) -> list[Result]:
        """All finished runs. A last line without an end was being written when its study died, and does not count."""
        text = self.path.read_text("utf-8") if self.path.is_file() else ""
        whole = text.split("\n")[:-1]
        return [Result.parse(_json(line, self.path), f"{self.path}, line {n}") for n, line in enumerate(whole, start=1)]

    def of(self, settings: Settings) -> list[Result]:
        """All finished runs. Raises BadInput where they are of another study."""
        results = self.read()
        if any(result.settings != settings for result in results):
            raise BadInput(
                f"{self.path} has results of other settings.", advice="Give those settings again, or another --out."
            )
        return results

    def append(self, result: Result) -> None:
        """Add one in a single step. Raises BadInput where the others are of another study."""
        earlier = self.of(result.settings)
        if any(other.domain == result.domain and other.origin != result.origin for other in earlier):
            raise BadInput(
                f"{self.path} has results for {result.domain} from other pictures or another backbone.",
                advice="Keep the --cache of those results, or give another --out.",
            )
        lines = [finished.model_dump_json() for finished in (*earlier, result)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path, "\n".join(lines) + "\n")


def _json(line: str, path: Path) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise BadInput(f"{path} is damaged: {error}.", advice="Remove that line.") from error


def run_study(
    todo: Sequence[Place], settings: Settings, *, results: Results, cache: Path, on_progress: OnProgress = silent
) -> Iterator[Result]:
    """Carry out the runs of `todo` one after the other, each written to `results` before it is yielded.

    The caller may stop between any two. Raises what training raises.
    """
    environment = Environment.here(threads=torch.get_num_threads(), versions={"torch": torch.__version__})
    target: _Target | None = None
    for place in todo:
        if target is None or (target.seed, target.domain) != (place.seed, place.domain):
            target = _prepare(place.seed, place.domain, settings, cache, on_progress)
        since = time.perf_counter()
        network, precision, loss = _learn(target, CONDITIONS[place.condition], settings, on_progress)
        outputs = predict(network, target.test.images, preprocess=_preprocess(settings.image_size))
        labels = target.test.labels
        result = Result(
            **place._asdict(),
            settings=settings,
            images=len(labels),
            error=float(np.mean(outputs.probabilities.argmax(1) != labels)),
            branch_error=float(np.mean(outputs.branch_probabilities.argmax(2) != labels[:, None])),
            loss=loss,
            backbone_sha256=target.backbone.sha256,
            backbone_error=target.backbone.error,
            data_sha256=target.data_sha256,
            seconds=round(time.perf_counter() - since, 1),
            precision=precision,
            environment=environment,
        )
        results.append(result)
        yield result


class Backbone(NamedTuple):
    path: Path
    sha256: str
    error: float


@dataclass(frozen=True)
class _Target:
    """What all conditions of a domain and a seed have in common."""

    seed: int
    domain: str
    train: Examples
    test: Examples
    weights: dict[str, Tensor]
    stump: dict[str, Tensor]
    backbone: Backbone

    @property
    def data_sha256(self) -> str:
        return hashlib.sha256(f"{self.train.sha256} {self.test.sha256}".encode()).hexdigest()


def _prepare(seed: int, domain: str, settings: Settings, cache: Path, on_progress: OnProgress) -> _Target:
    """Draw the pictures, the same for all seeds, and adapt the stump's batch statistics to them."""
    backbone = pretrain(domain, settings, cache=cache, on_progress=on_progress)
    weights, _ = load_weights(backbone.path, depths=SMALLEST_DEPTHS)
    size = settings.image_size
    train_set = draw_examples(domain, "train", settings.train_images, size=size)
    test_set = draw_examples(domain, "test", settings.test_images, size=size)
    network = build(ResNetSpec(depths=SMALLEST_DEPTHS, num_classes=len(DOMAINS[domain].classes)))
    network.load_state_dict(weights, strict=False)
    reestimate_stump(
        network,
        train_set,
        training=_training(settings),
        preprocess=_preprocess(size),
        seed=seed,
        run=Run(on_progress=on_progress),
    )
    stump = {name: tensor for name, tensor in state_of(network).items() if in_stump(name)}
    return _Target(seed, domain, train_set, test_set, weights, stump, backbone)


def _learn(
    target: _Target, condition: Condition, settings: Settings, on_progress: OnProgress
) -> tuple[Network, str, float]:
    """The trained network, the precision of its training, and the last epoch's loss."""
    network = _start(target, condition)
    trained = train(
        network,
        target.train,
        training=_training(settings, shared_batches=condition.shared_batches),
        preprocess=_preprocess(settings.image_size),
        seed=target.seed,
        run=Run(on_progress=on_progress),
    )
    return network, trained.precision, trained.history[-1].loss


def _start(target: _Target, condition: Condition) -> Network:
    classes = len(DOMAINS[target.domain].classes)
    _, c4, c5 = branch_widths(SMALLEST_DEPTHS, condition.branches, classes)
    spec = ResNetSpec(
        depths=SMALLEST_DEPTHS,
        branches=condition.branches,
        branch_widths=(c4, c5),
        num_classes=classes,
        dropout=condition.dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(target.seed)
        network = build(spec)
    drawn = network.state_dict()
    filled = split(target.weights, spec, seed=target.seed, how=condition.split) if condition.split else drawn
    network.load_state_dict({**filled, **target.stump})
    network.freeze_stump()
    return network


def pretrain(
    target: str, settings: Settings, *, cache: Path, resnet18: bool = False, on_progress: OnProgress = silent
) -> Backbone:
    """ResNet_1_1_1_1, or ResNet18, trained whole on all domains but `target`; from `cache` where it is there already.

    The file's name holds the hash of all that decides it, its pictures included; its checkpoints let a training that
    was killed go on.
    """
    size, sources = settings.backbone_size, [domain for domain in DOMAINS if domain != target]
    examples = _together(
        [draw_examples(d, "train", settings.backbone_images, size=size, spoiling=CLEAR) for d in sources]
    )
    training = Training(
        epochs=settings.backbone_epochs, batch_size=64, ema_fraction=0.0, shared_batches=True,
        schedule=Schedule(shape="cosine"),
    )  # fmt: skip
    key = hashlib.sha256(f"{examples.sha256} {training.model_dump_json()}".encode()).hexdigest()
    name = f"without-{target}{'-resnet18' if resnet18 else ''}-{key[:12]}"
    path = cache / f"{name}.safetensors"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        classes = int(examples.labels.max()) + 1
        spec = source_spec(classes, "resnet18") if resnet18 else ResNetSpec(depths=SMALLEST_DEPTHS, num_classes=classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build(spec)
        run = Run(checkpoints=path.with_suffix(".checkpoints"), resume=True, on_progress=on_progress)
        learn = partial(train, network) if isinstance(network, ResNet) else partial(minimise, CrossEntropy(network))
        learn(examples, training=training, preprocess=_preprocess(size), run=run)
        held_out = _together([draw_examples(d, "test", 10, size=size, spoiling=CLEAR) for d in sources])
        answers = predict(network, held_out.images, preprocess=_preprocess(size)).probabilities.argmax(1)
        wrong = float(np.mean(answers != held_out.labels))
        write_file(path, save(state_of(network), metadata={"error": str(wrong)}))
    with safe_open(path, framework="pt") as file:
        return Backbone(path, sha256(path), float(file.metadata()["error"]))


def _together(parts: Sequence[Examples]) -> Examples:
    """One task out of several, the classes of each after those of the one before."""
    labels, first = [], 0
    for part in parts:
        labels.append(part.labels + first)
        first += int(part.labels.max()) + 1
    return Examples(np.concatenate([part.images for part in parts]), np.concatenate(labels))


def _training(settings: Settings, *, shared_batches: bool = False) -> Training:
    """All training photos are learned from, as in the paper."""
    return Training(
        epochs=settings.epochs, shared_batches=shared_batches, feature_views=settings.feature_views, validation_share=0
    )


def _preprocess(size: int) -> Preprocess:
    return Preprocess(image_size=size)
