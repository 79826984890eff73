"""Validation photos for a choice of method: a nested split of the training photos, as a folder of links."""

import os
from pathlib import Path

from rrr_edge.errors import BadInput
from rrr_edge.images.layouts import TEST_SHARE, Classes, divide_for_test, find_layout, require_classes

# Of the training photos, where the data set has none for validation.
VALIDATION_SHARE = 0.2


def write_nested_split(data: Path, out: Path, *, seed: int) -> None:
    """Write `out`/train and `out`/test as links to the training photos of `data`; no test photo is among them.

    Photos in val/ become test/ where the data set has them, else a fifth of each class's training photos does,
    stratified and by `seed`. Raises BadInput where a class has too few.
    """
    layout, splits = find_layout(data)
    require_classes(data, splits)
    if layout in TEST_SHARE:
        splits = divide_for_test(data, splits["all"], seed=seed, test_share=TEST_SHARE[layout])
    if "val" in splits:
        nested = {"train": splits["train"], "test": splits["val"]}
    else:
        nested = _divided(data, splits["train"], seed)
    for split, classes in nested.items():
        for label, files in classes.items():
            folder = out / split / label.replace("%", "%25").replace("/", "%2F")  # two labels never meet
            folder.mkdir(parents=True, exist_ok=True)
            for number, file in enumerate(files):
                (folder / f"{number:06}{Path(file).suffix}").symlink_to(os.path.abspath(data / file))


def _divided(data: Path, train: Classes, seed: int) -> dict[str, Classes]:
    try:
        return divide_for_test(data, train, seed=seed, test_share=VALIDATION_SHARE)
    except BadInput as error:
        raise BadInput(
            f"{data} has too few training photos to hold some out for a choice: {error}",
            advice="Add photos, or leave --pick out.",
        ) from error
