"""Chains of methods: a compression that begins with a bundle's network instead of the source network."""

from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Ancestor, Preprocess
from rrr_edge.bundle.recipe import Recipe
from rrr_edge.bundle.reference_network import ReferenceNetwork
from rrr_edge.bundle.reused import Chained
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.compress.validation import may_have_seen
from rrr_edge.compress.weights import WeightsInfo
from rrr_edge.errors import UsageError
from rrr_edge.images.dataset import Dataset
from rrr_edge.images.layouts import TEST_SHARE
from rrr_edge.networks import Network
from rrr_edge.networks.stored import load_network

C = TypeVar("C", bound=Chained)

# What follows from the bundle.
_INHERITED = ("backbone", "weights", "image_size", "fit")


def start_of(recipe: Recipe) -> Bundle | None:
    """The bundle that `recipe` begins with. Raises what opening it raises."""
    return Bundle.open(recipe.start) if isinstance(recipe, Chained) and recipe.start else None


def inherit(recipe: C) -> C:
    """`recipe` with what follows from the bundle that it begins with, if any, and with its seed, where it has none.

    Raises UsageError where it says something else, or where the bundle's method is none to go on from.
    """
    if recipe.start is None:
        return recipe
    theirs = Bundle.open(recipe.start).manifest.recipe
    for name in _INHERITED:
        own, its = getattr(recipe, name), getattr(theirs, name)
        if name in recipe.model_fields_set and own != its:
            option = name.replace("_", "-")
            raise UsageError(
                f"{recipe.start} was made with --{option} {its}, not {own}.",
                advice=f"Leave --{option} out: it is the bundle's.",
            )
    if theirs.method == "element":
        raise UsageError(
            f"{recipe.start} holds weights at zero, which would not stay zero here.",
            advice="Begin with the bundle that it was made from, and prune elements last.",
        )
    found = going_on(recipe, recipe.start)
    if "seed" not in recipe.model_fields_set:
        # The test photos that are drawn by it are then those that the bundle has not learned from.
        found = found.model_copy(update={"seed": theirs.seed})
    try:
        return type(recipe).model_validate(found.model_dump())
    except ValidationError as error:
        raise UsageError(
            f"{recipe.start} was made from {theirs.backbone}, with which the method {_method(recipe)} does not begin."
        ) from error


def _method(recipe: Chained) -> str:
    return str(type(recipe).model_fields["method"].default)


def going_on(recipe: C, start: str) -> C:
    """`recipe` as it begins with the bundle `start`, whatever it says of a source network."""
    theirs = Bundle.open(start).manifest.recipe
    return recipe.model_copy(update={"start": start, **{name: getattr(theirs, name) for name in _INHERITED}})


def require_reading(bundle: Bundle, recipe: Recipe, dataset: Dataset) -> None:
    """Raise UsageError where the photos have other classes than the bundle's, or are read or divided in another way."""
    theirs, labels = bundle.manifest.labels, dataset.labels
    if theirs != labels:
        other = sorted(set(theirs) ^ set(labels))
        said = f"they differ in {', '.join(other[:5])}" if other else "their order differs"
        raise UsageError(
            f"{bundle.path} has other classes than the photos: {said}.", advice="Give the photos that it was made from."
        )
    its, ours = bundle.manifest.preprocess.document(), Preprocess.of(recipe).document()
    if other := [f"{name} {its[name]} instead of {value}" for name, value in ours.items() if its[name] != value]:
        raise UsageError(
            f"{bundle.path} does not read photos as here: {', '.join(other)}.", advice="Compress the source anew first."
        )
    if dataset.layout in TEST_SHARE and not _is_made_from(bundle, dataset):
        seed = bundle.manifest.recipe.seed
        raise UsageError(
            f"{bundle.path} was made from other photos, or another division of them: it may have learned from photos "
            "that would be drawn to test here.",
            advice=f"Leave --seed out: the bundle's is {seed}."
            if recipe.seed != seed
            else "Give the photos that it was made from, or divide these into train/CLASS and test/CLASS.",
        )


def _is_made_from(bundle: Bundle, dataset: Dataset) -> bool:
    """Whether the bundle, and all that it was made from, learned from the photos of `dataset`, divided alike."""
    manifest = bundle.manifest
    learned = {manifest.provenance.data_sha256, *(ancestor.data_sha256 for ancestor in manifest.chain)}
    return learned == {dataset.digest}


def begin_with(bundle: Bundle) -> tuple[Network, WeightsInfo]:
    """The bundle's network, and where its weights come from."""
    return load_network(bundle), WeightsInfo(bundle.path.name, sha256(bundle.weights))


def reference_of(bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64]) -> ReferenceNetwork | None:
    """The network that the bundle is compared with, where the test photos in `rows` are those that the bundle has.

    Raises CorruptArtifact.
    """
    found = ReferenceNetwork.of(bundle)
    if found is None:
        return None
    held, test = bundle.reference, dataset.test
    same = np.array_equal(held.labels, test.labels[rows]) and np.array_equal(held.images, test.images[rows])
    return found if same else None


def words_of(bundle: Bundle) -> str:
    """What is begun with, in one sentence."""
    manifest = bundle.manifest
    right = f", {manifest.accuracy.accuracy:.1%} of its test photos right" if manifest.accuracy else ""
    methods = " + ".join((*(ancestor.recipe.method for ancestor in manifest.chain), manifest.recipe.method))
    return f"{bundle.path} holds {methods}: {manifest.cost.params:,} parameters{right}."


def doubts_of(bundle: Bundle, recipe: Recipe, dataset: Dataset) -> tuple[str, ...]:
    """What a user must know of the photos."""
    name, doubts = bundle.path.name, []
    if not _is_made_from(bundle, dataset):
        doubts.append(
            f"{name} has learned from other photos, or another split of them. If photos that decide or test here are "
            "among them, the accuracies flatter."
        )
    if may_have_seen(bundle, recipe, dataset):
        doubts.append(
            f"The photos that were held out are among those that {name} has learned from: accuracies on them flatter, "
            "and a difference may be another on new photos. Photos in a folder val are new to both."
        )
    return tuple(doubts)


def lineage(bundle: Bundle | None) -> tuple[Ancestor, ...]:
    """The bundles that one made from `bundle` comes from, the oldest first."""
    if bundle is None:
        return ()
    manifest = bundle.manifest
    own = Ancestor(
        name=bundle.path.name,
        recipe=manifest.recipe,
        weights_sha256=sha256(bundle.weights),
        data_sha256=manifest.provenance.data_sha256,
        params=manifest.cost.params,
        accuracy=manifest.accuracy.accuracy if manifest.accuracy else None,
        duration_s=manifest.provenance.duration_s,
    )
    return (*manifest.chain, own)


def name_of(recipe: Recipe) -> str:
    """What is begun with, as notes call it."""
    start = recipe.start if isinstance(recipe, Chained) else None
    return Path(start).name if start else SOURCES[recipe.backbone].name
