"""The photos that watch a training, and that decide between networks: never the test photos."""

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.recipe import BasisScaling, NetTailor, Recipe
from rrr_edge.bundle.verification import Accuracy, guessing_warning
from rrr_edge.errors import BadInput, GateFailed, UsageError, counted
from rrr_edge.images.dataset import Dataset
from rrr_edge.images.held_out import decides, held_out_of
from rrr_edge.training import Examples

# An accuracy of 7 in 10 is within a tenth of one of 8 in 10, of which floats are not sure.
ROUNDING = 1e-9


def may_have_seen(bundle: Bundle, recipe: Recipe, dataset: Dataset) -> bool:
    """Whether the bundle's network has perhaps learned from photos that are held out here.

    Of the same photos and seed those of a smaller share are among those of a larger one.
    """
    if not dataset.held_out:
        return False
    theirs = bundle.manifest.recipe
    same = bundle.manifest.provenance.data_sha256 == dataset.digest and theirs.seed == recipe.seed
    return not same or (theirs.training.validation_share or 0.0) < held_out_of(recipe).share


def going_on_from(bundle: Bundle, recipe: Recipe) -> Recipe:
    """`recipe` with the bundle's share, where it says none: then the bundle's network has not seen what is held out."""
    theirs = bundle.manifest.recipe.training.validation_share
    if recipe.training.validation_share is not None or not theirs:
        return recipe
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"validation_share": theirs})})


def as_held_out(recipe: Recipe, dataset: Dataset) -> Recipe:
    """`recipe` with the share that was held out.

    Raises UsageError and BadInput where photos are to decide or to choose the best weights, and there are none.
    """
    asked = recipe.training.validation_share
    if asked and dataset.val and not dataset.held_out:
        raise UsageError(
            f"{dataset.path} has val/, so no training photos are held out.", advice="Leave --validation-share out."
        )
    if dataset.val is None and decides(recipe):
        validation_photos(dataset)
    if dataset.val is None and recipe.training.keep == "best":
        raise UsageError(
            "There are no validation photos to tell the best weights by.",
            advice="Let some be held out (--validation-share 0.1), give them in val/CLASS, or leave --keep best out.",
        )
    share = held_out_of(recipe).share if dataset.held_out else 0.0
    training = recipe.training.model_copy(update={"validation_share": share})
    return recipe.model_copy(update={"training": training})


def validation_photos(dataset: Dataset) -> Examples:
    """The photos that decide. Raises BadInput where there are none."""
    if dataset.val is None:
        raise BadInput(
            "No class has two training photos to hold one out, or none is to be, so nothing can decide how large the "
            "network becomes.",
            advice="Add photos, let some be held out (--validation-share 0.2), or choose yourself: a number in the "
            "place of auto.",
        )
    return Examples(dataset.val.images, dataset.val.labels)


def too_few_to_decide(recipe: Recipe, dataset: Dataset) -> str:
    """A sentence where one photo of those that decide is more than the accuracy that may be lost, else nothing."""
    if dataset.val is None or not decides(recipe):
        return ""
    if isinstance(recipe, BasisScaling):
        option, most = "--max-drop", recipe.max_drop
    elif isinstance(recipe, NetTailor):
        option, most = "--within", recipe.within
    else:
        return ""
    photos = len(dataset.val.labels)
    if not 0 < most * photos < 1 - ROUNDING:
        return ""
    return (
        f"{counted(photos, 'photo')} beside the test photos cannot tell a loss of {most:.2%}, for one of them is "
        f"{1 / photos:.1%}: the first network with fewer right is refused, which may be chance. More photos in a "
        f"folder val, or a larger {option}, let more go."
    )


class MayBeGuessing(GateFailed):
    """The accuracy that pruning is to keep may be chance. What was learned until then is of no use to another try."""


def require_better_than_guessing(
    judged: Accuracy | None, classes: int, *, network: str, to_tell: str, instead: str
) -> None:
    """Raise MayBeGuessing where the accuracy that photos are to keep may be chance, which anything keeps.

    `to_tell` is what the photos decide, `instead` the option that does without them.
    """
    doubt = guessing_warning(judged, classes, network=network) if judged else ""
    if judged and doubt:
        raise MayBeGuessing(
            f"{doubt} So {counted(judged.images, 'validation photo')} cannot tell {to_tell}, and nothing was pruned.",
            advice="More photos, more --epochs or weights that know more give it an accuracy to keep; or say how much "
            f"goes, whatever the accuracy: {instead}.",
        )


def note_of(dataset: Dataset) -> str:
    """A sentence on photos that are not learned from, where there are such."""
    if not (dataset.held_out and dataset.val):
        return ""
    held, train = len(dataset.val.labels), len(dataset.train.labels)
    return (
        f"{counted(held, 'photo')} of {held + train} were held out of the training to validate it; "
        "--validation-share 0 trains on all."
    )
