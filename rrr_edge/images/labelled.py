"""Labelled photos to judge a network by: a folder of them, or those that a bundle holds."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rrr_edge.bundle.calibration import HELD_OUT, OWN_TEST_PHOTOS
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Manifest, Preprocess
from rrr_edge.errors import BadInput, UsageError, counted
from rrr_edge.images.dataset import choose_balanced, dataset_digest
from rrr_edge.images.decode import Pixels
from rrr_edge.images.held_out import held_out_in
from rrr_edge.images.layouts import TEST_SHARE, Classes, Layout, divide_for_test, find_layout
from rrr_edge.images.names import first_few, shown
from rrr_edge.images.reading import read_pictures
from rrr_edge.timing.progress import OnProgress, silent

# What of a network's preprocessing its photos follow from, and how it is said; the rest happens in the graph.
_PIXELS = {"image_size": "at {} pixels", "fit": "with --fit {}", "decoding": "with {} decoding"}
_SPLIT = {"test": "the test photos", "val": "the validation photos"}
_NONE_HELD_OUT = ", and none of its photos are known to have been held out to validate"


@dataclass(frozen=True)
class LabelledPhotos:
    """`images` uint8 [N, S, S, 3], as `preprocess` fits them, with `labels` int64 [N], indices of the bundle's classes.

    `names` are the files relative to `folder`, or to the one that the bundle was made from, or numbers where they are
    not known; `source` says where they come from. `are_held_out` is true for what `compress` held out: the bundle's own
    test photos (in it, or all in the folder that it was made from), or the photos of that folder that validated it.
    `notes` are what a reader of the accuracy should know.
    """

    images: Pixels
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    source: str
    preprocess: Preprocess
    folder: Path | None = None
    are_held_out: bool = False
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the pixels and the classes, in their order."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def is_fitted(self, preprocess: Preprocess) -> bool:
        """Whether these are the pixels that `preprocess` makes of the photos."""
        return not self._differing(preprocess)

    def _differing(self, preprocess: Preprocess) -> list[str]:
        return [name for name in _PIXELS if getattr(self.preprocess, name) != getattr(preprocess, name)]

    def fitted(self, preprocess: Preprocess, on_progress: OnProgress = silent) -> Pixels:
        """The same photos as `preprocess` fits them. Raises UsageError where there is no folder to read them from."""
        differing = self._differing(preprocess)
        if not differing:
            return self.images
        if self.folder is None:
            held, wanted = (
                ", ".join(_PIXELS[name].format(getattr(fitted, name)) for name in differing)
                for fitted in (self.preprocess, preprocess)
            )
            raise UsageError(
                f"The bundle holds its test photos {held} only, and they are wanted {wanted}.",
                advice="Give the folder of the photos too.",
            )
        images, _, bad, _ = read_pictures(self.folder, self.names, preprocess, on_progress)
        if bad:
            raise BadInput(f"{self.folder / bad[0].path} cannot be read any more: {bad[0].reason}.")
        return images


def photos_of(bundle: Bundle) -> LabelledPhotos:
    """The labelled reference images of `bundle`. Raises BadInput where there are none."""
    reference = bundle.reference
    files = reference.files
    known = np.flatnonzero(reference.labels >= 0)
    if not len(known):
        raise BadInput(f"The test photos in {bundle.path} have no labels.", advice="Give a folder of labelled photos.")
    return LabelledPhotos(
        images=reference.images[known],
        labels=reference.labels[known],
        names=tuple(f"#{index}" if files is None else shown(files[index]) for index in known),
        source=OWN_TEST_PHOTOS,
        preprocess=bundle.manifest.preprocess,
        are_held_out=True,
    )


def held_in(photos: LabelledPhotos, bundle: Bundle) -> NDArray[np.int64] | None:
    """The rows of `photos` that `compress` drew for the test photos in `bundle`; None where these are others."""
    if photos.folder is None:
        return np.arange(len(photos.labels))
    chosen = choose_balanced(photos.labels, len(bundle.reference.images), seed=bundle.manifest.recipe.seed)
    return chosen if np.array_equal(photos.images[chosen], photos_of(bundle).images) else None


def read_labelled(
    folder: str | Path,
    bundle: Bundle,
    *,
    split: Literal["test", "val"] = "test",
    max_bad: float = 0.01,
    on_progress: OnProgress = silent,
) -> LabelledPhotos:
    """Read the photos in `folder`, whose subfolders are the classes of `bundle`.

    Of train/CLASS with test/CLASS and val/CLASS only those of `split` are read. Where CLASS/* or a Meta-Album folder
    is, byte for byte, what the bundle was made from, only the test photos that it held out then are taken; else all of
    them. With the split val those that it held out to validate are taken, also of a train/ without a val/ beside it.
    Photos that are among the bundle's calibration images were trained on: a note says how many.

    Raises BadInput: no folder of a class, no photos of the split, classes that the network does not know, a class
    without a picture among classes that have some, or a larger share than `max_bad` of unreadable files.
    """
    path, manifest = Path(folder), bundle.manifest
    layout, splits = find_layout(path)
    if split == "val" and split not in splits and (found := _validation_photos(path, splits, bundle, on_progress)):
        return found
    classes = _classes_of(path, layout, splits, split)
    _require_known(path, classes, manifest.labels)
    files = [(label, file) for label, names in classes.items() for file in names]
    if not files:
        raise BadInput(f"There is no picture of a class in {path}.")
    names = [file for _, file in files]
    images, digests, bad, remark = read_pictures(path, names, manifest.preprocess, on_progress)
    if len(bad) > max_bad * len(files):
        reasons = first_few([f"{file.path} ({file.reason})" for file in bad])
        raise BadInput(
            f"{len(bad)} of {len(files)} pictures in {path} cannot be read, more than {100 * max_bad:g}%: {reasons}.",
            advice="Repair or remove them.",
        )
    good = [entry for entry, digest in zip(files, digests, strict=True) if digest]
    rows, are_held_out = _held_out(path, layout, classes, good, digests=list(filter(None, digests)), manifest=manifest)
    if are_held_out and split == "val":
        raise BadInput(
            f"{path} is what {bundle.path} was made from{_NONE_HELD_OUT}.",
            advice="Give photos that the training has not seen.",
        )
    found = LabelledPhotos(
        images=images[rows],
        labels=np.array([manifest.labels.index(good[row][0]) for row in rows], np.int64),
        names=tuple(good[row][1] for row in rows),
        source=f"{_SPLIT[split]} of {path.name}" if are_held_out or layout == "splits" else path.name,
        preprocess=manifest.preprocess,
        folder=path,
        are_held_out=are_held_out,
    )
    absent = [label for label in manifest.labels if label not in classes]
    skipped = f"{len(bad)} unreadable files were left out: {first_few([file.path for file in bad])}." if bad else ""
    missing = f"There are no photos of {first_few(absent)}." if absent else ""
    notes = tuple(filter(None, (missing, skipped, remark, trained_on(bundle, found.images))))
    return replace(found, notes=notes)


def _classes_of(path: Path, layout: Layout, splits: Mapping[str, Classes], split: str) -> Classes:
    """The files of each class to judge by, or to choose from. Raises BadInput where there is no such split."""
    if layout == "splits" and split not in splits:
        raise BadInput(
            f"{path} has no {split}/{_NONE_HELD_OUT if split == 'val' else ''}.",
            advice=f"Put photos into {split}/CLASS that the training does not see.",
        )
    return splits[split if layout == "splits" else "all"]


def _validation_photos(
    path: Path, splits: Mapping[str, Classes], bundle: Bundle, on_progress: OnProgress
) -> LabelledPhotos | None:
    """What validated the training; None where `path` is another folder, or nothing was held out."""
    found = held_out_in(path, splits, bundle, on_progress)
    if found is None:
        return None
    note = (
        f"These are the {counted(len(found.files), 'photo')} of {path.name} that were held out of the training to "
        "validate it; the others are left out."
    )
    return LabelledPhotos(
        images=found.images,
        labels=found.labels,
        names=found.files,
        source=HELD_OUT.format(bundle.manifest.provenance.data),
        preprocess=bundle.manifest.preprocess,
        folder=path,
        are_held_out=True,
        notes=(note,),
    )


def trained_on(bundle: Bundle, images: Pixels) -> str:
    """A sentence where some of `images` are among the bundle's calibration images, which it was trained on."""
    count = _count_among(images, bundle.calibration)
    if not count:
        return ""
    return (
        f"At least {count} of these photos were trained on (they are among the bundle's {len(bundle.calibration)} "
        "calibration images): the accuracy flatters."
    )


def without_copies(photos: LabelledPhotos) -> LabelledPhotos:
    """Each picture once, which a note says: copies are no evidence of their own."""
    first = {hashlib.sha256(image.tobytes()).digest(): row for row, image in reversed(list(enumerate(photos.images)))}
    rows = sorted(first.values())
    if len(rows) == len(photos.images):
        return photos
    note = f"{counted(len(photos.images) - len(rows), 'photo')} that are copies of others count for nothing."
    return replace(
        photos,
        images=photos.images[rows],
        labels=photos.labels[rows],
        names=tuple(photos.names[row] for row in rows),
        notes=(*photos.notes, note),
    )


def require_unseen(photos: LabelledPhotos, bundle: Bundle) -> None:
    """Raise BadInput where some of `photos` were trained on, or are the test photos of `bundle`, as far as it knows."""
    if trained := _count_among(photos.images, bundle.calibration):
        raise BadInput(
            f"{counted(trained, 'photo')} at least of {photos.source} were trained on (of the "
            f"{len(bundle.calibration)} training photos that the bundle holds).",
            advice="Give photos that the training has not seen.",
        )
    if tested := _count_among(photos.images, bundle.reference.images):
        raise BadInput(
            f"{counted(tested, 'photo')} of {photos.source} are test photos of the bundle.",
            advice="Give others, or --test-photos in their place: then no photos are left to measure an accuracy on "
            "that had no part in it.",
        )


def _count_among(images: Pixels, others: Pixels) -> int:
    """How many of `images` are, pixel by pixel, among `others`."""
    known = {image.tobytes() for image in others}
    return sum(image.tobytes() in known for image in images)


def _require_known(path: Path, classes: Classes, labels: Sequence[str]) -> None:
    unknown = [label for label, files in classes.items() if label not in labels and files]
    if unknown:
        raise BadInput(
            f"{path} has classes that the network does not know: {first_few(unknown)}.",
            advice=f"It knows {first_few(list(labels))}; its folders must have these names.",
        )
    empty = [shown(label) for label, files in classes.items() if not files]
    if empty and any(classes.values()):
        raise BadInput(f"{path} has classes without a picture: {first_few(empty)}.", advice="Remove or fill them.")


def _held_out(
    path: Path,
    layout: Layout,
    classes: Classes,
    good: Sequence[tuple[str, str]],
    *,
    digests: Sequence[str],
    manifest: Manifest,
) -> tuple[list[int], bool]:
    """The rows to judge by, and whether they are the test photos that `compress` held out of this very folder."""
    everything = list(range(len(good)))
    if layout not in TEST_SHARE or any(len(files) < 2 for files in classes.values()):
        return everything, False
    splits = divide_for_test(path, classes, seed=manifest.recipe.seed, test_share=TEST_SHARE[layout])
    split_of = {file: split for split, found in splits.items() for files in found.values() for file in files}
    content = [(split_of[file], label, digest) for (label, file), digest in zip(good, digests, strict=True)]
    if dataset_digest(content) != manifest.provenance.data_sha256:
        return everything, False
    return [row for row in everything if split_of[good[row][1]] == "test"], True
