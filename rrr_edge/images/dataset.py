"""The reader of image folders as arrays. Three layouts are understood:

train/CLASS/*  test/CLASS/*  (val/CLASS/*)   used as they are; without val/ some of train/ may be held out
CLASS/*                                      split 80 to 20, stratified and seeded
images/*  labels.csv  (info.json)            Meta-Album's; split in halves, as in its papers

Everything is looked at before anything is trained: each picture is decoded once, and what cannot be read is listed.
"""

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.errors import BadInput, UsageError, require_local
from rrr_edge.images.decode import Pixels
from rrr_edge.images.layouts import (
    TEST_SHARE,
    Classes,
    HeldOut,
    Layout,
    divide_for_test,
    find_layout,
    image_files,
    passed_over,
    require_classes,
)
from rrr_edge.images.names import SUFFIXES, first_few, shown
from rrr_edge.images.picture import NO_FILE
from rrr_edge.images.reading import BadFile, allowing, read_pictures
from rrr_edge.timing.progress import OnProgress, silent

# In a wheel the folder lies in the package, in a checkout beside it.
_HERE = Path(__file__).parent.parent
_PACKAGED = next(
    (d for d in (_HERE / "calibration", _HERE.parent / "calibration") if d.is_dir()), _HERE / "calibration"
)


_NONE = HeldOut(0.0)


@dataclass(frozen=True)
class Split:
    """`images` uint8 [N, S, S, 3], `labels` int64 [N], `files` relative to the data folder, by class and name."""

    images: Pixels
    labels: NDArray[np.int64]
    files: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """What `scan` found.

    `labels` are the class names in order, `bad` the files that were skipped, `duplicates` pairs of a training and a
    test file with the same bytes and class, `digest` the SHA-256 over all files' contents with their classes and
    splits, `remarks` sentences on what else a user should know: files that are passed over, the same bytes under two
    classes, pictures that are nearly black. The photos of `val` may be `held_out` of train/, and are then digested as
    photos of that.
    """

    path: Path
    layout: Layout
    labels: tuple[str, ...]
    train: Split
    val: Split | None
    test: Split
    bad: tuple[BadFile, ...]
    duplicates: tuple[tuple[str, str], ...]
    digest: str
    remarks: tuple[str, ...] = ()
    held_out: bool = False

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """The photos of each class by split; a split that there is not is left out."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {
            name: {label: int(np.sum(split.labels == index)) for index, label in enumerate(self.labels)}
            for name, split in splits.items()
            if split is not None
        }

    @property
    def summary(self) -> str:
        """One line: how many classes and photos, and how evenly the training photos are spread."""
        counts = self.counts
        photos = ", ".join(f"{sum(classes.values())} {split}" for split, classes in counts.items())
        train = counts["train"].values()
        return f"{len(self.labels)} classes; photos: {photos}; {min(train)} to {max(train)} of a class in train"


class Pictures(NamedTuple):
    """`images` uint8 [N, S, S, 3] of the readable `files` (relative to the folder), and the `bad` ones."""

    images: Pixels
    files: tuple[str, ...]
    bad: tuple[BadFile, ...]


def scan(
    data: str | Path,
    preprocess: Preprocess,
    *,
    seed: int = 0,
    held_out: HeldOut = _NONE,
    max_bad: float = 0.01,
    on_progress: OnProgress = silent,
) -> Dataset:
    """Read the data set at `data` into arrays as `preprocess` says, independent of the order of the file system.

    Where there is no val/, it is what is `held_out` of the training photos, drawn by `seed`.
    Images over 1 GB in all are kept in an unnamed temporary file instead of memory ($TMPDIR says where).
    Raises BadInput: no such layout, one class, classes without pictures or that differ between splits, too few
    pictures to split, pictures in folders inside a class, or a larger share than `max_bad` of unreadable files or of
    files whose bytes are under two classes; and UsageError where `max_bad` is no share.
    """
    if not 0 <= max_bad <= 1:  # nor nan
        raise UsageError(f"The share of unreadable pictures to skip lies between 0 and 1, not at {max_bad}.")
    path = Path(data)
    layout, splits = _divided(path, seed)
    labels, given = tuple(splits["train"]), set(splits)
    splits = held_out.divide(splits, seed=seed)
    entries = [_Entry(s, label, file) for s, classes in splits.items() for label in labels for file in classes[label]]

    images, digests, bad, dark = read_pictures(path, [entry.file for entry in entries], preprocess, on_progress)
    if len(bad) > max_bad * len(entries):
        raise BadInput(
            f"{len(bad)} of {len(entries)} pictures in {path} cannot be read, more than {100 * max_bad:g}%: "
            f"{first_few([f'{file.path} ({file.reason})' for file in bad])}.",
            advice=_advice(bad, layout, allowing(len(bad), len(entries))),
        )
    good = [entry for entry, digest in zip(entries, digests, strict=True) if digest]
    digests = list(filter(None, digests))
    _require_read(path, *([entry for entry in some if entry.split in given] for some in (entries, good)))

    contradictory = _contradictions(good, digests)
    count = sum(map(len, contradictory))
    said = f"the same bytes under two classes: {first_few([' = '.join(files) for files in contradictory])}."
    if count > max_bad * len(entries):
        raise BadInput(
            f"{count} of {len(entries)} pictures in {path} are {said}",
            advice=f"Decide for each which class is right, or {allowing(count, len(entries))}.",
        )
    unknown = "" if layout == "meta-album" else passed_over(path)
    remarks = [unknown, f"{count} pictures are {said}" if count else "", dark]
    parts = {split: _part(images, good, split, labels) for split in dict.fromkeys(entry.split for entry in good)}
    return Dataset(
        path=path,
        layout=layout,
        labels=labels,
        train=parts["train"],
        val=parts.get("val"),
        test=parts["test"],
        bad=bad,
        duplicates=_duplicates(good, digests),
        digest=_digest_of(good, digests, given),
        remarks=tuple(filter(None, remarks)),
        held_out="val" in parts and "val" not in given,
    )


def held_out_files(data: str | Path, *, seed: int, held_out: HeldOut) -> set[str]:
    """The files, relative to `data`, that `scan` holds out of the training photos there. Raises BadInput as it does."""
    _, splits = _divided(Path(data), seed)
    if "val" in splits:
        return set()
    divided = held_out.divide(splits, seed=seed)
    return {file for files in divided.get("val", {}).values() for file in files}


def read_folder(
    folder: str | Path, preprocess: Preprocess, *, limit: int | None = None, on_progress: OnProgress = silent
) -> Pictures:
    """Read the pictures in `folder` and below, sorted by path; of more than `limit`, that many evenly spread ones.

    Raises BadInput where there is no folder, no picture, or none that can be read.
    """
    path = Path(folder)
    files = [str(file.relative_to(path)) for file in image_files(path)]
    if not files:
        raise BadInput(f"There is no picture in {path} or below.", advice=f"Pictures end in {', '.join(SUFFIXES)}.")
    if limit is not None and limit < len(files):
        files = [files[i] for i in np.linspace(0, len(files) - 1, limit).round().astype(int)]
    images, digests, bad, _ = read_pictures(path, files, preprocess, on_progress)
    if len(bad) == len(files):
        raise BadInput(
            f"No picture in {path} can be read: {first_few([f'{file.path} ({file.reason})' for file in bad])}."
        )
    return Pictures(images, tuple(file for file, digest in zip(files, digests, strict=True) if digest), bad)


def choose_balanced(labels: Sequence[int] | NDArray[np.int64], count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Choose `count` indices (all, if there are fewer), sorted: as equal a number of each class as there is.

    One picture of every class in turn, in seeded random order, until there are enough.
    """
    labels = np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    return np.sort(order[np.argsort(turn[order], kind="stable")[:count]])


def calibration_folder(name: str | Path) -> Path:
    """Resolve `name` as a folder, then ./calibration/NAME, then the packaged set NAME. Raises UsageError."""
    for candidate in (Path(name), Path("calibration") / name, _PACKAGED / name):
        if candidate.is_dir():
            return candidate
    require_local(name)
    known = sorted({set_.name for folder in (Path("calibration"), _PACKAGED) for set_ in folder.glob("[!.]*/")})
    near = difflib.get_close_matches(str(name), known, n=1)
    raise UsageError(
        f"There are no calibration images {str(name)!r}." + (f" Did you mean {near[0]!r}?" if near else ""),
        advice=f"Known sets: {', '.join(known)}; or the path of a folder of pictures.",
    )


class _Entry(NamedTuple):
    split: str
    label: str
    file: str


def _divided(path: Path, seed: int) -> tuple[Layout, dict[str, Classes]]:
    """The layout, and the files of each class in train/, test/ and perhaps val/."""
    layout, splits = find_layout(path)
    require_classes(path, splits)
    if layout in TEST_SHARE:
        splits = divide_for_test(path, splits["all"], seed=seed, test_share=TEST_SHARE[layout])
    return layout, splits


def _require_read(path: Path, asked: Sequence[_Entry], read: Sequence[_Entry]) -> None:
    """Raise BadInput where nothing was read of a class in a split."""
    lost = sorted({f"{e.split}/{e.label}" for e in asked} - {f"{e.split}/{e.label}" for e in read})
    if lost:
        raise BadInput(f"No picture of these classes in {path} can be read: {first_few(lost)}.")


def _advice(bad: Sequence[BadFile], layout: Layout, otherwise: str) -> str:
    if layout == "meta-album" and all(file.reason == NO_FILE for file in bad):
        return f"Correct the names in labels.csv: they are relative to images/. Or {otherwise}."
    return f"Repair or remove them, or {otherwise}."


def _part(images: Pixels, good: Sequence[_Entry], split: str, labels: tuple[str, ...]) -> Split:
    rows = [row for row, entry in enumerate(good) if entry.split == split]
    index = {label: i for i, label in enumerate(labels)}
    return Split(
        images=images[rows[0] : rows[-1] + 1],
        labels=np.array([index[good[row].label] for row in rows], np.int64),
        files=tuple(good[row].file for row in rows),
    )


def _duplicates(good: Sequence[_Entry], digests: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = list(zip(good, digests, strict=True))
    trained = {digest: entry for entry, digest in reversed(pairs) if entry.split == "train"}
    return tuple(
        (shown(trained[d].file), shown(entry.file))
        for entry, d in pairs
        if entry.split == "test" and d in trained and trained[d].label == entry.label
    )


def _contradictions(good: Sequence[_Entry], digests: Sequence[str]) -> list[list[str]]:
    """The files of each content that lies under more than one class."""
    found: dict[str, list[_Entry]] = {}
    for entry, digest in zip(good, digests, strict=True):
        found.setdefault(digest, []).append(entry)
    return [
        [shown(entry.file) for entry in entries]
        for entries in found.values()
        if len({entry.label for entry in entries}) > 1
    ]


def _digest_of(good: Sequence[_Entry], digests: Sequence[str], given: set[str]) -> str:
    """Photos that are held out are in no split of those that were `given`, and so train's."""
    content = [(e.split if e.split in given else "train", e.label, d) for e, d in zip(good, digests, strict=True)]
    return dataset_digest(content)


def dataset_digest(content: Sequence[tuple[str, str, str]]) -> str:
    """The SHA-256 of a data set by the split, class and SHA-256 of each file, whatever their order and names."""
    lines = sorted(f"{split}\0{label}\0{digest}\n" for split, label, digest in content)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
