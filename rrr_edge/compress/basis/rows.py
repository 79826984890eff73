"""The record of a pruning: a row for each network, as a table and in words."""

import csv
import io
from collections.abc import Sequence

from rrr_edge.bundle.basis import BasisRow
from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.factored import delivered
from rrr_edge.bundle.recipe import BasisScaling
from rrr_edge.bundle.spec import FactoredSpec
from rrr_edge.compress.stages import Stage
from rrr_edge.compress.validation import ROUNDING
from rrr_edge.errors import counted


def row_of(
    recipe: BasisScaling, spec: FactoredSpec, stage: Stage, *, whole: int, earlier: Sequence[BasisRow]
) -> BasisRow:
    """The row of a network of `spec` after its training; `whole` are the parameters before all."""
    costs = cost(delivered(spec), recipe.image_size)
    accuracy, least, within = stage.judged.accuracy if stage.judged else None, None, True
    if recipe.sparsity == "auto" and accuracy is not None:
        first = earlier[0].accuracy if earlier else accuracy
        assert first is not None
        least = first - recipe.max_drop
        within = accuracy >= least - ROUNDING
    return BasisRow(
        removals=len(earlier),
        bases=sum(spec.ranks.values()),
        params=costs.params,
        macs=costs.macs,
        sparsity=1 - costs.params / whole,
        accuracy=accuracy,
        least=least,
        within=within,
        seconds=stage.seconds,
    )


def table_of(rows: Sequence[BasisRow]) -> str:
    """The rows as CSV; what there is none of is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(BasisRow._fields)
    writer.writerows(rows)
    return text.getvalue()


def notes_of(recipe: BasisScaling, rows: Sequence[BasisRow], taken: BasisRow, photos: int) -> tuple[str, ...]:
    """How the taken network was found, where photos decided."""
    last = rows[-1]
    if taken.least is None or taken.accuracy is None:
        return ()
    notes = [
        f"{counted(len(rows), 'network')} judged by {counted(photos, 'photo')} beside the test photos: the one taken "
        f"has {taken.accuracy:.1%} of them right, and at least {taken.least:.1%} were allowed"
        + ("." if last is taken else f"; the last has {last.accuracy:.1%}.")
    ]
    if not last.within and 0 < recipe.max_drop * photos < 1 - ROUNDING:
        notes.append(
            f"Of {counted(photos, 'photo')} {recipe.max_drop:.2%} is less than one, so no network that had fewer right "
            "was taken, which may be chance. With more photos in a folder val, or a larger --max-drop, it may go "
            "further."
        )
    return tuple(notes)
