import numpy as np
import pytest
from small_network import CLASSES

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.training.batches import Examples


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


@pytest.fixture
def preprocess() -> Preprocess:
    return Preprocess(image_size=32)


@pytest.fixture
def examples() -> Examples:
    """22 images: batches of 8, 8 and 6."""
    rng = np.random.default_rng(0)
    return Examples(rng.integers(0, 256, (22, 32, 32, 3), dtype=np.uint8), np.arange(22) % CLASSES)
