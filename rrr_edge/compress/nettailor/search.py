"""The search for how many blocks a task does without (Morgado and Vasconcelos 2019, section 3.4, repeated)."""

import csv
import io
from collections.abc import Callable
from typing import NamedTuple

from rrr_edge.bundle.folder import TAILORING, TAILORING_PLOT
from rrr_edge.bundle.recipe import NetTailor
from rrr_edge.bundle.tailored_structure import tailored_cost
from rrr_edge.bundle.tailoring import TailoringRow
from rrr_edge.compress.nettailor.pruning import leaner
from rrr_edge.compress.stages import Stage, Stages
from rrr_edge.compress.validation import ROUNDING
from rrr_edge.errors import counted
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
    """Prune as the recipe says, of fewer blocks where nothing would lead through the network, and tune once."""
    *_, spec = leaner(student.plain, threshold=recipe.prune_proxies, most=count)
    network, dropped = shrink(student, spec), student.plain.blocks - spec.blocks
    notes = (
        f"{counted(dropped, 'block')} dropped instead of {count}: what leads nowhere without a dropped block goes with "
        "it, and a block stays where nothing would lead through the network without it.",
    )
    return Found(network, tune(network, _name(dropped)), 0.0, {}, notes if dropped != count else ())


def drop_as_many_as_go(recipe: NetTailor, student: Tailored, tune: Tune, stages: Stages, least: float) -> Found:
    """Drop 0, 1, 2, ... blocks, and tune each time, until the accuracy on the deciding photos is less than `least`.

    The leanest network before that is taken; where not even the first is as good, the first is. That a leaner one
    would be as good again is not tried.
    """
    rows: list[TailoringRow] = []
    best: tuple[TailoringRow, Tailored, Stage] | None = None
    for spec in leaner(student.plain, threshold=recipe.prune_proxies, most=student.plain.blocks):
        network, dropped = shrink(student, spec), student.plain.blocks - spec.blocks
        stage = tune(network, _name(dropped))
        cost = tailored_cost(spec, recipe.image_size)
        row = TailoringRow(
            dropped=dropped,
            blocks=spec.blocks,
            proxies=sum(len(node.proxies) for node in spec.nodes),
            params=cost.params,
            macs=cost.macs,
            accuracy=stage.accuracy,
            least=least,
            within=stage.accuracy >= least - ROUNDING,
            seconds=stage.seconds,
        )
        rows.append(row)
        if best is None or row.within:
            if best:
                stages.forget(_name(best[0].dropped))
            best = row, network, stage
        if not row.within:
            break
    # With all blocks there is a way through.
    assert best is not None
    chosen, network, stage = best
    files = {TAILORING: _table(rows), TAILORING_PLOT: draw_tailoring(rows, chosen=chosen.dropped)}
    notes = _notes(recipe, rows, chosen, photos=len(stages.judged_by or ()))
    return Found(network, stage, sum(row.seconds for row in rows) - stage.seconds, files, notes)


def _notes(recipe: NetTailor, rows: list[TailoringRow], chosen: TailoringRow, *, photos: int) -> tuple[str, ...]:
    notes = [
        f"{counted(chosen.dropped, 'block')} dropped: {counted(len(rows), 'network')} tuned, judged by "
        f"{counted(photos, 'photo')} beside the test photos; the least accuracy allowed was {chosen.least:.1%}."
    ]
    if not rows[-1].within and 0 < recipe.within * photos < 1 - ROUNDING:
        notes.append(
            f"Of {counted(photos, 'photo')} {recipe.within:.2%} is less than one, so the search ended with the first "
            "network that had fewer right than the teacher, which may be chance. With more photos in a folder val, or "
            "a larger --within, it may find a leaner one."
        )
    if not rows[0].within:
        notes.append(
            f"No network was as accurate as that: the one with all blocks, and without its weakest proxies, reached "
            f"{rows[0].accuracy:.1%}."
        )
    return tuple(notes)


def _name(count: int) -> str:
    return f"tune-without-{count:02}"


def _table(rows: list[TailoringRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TailoringRow._fields)
    writer.writerows(rows)
    return text.getvalue()
