"""The search for how many blocks a task does without (Morgado and Vasconcelos 2019, section 3.4, repeated)."""

import csv
import io
from collections.abc import Callable
from typing import NamedTuple

from rrr_edge.bundle.folder import TAILORING, TAILORING_PLOT
from rrr_edge.bundle.recipe import NetTailor
from rrr_edge.bundle.tailored_structure import tailored_cost
from rrr_edge.bundle.tailoring import TailoringRow
from rrr_edge.compress.nettailor.pruning import pruned
from rrr_edge.compress.nettailor.stages import Stage, Stages
from rrr_edge.errors import UsageError, counted
from rrr_edge.networks.tailored import Tailored, shrink
from rrr_edge.report.tailoring import draw_tailoring

# From a pruned network and its stage's name to the tuned network.
Tune = Callable[[Tailored, str], Stage]


class Found(NamedTuple):
    """The network to deliver, its stage, the seconds of the stages before, and how it was found."""

    network: Tailored
    stage: Stage
    earlier_s: float
    files: dict[str, str]
    notes: tuple[str, ...]


def drop_so_many(recipe: NetTailor, student: Tailored, tune: Tune, count: int) -> Found:
    """Prune as the recipe says, and tune once. Raises UsageError where nothing would be left."""
    network = shrink(student, pruned(student.spec, threshold=recipe.prune_proxies, drop_blocks=count))
    return Found(network, tune(network, _name(count)), 0.0, {}, ())


def drop_as_many_as_go(recipe: NetTailor, student: Tailored, tune: Tune, stages: Stages, least: float) -> Found:
    """Drop 0, 1, 2, ... blocks, and tune each time, until the accuracy on the deciding photos is less than `least`.

    The leanest network before that is taken; where not even the first is as good, the first is.
    """
    rows: list[TailoringRow] = []
    best: tuple[int, Tailored, Stage] | None = None
    seconds = 0.0
    for count in range(student.spec.blocks + 1):
        try:
            spec = pruned(student.spec, threshold=recipe.prune_proxies, drop_blocks=count)
        except UsageError:
            break
        network = shrink(student, spec)
        stage = tune(network, _name(count))
        seconds += stage.seconds
        good = stage.accuracy >= least
        cost = tailored_cost(spec, recipe.image_size)
        proxies = sum(len(node.proxies) for node in spec.nodes)
        rows.append(
            TailoringRow(
                count, spec.blocks, proxies, cost.params, cost.macs, stage.accuracy, least, good, stage.seconds
            )
        )
        if best is None or good:
            if best:
                stages.forget(_name(best[0]))
            best = count, network, stage
        if not good:
            break
    if best is None:
        raise UsageError("Nothing leads through this network.", advice="Set a smaller prune_proxies.")
    count, network, stage = best
    files = {TAILORING: _table(rows), TAILORING_PLOT: draw_tailoring(rows, chosen=count)}
    notes = [
        f"{counted(count, 'block')} dropped: {counted(len(rows), 'network')} tuned, judged by "
        f"{counted(len(stages.judged_by or ()), 'photo')} beside the test photos; the least accuracy allowed was "
        f"{least:.1%}."
    ]
    if not rows[0].within:
        notes.append(
            f"No network was as accurate as that: the one with all blocks, and without its weakest proxies, reached "
            f"{rows[0].accuracy:.1%}."
        )
    return Found(network, stage, seconds - stage.seconds, files, tuple(notes))


def _name(count: int) -> str:
    return f"tune-without-{count:02}"


def _table(rows: list[TailoringRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TailoringRow._fields)
    writer.writerows(rows)
    return text.getvalue()
