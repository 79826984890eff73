"""Layouts of data folders: splits, classes, Meta-Album."""

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from rrr_edge.errors import BadInput, counted, reading, require_local
from rrr_edge.images.album import read_album
from rrr_edge.images.names import SUFFIXES, first_few, has_picture_name, is_printable, is_unknown, nfc, shown

Layout = Literal["splits", "classes", "meta-album"]

_SPLITS = ("train", "val", "test")
TEST_SHARE: dict[Layout, float] = {"classes": 0.2, "meta-album": 0.5}
_LAYOUTS = (
    "Give train/CLASS/* with test/CLASS/* (and optionally val/CLASS/*), or CLASS/*, or a Meta-Album folder"
    " (images/, labels.csv, info.json)."
)
# Class name -> its files, as paths relative to the data folder.
Classes = dict[str, list[str]]


def image_files(folder: str | Path) -> list[Path]:
    """The pictures in `folder` and below, unread, sorted. Links to folders are followed, but none is entered twice."""
    require_folder(Path(folder))
    return sorted(Path(here) / name for here, _ in _walk(Path(folder)) for name in _pictures(Path(here)))


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder in `folder` and below, with the names of those in it. Links are followed, but none entered twice."""
    entered: set[str] = set()
    for here, below, _ in os.walk(folder, followlinks=True):
        identity = os.path.realpath(here)
        if identity in entered:
            below.clear()
            continue
        entered.add(identity)
        below[:] = _folders(Path(here))
        yield here, below


def find_layout(path: Path) -> tuple[Layout, dict[str, Classes]]:
    """The layout, and the files of each class by split; one split "all" where it is for us to divide them."""
    require_folder(path)
    if (path / "labels.csv").is_file():
        return "meta-album", {"all": read_album(path)}
    folders = _folders(path)
    parents = [name for name in folders if _folders(path / name)]
    for name in parents:
        meant = [split for split in _SPLITS if name.lower().startswith(split) and name != split]
        if meant:
            raise BadInput(f"{path} has a folder {name}/. Did you mean {meant[0]}/?", advice=_LAYOUTS)
    if any(split in parents for split in _SPLITS):
        missing = [split for split in ("train", "test") if split not in folders]
        if missing:
            raise BadInput(f"{path} has {', '.join(n + '/' for n in parents)} but no {missing[0]}/.", advice=_LAYOUTS)
        splits = {split: _classes(path, split) for split in _SPLITS if split in folders}
        _require_flat_classes(path, [f"{split}/{folder}" for split in splits for folder in _folders(path / split)])
        return "splits", splits
    classes = _classes(path, "")
    if not any(classes.values()):
        loose = len(_pictures(path))
        holds = (
            f"{counted(loose, 'picture')} but no folder of a class"
            if loose
            else f"{counted(len(folders), 'folder')} without pictures ({first_few(folders)})"
            if folders
            else "no picture and no folder"
        )
        raise BadInput(f"{path} is no data set: it holds {holds}.", advice=_LAYOUTS)
    _require_flat_classes(path, folders)
    return "classes", {"all": classes}


def _require_flat_classes(path: Path, classes: Sequence[str]) -> None:
    """Pictures in folders inside a class are neither skipped in silence nor guessed to be of that class."""
    nested = {
        f"{label}/{folder}": len(image_files(path / label / folder))
        for label in classes
        for folder in _folders(path / label)
        if not (path / label).resolve().is_relative_to((path / label / folder).resolve())  # a link that leads back
    }
    found = [f"{count} in {folder}/" for folder, count in nested.items() if count]
    if found:
        raise BadInput(
            f"{path} has pictures in folders inside its classes: {first_few(found)}.",
            advice="Move them up into the folder of their class, or out of the data set.",
        )


def _classes(path: Path, parent: str) -> Classes:
    """Folders whose names are equal in NFC are one class."""
    classes: Classes = {}
    for folder in _folders(path / parent):
        found = [os.path.join(parent, folder, name) for name in _pictures(path / parent / folder)]
        classes.setdefault(nfc(folder), []).extend(found)
    return dict(sorted(classes.items()))


def passed_over(folder: str | Path) -> str:
    """A sentence on the files in `folder` and below that are left out for their unknown endings; "" without any."""
    names = [
        str((Path(here) / name).relative_to(folder))
        for here, below in _walk(Path(folder))
        for name in _visible(Path(here))
        if name not in below and not has_picture_name(Path(here) / name) and is_unknown(Path(here) / name)
    ]
    return f"Files passed over for their unknown endings: {len(names)}, such as {shown(min(names))}." if names else ""


def require_classes(path: Path, splits: dict[str, Classes]) -> None:
    names = {label for classes in splits.values() for label in classes}
    for split, classes in splits.items():
        if absent := sorted(names - set(classes)):
            raise BadInput(
                f"The classes of {path} differ between its splits: {split}/ lacks {first_few(absent)}.",
                advice="Every split needs a folder of the same name for each class.",
            )
    empty = [
        label if split == "all" else f"{split}/{label}"
        for split, classes in splits.items()
        for label, files in classes.items()
        if not files
    ]
    if empty:
        raise BadInput(
            f"{path} has classes without a picture: {first_few(empty)}.",
            advice=f"Remove these folders or fill them; pictures end in {', '.join(SUFFIXES)}.",
        )
    if unprintable := sorted(name for name in names if not is_printable(name)):
        raise BadInput(
            f"{path} has classes whose names are no text: {first_few(unprintable)}.",
            advice="Rename them: control characters and bytes that are not UTF-8 cannot be shown.",
        )
    if len(names) < 2:
        raise BadInput(f"{path} has only one class: {', '.join(names)}.", advice="Classification needs two at least.")


def divide_for_test(path: Path, classes: Classes, *, seed: int, test_share: float) -> dict[str, Classes]:
    single = [label for label, files in classes.items() if len(files) < 2]
    if single:
        raise BadInput(
            f"{path} has too few pictures to split: {first_few(single)} with one picture.",
            advice="Each class needs two pictures at least: one for training and one for the test.",
        )
    splits: dict[str, Classes] = {"train": {}, "test": {}}
    for index, (label, files) in enumerate(classes.items()):
        order = np.random.default_rng([seed, index]).permutation(len(files))
        tests = max(1, round(len(files) * test_share))
        splits["train"][label] = [files[i] for i in sorted(order[tests:])]
        splits["test"][label] = [files[i] for i in sorted(order[:tests])]
    return splits


class HeldOut(NamedTuple):
    """`share` of the training photos of each class is held out for validation where there is no val/.

    That is one photo at least of every class that has `least`.
    """

    share: float
    least: int = 5

    def divide(self, splits: dict[str, Classes], *, seed: int) -> dict[str, Classes]:
        """The splits with the photos that are held out, in the order of their names."""
        if "val" in splits or not self.share:
            return splits
        train, val = {}, {}
        for index, (label, files) in enumerate(splits["train"].items()):
            order = np.random.default_rng([seed, index]).permutation(len(files))
            count = max(round(self.share * len(files)), int(len(files) >= self.least))
            train[label] = [files[i] for i in sorted(order[count:])]
            val[label] = [files[i] for i in sorted(order[:count])]
        return {**splits, "train": train, "val": val} if any(val.values()) else splits


def require_folder(path: Path) -> None:
    """Raise BadInput unless there is one."""
    if path.is_dir():
        return
    require_local(path)
    if path.exists():
        raise BadInput(f"{path} is not a folder.", advice="Give the folder that it is in.")
    beside = _folders(path.parent) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    raise BadInput(
        f"There is no folder {path}.",
        advice=f"Did you mean {path.with_name(near[0])}?" if near else f"Names are looked for from {Path.cwd()} on.",
    )


def _folders(path: Path) -> list[str]:
    return [name for name in _visible(path) if (path / name).is_dir()]


def _pictures(path: Path) -> list[str]:
    """Names that look like pictures; a broken link is one, so that it is reported when it is read."""
    return [name for name in _visible(path) if has_picture_name(path / name) and not (path / name).is_dir()]


def _visible(path: Path) -> list[str]:
    try:
        with reading(path):
            return sorted(name for name in os.listdir(path) if not name.startswith("."))
    except OSError as error:
        raise BadInput(f"{path} cannot be listed: {error.strerror}.") from error
