"""The removal of basis vectors, and of channels, step by step, until enough are gone or too much is lost."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rrr_edge.bundle.basis import BasisRow
from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.factored import delivered
from rrr_edge.bundle.files import write_file
from rrr_edge.bundle.recipe import BasisScaling
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.spec import BaseSpec, FactoredSpec, TorchvisionSpec
from rrr_edge.compress.basis.channels import Channels, all_but_one, require_channels, slimmer
from rrr_edge.compress.basis.decompose import decompose, fold_norms, let_learn
from rrr_edge.compress.basis.pruning import prune, removals_at_most, removals_of, weakest, without
from rrr_edge.compress.basis.rows import row_of
from rrr_edge.compress.chain import name_of
from rrr_edge.compress.stages import Stage, Stages
from rrr_edge.compress.validation import require_better_than_guessing
from rrr_edge.networks import Network, build
from rrr_edge.training.checkpoint import EpochRow
from rrr_edge.training.whole import CrossEntropy

_TRANSFER, _STEPS = "transfer", "steps.json"


class _Step(Record):
    """A finished training: the network's spec, and how many of the ways to remove had come to their end before."""

    spec: FactoredSpec
    way: int


class _Steps(Record):
    steps: tuple[_Step, ...] = ()


class Found(NamedTuple):
    """The network to deliver, with its factors; all rows, and the number of the taken one.

    `history` is the training of the taken one from the beginning, `later_s` are the seconds of those after it.
    """

    network: Network
    rows: list[BasisRow]
    taken: int
    stage: Stage
    history: tuple[EpochRow, ...]
    later_s: float


def trainings_of(recipe: BasisScaling, base: BaseSpec) -> int:
    """How many trainings the removals from a network of `base` take at most, unless channels go up to a sparsity.

    Then it is about so many: the share of the parameters that is left is taken for the square of the channels'.
    """
    sparsity = None if recipe.sparsity == "auto" else recipe.sparsity
    removals = removals_at_most(base, recipe.prune_share, sparsity)
    if recipe.then == "channel":
        channels = sum(all_but_one(require_channels(base, name_of(recipe))).values())
        left = (1 - (recipe.then_sparsity or 1.0)) / (1 - (sparsity or 0.0))
        removals += removals_of(round((1 - math.sqrt(left)) * channels), recipe.prune_share, left=channels + 1)
    return 1 + removals


class Removals:
    """Runs the trainings and removals of `recipe`, or recalls those that an interrupted compression had finished."""

    def __init__(self, recipe: BasisScaling, network: Network, stages: Stages) -> None:
        assert not isinstance(network.spec, FactoredSpec | TorchvisionSpec)
        self._recipe, self._stages, self._source = recipe, stages, network
        self._whole = cost(network.spec, recipe.image_size).params
        self._steps: list[_Step] = []
        self._finished: list[Stage] = []
        self._forgotten: set[str] = set()
        self._ways: list[Callable[[Network], Network | None]] = [self._without_vectors]
        if recipe.then == "channel":
            self._ways.append(self._without_channels)

    def run(self) -> Found:
        """Raises GateFailed where an accuracy is to be kept that may be chance, and what a training raises."""
        network, way = self._begin()
        good, taken, missed = network, 0, 0
        while True:
            self._learn(network, way)
            network = network.cpu()
            if self.rows()[-1].within:
                good, taken, missed = network, len(self._steps) - 1, 0
                self._forget_before(taken)
            else:
                missed += 1
            smaller = self._ways[way](network) if missed <= self._recipe.patience else None
            while smaller is None:
                way, missed = way + 1, 0
                if way == len(self._ways):
                    return self._found(good, taken)
                smaller = self._ways[way](good)
            network = smaller

    def rows(self) -> list[BasisRow]:
        found: list[BasisRow] = []
        for step, stage in zip(self._steps, self._finished, strict=True):
            found.append(row_of(self._recipe, step.spec, stage, whole=self._whole, earlier=found))
        return found

    def _begin(self) -> tuple[Network, int]:
        """The network before the first removal; of an interrupted run, the last that was good, and its way."""
        note, recipe = self._note, self._recipe
        if note and self._stages.inputs.run.resume and note.is_file():
            steps = _Steps.from_json_file(note).steps
            self._transfer = self._stages.finished(_TRANSFER)
            self._steps = list(steps)
            self._finished = [self._stages.finished(_name(number)) for number in range(len(steps))]
            start = max(number for number, row in enumerate(self.rows()) if row.within)
            del self._steps[start:], self._finished[start:]
            return build(steps[start].spec), steps[start].way
        network = self._source
        if recipe.fold_norm:
            fold_norms(network)
        decompose(network)
        let_learn(network, recipe.importance)
        objective = CrossEntropy(network, adapts=recipe.adapt_statistics)
        self._transfer = self._stages.run(_TRANSFER, objective, recipe.training)
        if recipe.sparsity == "auto":
            require_better_than_guessing(
                self._transfer.judged,
                len(self._stages.inputs.dataset.labels),
                network="network",
                to_tell="how much accuracy pruning loses",
                instead="--sparsity 0.5",
            )
        return network.cpu(), 0

    def _learn(self, network: Network, way: int) -> None:
        recipe, number = self._recipe, len(self._steps)
        let_learn(network, recipe.importance)
        training = recipe.training.model_copy(update={"epochs": recipe.epochs_per_prune})
        objective = CrossEntropy(network, adapts=recipe.adapt_statistics)
        stage = self._stages.run(_name(number), objective, training, seed=(recipe.seed + 1 + number) % 2**63)
        assert isinstance(network.spec, FactoredSpec)
        self._steps.append(_Step(spec=network.spec, way=way))
        self._finished.append(stage)
        if self._note:
            write_file(self._note, _Steps(steps=tuple(self._steps)).to_json())

    def _forget_before(self, number: int) -> None:
        """An interrupted run goes on from the last good network, of which those that followed it come again."""
        for name in (_TRANSFER, *(_name(earlier) for earlier in range(number))):
            if name not in self._forgotten:
                self._stages.forget(name)
                self._forgotten.add(name)

    def _without_vectors(self, network: Network) -> Network | None:
        """With fewer basis vectors; None where that is not wanted, or not possible."""
        recipe, spec = self._recipe, _factored(network)
        order = weakest(network, recipe.normalise)
        wanted = None if recipe.sparsity == "auto" else recipe.sparsity
        removed = self._as_many(order, sum(spec.ranks.values()), wanted, lambda gone: _without(spec, gone))
        return prune(network, _without(spec, removed).ranks) if removed else None

    def _without_channels(self, network: Network) -> Network | None:
        """With fewer channels; None where that is not wanted, or not possible."""
        recipe = self._recipe
        channels = Channels(network, self._stages.inputs)
        order = channels.weakest(recipe.normalise)
        removed = self._as_many(
            order, len(order) + 1, recipe.then_sparsity, lambda gone: slimmer(channels.spec, Counter(gone))
        )
        return channels.without(removed) if removed else None

    def _as_many(
        self,
        order: tuple[str, ...],
        left: int,
        wanted: float | None,
        spec_without: Callable[[tuple[str, ...]], FactoredSpec],
    ) -> tuple[str, ...]:
        """The first of `order` that go in one removal: the recipe's share of those that are `left`, or no more than are
        needed for the `wanted` share of the parameters."""
        most = min(len(order), max(1, round(self._recipe.prune_share * left)))
        if wanted is None:
            return order[:most]
        target = int(self._whole * (1 - wanted))
        low, high = 0, most
        while low < high:
            middle = (low + high) // 2
            if cost(delivered(spec_without(order[:middle])), image_size=32).params <= target:
                high = middle
            else:
                low = middle + 1
        return order[:low]

    def _found(self, network: Network, taken: int) -> Found:
        stages = [self._transfer, *self._finished[: taken + 1]]
        history = [row for stage in stages for row in stage.history]
        numbered = tuple(row.model_copy(update={"epoch": i}) for i, row in enumerate(history, start=1))
        later_s = sum(stage.seconds for stage in self._finished[taken + 1 :])
        return Found(network, self.rows(), taken, self._finished[taken], numbered, later_s)

    @property
    def _note(self) -> Path | None:
        checkpoints = self._stages.inputs.run.checkpoints
        return checkpoints / _STEPS if checkpoints else None


def _factored(network: Network) -> FactoredSpec:
    assert isinstance(network.spec, FactoredSpec)
    return network.spec


def _without(spec: FactoredSpec, removed: tuple[str, ...]) -> FactoredSpec:
    """`spec` when the convolutions named in `removed` have lost a basis vector for each time."""
    return FactoredSpec(base=spec.base, ranks=without(spec.ranks, removed))


def _name(number: int) -> str:
    return f"removal-{number:03}"
