"""The share of the training photos that is held out where there is no val/: to watch the training, or to decide."""

from rrr_edge.bundle.recipe import RRR, BasisScaling, NetTailor, Recipe
from rrr_edge.images.layouts import HeldOut

# Unless the recipe says what share, so much of the training photos is held out where they watch, and where they decide.
WATCHING, DECIDING = 0.1, 0.2


def held_out_of(recipe: Recipe) -> HeldOut:
    """What is held out of the training photos where there is no val/."""
    share = recipe.training.validation_share
    if decides(recipe):
        return HeldOut(DECIDING if share is None else share, least=2)
    return HeldOut(WATCHING if share is None else share)


def decides(recipe: Recipe) -> bool:
    """Whether the method chooses how large the network becomes by photos that it has not learned from."""
    if isinstance(recipe, RRR):
        return recipe.depths == "auto"
    if isinstance(recipe, NetTailor):
        return recipe.drop_blocks == "auto"
    return isinstance(recipe, BasisScaling) and recipe.sparsity == "auto"


def known_held_out(recipe: Recipe) -> HeldOut:
    """What was held out by the recipe of a bundle, which tells the share; those of older ones held nothing out."""
    return held_out_of(recipe) if recipe.training.validation_share else HeldOut(0.0)
