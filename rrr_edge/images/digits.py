"""The built-in data set: the handwritten digits that scikit-learn carries, as folders of pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rrr_edge.bundle.files import staged_folder
from rrr_edge.errors import MissingLibrary, UsageError
from rrr_edge.images.dataset import choose_balanced

DIGITS_CALIBRATION_IMAGES = 100


def write_digits(folder: str | Path, *, size: int = 64, seed: int = 0) -> None:
    """Write all 1,797 digits as train/CLASS/*.png and test/CLASS/*.png: four fifths to one, stratified and seeded.

    8x8 pixels of 17 grays, scaled bilinearly to gray PNGs of `size`. Optical Recognition of Handwritten Digits,
    E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0.
    Raises UsageError where `folder` has something in it already, and MissingLibrary.
    """
    pixels, labels, test = _digits(seed)
    parts = np.where(test, "test", "train")
    names = [f"{part}/{label}/{i:04}.png" for i, (part, label) in enumerate(zip(parts, labels, strict=True))]
    _write(Path(folder), dict(zip(names, pixels, strict=True)), size)


def write_calibration_digits(folder: str | Path, *, size: int = 64, seed: int = 0) -> None:
    """Write CLASS/*.png: 100 of the training digits of `write_digits`, ten of each class. Raises as it does."""
    pixels, labels, test = _digits(seed)
    training = np.flatnonzero(~test)
    chosen = training[choose_balanced(labels[training], DIGITS_CALIBRATION_IMAGES, seed=seed)]
    _write(Path(folder), {f"{labels[i]}/{i:04}.png": pixels[i] for i in chosen}, size)


def _digits(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Pixels [1797, 8, 8], labels, and which are for the test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingLibrary("scikit-learn", extra="demo", purpose="The built-in data set") from error
    bunch: Any = load_digits()
    labels = bunch.target.astype(np.int64)
    test = np.zeros(len(labels), np.bool_)
    random = np.random.default_rng(seed)
    for label in range(10):
        members = random.permutation(np.flatnonzero(labels == label))
        test[members[: round(len(members) / 5)]] = True
    return np.round(bunch.images * (255 / 16)).astype(np.uint8), labels, test


def _write(folder: Path, pictures: dict[str, NDArray[np.uint8]], size: int) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty.", advice="Choose another folder.")
    with staged_folder(folder) as stage:
        for name, pixels in pictures.items():
            file = stage / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR).save(file, optimize=True)
