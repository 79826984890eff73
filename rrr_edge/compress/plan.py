"""The plan of a compression: what would be made of which photos."""

from rrr_edge.bundle.manifest import Cost
from rrr_edge.bundle.recipe import RRR, BasisScaling, NetTailor, Recipe
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.spec import SMALLEST_DEPTHS, NetworkSpec
from rrr_edge.compress.estimate import Estimate
from rrr_edge.errors import counted


class Plan(Record):
    """What `compress` would do. Where a block selection finds the depths, it begins with `network` and its `cost`.

    `photos` counts the readable ones of each split, `photos_per_class` those of each class in it; `unreadable` names
    files with the reason, `duplicates` pairs of a training photo and the same test photo. `weights` says what a user's
    own file of weights holds, `estimate` what it takes on this machine, where steps of it were tried.
    """

    bundle: str
    photos: dict[str, int]
    classes: int
    photos_per_class: dict[str, dict[str, int]]
    unreadable: tuple[str, ...]
    duplicates: tuple[str, ...]
    weights: str
    network: NetworkSpec
    cost: Cost
    recipe: Recipe
    estimate: Estimate | None = None

    @property
    def words(self) -> str:
        """The plan in one sentence."""
        recipe = self.recipe
        epochs, begin = counted(recipe.training.epochs, "epoch"), ""
        if isinstance(recipe, RRR) and (selection := recipe.selection):
            begin = " to begin with"
            each = counted(selection.epochs_per_step or recipe.training.epochs, "epoch")
            additions = sum(SOURCES[recipe.backbone].depths) - sum(SMALLEST_DEPTHS)
            epochs = f"{each} for each of up to {1 + min(selection.max_additions, additions)} steps"
        if isinstance(recipe, NetTailor):
            begin = " to begin with"
            taught, tuned = (
                counted(own or recipe.training.epochs, "epoch") for own in (recipe.teacher_epochs, recipe.tune_epochs)
            )
            tunings = (
                f"each of up to {1 + sum(SOURCES[recipe.backbone].depths)} tunings"
                if recipe.drop_blocks == "auto"
                else "the tuning"
            )
            epochs = f"{epochs} for the student, {tuned} for {tunings}"
            epochs = epochs if recipe.teacher else f"{taught} for the teacher, {epochs}"
        if isinstance(recipe, BasisScaling):
            begin = " to begin with"
            each = counted(recipe.epochs_per_prune, "epoch")
            epochs = f"{epochs}, then {each} before each removal of {recipe.prune_share:.0%} of the basis vectors,"
        takes = f", in {self.estimate.words} here" if self.estimate else ""
        if self.estimate and self.estimate.may_end_earlier:
            takes += ": photos that it does not learn from may end it earlier"
        return (
            f"{self.bundle} would have {self.cost.params:,} parameters and {self.cost.macs / 1e6:,.0f} million "
            f"MACs{begin}; {epochs} on {counted(self.photos['train'], 'photo')}{takes}. --json tells all of it"
        )
