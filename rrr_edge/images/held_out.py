"""The share of the training photos that is held out where there is no val/, and the photos that a bundle held out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.recipe import RRR, BasisScaling, NetTailor, Recipe
from rrr_edge.errors import BadInput
from rrr_edge.images.dataset import Split, choose_balanced, held_out_files, scan
from rrr_edge.images.layouts import Classes, HeldOut
from rrr_edge.timing.progress import OnProgress

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


def held_out_in(path: Path, splits: Mapping[str, Classes], bundle: Bundle, on_progress: OnProgress) -> Split | None:
    """The photos of the folder `path` that `compress` held out to validate; None where it is another, or held none out.

    What an earlier bundle of the chain has learned from is left out, and so are copies of other photos.
    """
    manifest = bundle.manifest
    recipe, origin, held_out = manifest.recipe, manifest.provenance, _known(manifest.recipe)
    fewer = sum(len(files) for classes in splits.values() for files in classes.values()) < sum(origin.images.values())
    if not held_out.share or fewer:
        return None
    try:
        dataset = scan(
            path, manifest.preprocess, seed=recipe.seed, held_out=held_out, max_bad=1.0, on_progress=on_progress
        )
    except BadInput:
        return None  # what `compress` refuses is no bundle's folder
    if dataset.val is None or {origin.data_sha256, *(a.data_sha256 for a in manifest.chain)} != {dataset.digest}:
        return None
    # The digest does not tell who is held out by another order of the names.
    chosen = choose_balanced(dataset.train.labels, len(bundle.calibration), seed=recipe.seed)
    if not np.array_equal(dataset.train.images[chosen], bundle.calibration):
        return None
    never = set(dataset.val.files)
    for ancestor in manifest.chain:
        never &= held_out_files(path, seed=ancestor.recipe.seed, held_out=_known(ancestor.recipe))
    known = {image.tobytes() for split in (dataset.train, dataset.test) for image in split.images}
    photos = zip(dataset.val.files, dataset.val.images, strict=True)
    rows = [row for row, (file, image) in enumerate(photos) if file in never and image.tobytes() not in known]
    files = tuple(dataset.val.files[row] for row in rows)
    return Split(dataset.val.images[rows], dataset.val.labels[rows], files) if rows else None


def _known(recipe: Recipe) -> HeldOut:
    """What was held out by the recipe of a bundle, which tells the share; those of older ones held nothing out."""
    return held_out_of(recipe) if recipe.training.validation_share else HeldOut(0.0)
