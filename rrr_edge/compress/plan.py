"""The plan of a compression: what would be made of which photos."""

from rrr_edge.bundle.manifest import Cost
from rrr_edge.bundle.recipe import RRR, Recipe
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.spec import NetworkSpec


class Plan(Record):
    """What `compress` would do. Where a block selection finds the depths, it begins with `network` and its `cost`.

    `photos` counts the readable ones of each split, `photos_per_class` those of each class in it; `unreadable` names
    files with the reason, `duplicates` pairs of a training photo and the same test photo.
    """

    bundle: str
    photos: dict[str, int]
    classes: int
    photos_per_class: dict[str, dict[str, int]]
    unreadable: tuple[str, ...]
    duplicates: tuple[str, ...]
    network: NetworkSpec
    cost: Cost
    recipe: Recipe

    @property
    def words(self) -> str:
        """The plan in one sentence."""
        recipe = self.recipe
        epochs, begin = _epochs(recipe.training.epochs), ""
        if isinstance(recipe, RRR) and (selection := recipe.selection):
            begin = " to begin with"
            each = _epochs(selection.epochs_per_step or recipe.training.epochs)
            epochs = f"{each} for each of up to {1 + selection.max_additions} steps"
        return (
            f"{self.bundle} would have {self.cost.params:,} parameters and {self.cost.macs / 1e6:,.0f} million "
            f"MACs{begin}; {epochs} on {self.photos['train']} photos. --json tells all of it"
        )


def _epochs(count: int) -> str:
    return f"{count:,} epoch{'' if count == 1 else 's'}"
