"""A small real bundle that the device-side tests share: photos drawn here, random weights, two epochs."""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["XDG_CACHE_HOME"] = os.environ.get("RRR_EDGE_TEST_CACHE", "/tmp/rrr-edge-test-cache")

import numpy as np
import pytest
from PIL import Image

from rrr_edge.bundle import Bundle

LABELS = ("circle", "cross", "square")


def draw(kind: str, rng: np.random.Generator, size: int = 48) -> Image.Image:
    """A bright shape somewhere on a dark, noisy ground."""
    y, x = np.mgrid[:size, :size]
    cy, cx = rng.uniform(0.35, 0.65, 2) * size
    r = rng.uniform(0.2, 0.3) * size
    dy, dx = np.abs(y - cy), np.abs(x - cx)
    shape = {
        "circle": dy**2 + dx**2 < r**2,
        "cross": (np.minimum(dy, dx) < r / 4) & (np.maximum(dy, dx) < r),
        "square": np.maximum(dy, dx) < r * 0.85,
    }[kind]
    pixels = rng.integers(0, 60, (size, size, 3)) + shape[..., None] * rng.integers(120, 190, 3)
    return Image.fromarray(pixels.astype(np.uint8))


def write_shapes(folder: Path, *, train: int = 12, test: int = 8, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for label in LABELS:
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                draw(label, rng).save(folder / split / label / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("photos") / "shapes")


@pytest.fixture(scope="session")
def shared_bundle(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Do not change it: use `bundle` for that."""
    from rrr_edge.compress import compress
    from rrr_edge.recipe import RRR, Training

    recipe = RRR(weights="random", image_size=32, branches=2, training=Training(epochs=2, batch_size=12))
    return compress(shapes, tmp_path_factory.mktemp("bundles") / "shapes.rrr", recipe=recipe)
