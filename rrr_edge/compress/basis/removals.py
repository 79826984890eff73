"""The removal of basis vectors, step by step, until enough are gone or too much is lost."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from rrr_edge.bundle.basis import BasisRow
from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.factored import delivered
from rrr_edge.bundle.files import write_file
from rrr_edge.bundle.recipe import BasisScaling
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.spec import BaseSpec, FactoredSpec, TorchvisionSpec
from rrr_edge.compress.basis.decompose import decompose, fold_norms, let_learn
from rrr_edge.compress.basis.pruning import fewest_removed, params_with, prune, weakest, without
from rrr_edge.compress.stages import Stage, Stages
from rrr_edge.errors import counted
from rrr_edge.networks import Network, build
from rrr_edge.training.checkpoint import EpochRow
from rrr_edge.training.whole import CrossEntropy

_TRANSFER, _KEPT = "transfer", "ranks.json"
# An accuracy of 7 in 10 is within a tenth of one of 8 in 10, of which floats are not sure.
_ROUNDING = 1e-9


class _Ranks(Record):
    """The ranks at the finished removals, in order."""

    ranks: tuple[dict[str, int], ...] = ()


class Found(NamedTuple):
    """The network to deliver, with its factors; all rows, and the number of the chosen one.

    `history` is the training of the chosen one from the beginning, `later_s` are the seconds of those after it.
    """

    network: Network
    rows: list[BasisRow]
    chosen: int
    stage: Stage
    history: tuple[EpochRow, ...]
    later_s: float


class Removals:
    """Runs the trainings and removals of `recipe`, or recalls those that an interrupted compression had finished.

    On disk are the weights of the last two networks only.
    """

    def __init__(self, recipe: BasisScaling, network: Network, stages: Stages) -> None:
        assert not isinstance(network.spec, FactoredSpec | TorchvisionSpec)
        self._recipe, self._stages = recipe, stages
        self._base: BaseSpec = network.spec
        self._whole = network
        self._finished: list[Stage] = []
        self._ranks: list[dict[str, int]] = []

    def run(self) -> Found:
        network = self._begin()
        before = network
        while True:
            self._learn(network)
            row = self.rows()[-1]
            if not row.within:
                return self._found(before, len(self._ranks) - 2)
            ranks = self._next(network, row)
            if ranks is None:
                return self._found(network, len(self._ranks) - 1)
            before, network = network, prune(network.cpu(), ranks)

    def rows(self) -> list[BasisRow]:
        found: list[BasisRow] = []
        recipe, whole = self._recipe, cost(self._base, self._recipe.image_size)
        for number, (ranks, stage) in enumerate(zip(self._ranks, self._finished, strict=True)):
            costs = cost(delivered(FactoredSpec(base=self._base, ranks=ranks)), recipe.image_size)
            accuracy, least, within = stage.judged.accuracy if stage.judged else None, None, True
            if recipe.sparsity == "auto" and accuracy is not None:
                first = found[0].accuracy if found else accuracy
                assert first is not None
                least = first - recipe.max_drop
                within = accuracy >= least - _ROUNDING
            found.append(
                BasisRow(
                    removals=number,
                    bases=sum(ranks.values()),
                    params=costs.params,
                    macs=costs.macs,
                    sparsity=1 - costs.params / whole.params,
                    accuracy=accuracy,
                    least=least,
                    within=within,
                    seconds=stage.seconds,
                )
            )
        return found

    def _begin(self) -> Network:
        """The network before the first removal, or, of an interrupted run, at the last but one."""
        kept = self._kept
        finished = _Ranks.from_json_file(kept).ranks if kept and self._resumes and kept.is_file() else ()
        start = max(0, len(finished) - 2)
        if start:
            self._ranks = list(finished[:start])
            self._finished = [self._stages.finished(_name(number)) for number in range(start)]
            self._transfer = self._stages.finished(_TRANSFER)
            return build(FactoredSpec(base=self._base, ranks=finished[start]))
        network, recipe = self._whole, self._recipe
        if recipe.fold_norm:
            fold_norms(network)
        decompose(network)
        let_learn(network, recipe.importance)
        objective = CrossEntropy(network, adapts=recipe.adapt_statistics)
        self._transfer = self._stages.run(_TRANSFER, objective, recipe.training)
        return network.cpu()

    def _learn(self, network: Network) -> None:
        recipe, number = self._recipe, len(self._ranks)
        let_learn(network, recipe.importance)
        training = recipe.training.model_copy(update={"epochs": recipe.epochs_per_prune})
        objective = CrossEntropy(network, adapts=recipe.adapt_statistics)
        stage = self._stages.run(_name(number), objective, training, seed=(recipe.seed + 1 + number) % 2**63)
        assert isinstance(network.spec, FactoredSpec)
        self._ranks.append(network.spec.ranks)
        self._finished.append(stage)
        if self._kept:
            write_file(self._kept, _Ranks(ranks=tuple(self._ranks)).to_json())
        if number:
            self._stages.forget(_name(number - 2) if number > 1 else _TRANSFER)

    def _next(self, network: Network, row: BasisRow) -> dict[str, int] | None:
        """The ranks after one more removal; None where that is not wanted, or not possible."""
        recipe, ranks = self._recipe, self._ranks[-1]
        order = weakest(network, recipe.normalise)
        count = max(1, round(recipe.prune_share * row.bases))
        if recipe.sparsity != "auto":
            target = self.target
            if params_with(self._base, ranks) <= target:
                return None
            count = min(count, fewest_removed(self._base, ranks, order, target))
        return without(ranks, order[:count]) if order else None

    @property
    def target(self) -> int:
        """How many parameters are to be left at most."""
        assert self._recipe.sparsity != "auto"
        return int(cost(self._base, self._recipe.image_size).params * (1 - self._recipe.sparsity))

    def _found(self, network: Network, chosen: int) -> Found:
        stages = [self._transfer, *self._finished[: chosen + 1]]
        history = [row for stage in stages for row in stage.history]
        numbered = tuple(row.model_copy(update={"epoch": i}) for i, row in enumerate(history, start=1))
        later_s = sum(stage.seconds for stage in self._finished[chosen + 1 :])
        return Found(network.cpu(), self.rows(), chosen, self._finished[chosen], numbered, later_s)

    @property
    def _resumes(self) -> bool:
        return self._stages.inputs.run.resume

    @property
    def _kept(self) -> Path | None:
        checkpoints = self._stages.inputs.run.checkpoints
        return checkpoints / _KEPT if checkpoints else None


def _name(number: int) -> str:
    return f"removal-{number:03}"


def table_of(rows: list[BasisRow]) -> str:
    """The rows as CSV; what there is none of is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(BasisRow._fields)
    writer.writerows(rows)
    return text.getvalue()


def notes_of(recipe: BasisScaling, found: Found, photos: int) -> tuple[str, ...]:
    """How the chosen network was found, where photos decided."""
    chosen, last = found.rows[found.chosen], found.rows[-1]
    if chosen.least is None or chosen.accuracy is None:
        return ()
    notes = [
        f"{counted(chosen.removals, 'removal')} of basis vectors, judged by {counted(photos, 'photo')} beside the test "
        f"photos: {chosen.accuracy:.1%} of them right, and at least {chosen.least:.1%} allowed"
        + ("." if last.within else f"; after one more {last.accuracy:.1%}.")
    ]
    if not last.within and 0 < recipe.max_drop * photos < 1 - _ROUNDING:
        notes.append(
            f"Of {counted(photos, 'photo')} {recipe.max_drop:.2%} is less than one, so the pruning ended with the "
            "first network that had fewer right, which may be chance. With more photos in a folder val, or a larger "
            "max_drop, it may go further."
        )
    return tuple(notes)
