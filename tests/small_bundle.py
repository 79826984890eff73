"""Drawn photos of three classes, and ways to copy, link and break a small bundle.

Not in conftest.py, because tests cannot import from that: each folder may have one, and the last one read has the name.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import CALIBRATION, MANIFEST, Bundle
from rrr_edge.images.dataset import Dataset, scan
from rrr_edge.images.held_out import held_out_of

COLOURS = {"circle": (190, 60, 60), "cross": (60, 190, 60), "square": (60, 60, 190)}
LABELS = tuple(COLOURS)


def draw(kind: str, rng: np.random.Generator, size: int = 48) -> Image.Image:
    """A shape of its own colour somewhere on a dark, noisy ground: easy, so that no engine is ever in doubt."""
    y, x = np.mgrid[:size, :size]
    cy, cx = rng.uniform(0.35, 0.65, 2) * size
    r = rng.uniform(0.2, 0.3) * size
    dy, dx = np.abs(y - cy), np.abs(x - cx)
    shape = {
        "circle": dy**2 + dx**2 < r**2,
        "cross": (np.minimum(dy, dx) < r / 4) & (np.maximum(dy, dx) < r),
        "square": np.maximum(dy, dx) < r * 0.85,
    }[kind]
    pixels = rng.integers(0, 60, (size, size, 3)) + shape[..., None] * np.array(COLOURS[kind])
    return Image.fromarray(pixels.astype(np.uint8))


def write_shapes(folder: Path, *, train: int = 12, test: int = 8, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for label in LABELS:
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                draw(label, rng).save(folder / split / label / f"{i}.png")
    return folder


def copy_bundle(bundle: Bundle, to: Path) -> Bundle:
    shutil.copytree(bundle.path, to)
    return Bundle.open(to)


def link_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """The same bundle without engines in `folder`; its files are links, to be read only."""
    copy = folder / "linked.rrr"
    shutil.copytree(bundle.path, copy, copy_function=os.link, ignore=shutil.ignore_patterns("engines"))
    return Bundle.open(copy)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def write_target(folder: Path, file: str = "mine", **settings: str | int) -> Path:
    """A target's TOML file; its strings and numbers look as in JSON."""
    path = folder / f"{file}.toml"
    settings = {"name": file, "backend": "openvino", "device": "CPU", **settings}
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    return path


def with_held_out(bundle: Bundle, photos: Path, share: float) -> tuple[Bundle, Dataset]:
    """`bundle` as if it had been made from `photos` with that share of the training photos held out; changed in place.

    Returns the photos too, as they were divided.
    """
    manifest = bundle.manifest
    training = manifest.recipe.training.model_copy(update={"validation_share": share})
    recipe = manifest.recipe.model_copy(update={"training": training})
    dataset = scan(photos, manifest.preprocess, seed=recipe.seed, held_out=held_out_of(recipe))
    np.savez(bundle.path / CALIBRATION, images=dataset.train.images)
    images = {split: sum(classes.values()) for split, classes in dataset.counts.items()}
    provenance = manifest.provenance.model_copy(
        update={"data": photos.name, "data_sha256": dataset.digest, "images": images}
    )
    files = tuple(describe_file(bundle.path / file.name) for file in manifest.files)
    changed = manifest.model_copy(update={"recipe": recipe, "provenance": provenance, "files": files})
    (bundle.path / MANIFEST).write_text(changed.to_json())
    return Bundle.open(bundle.path), dataset
