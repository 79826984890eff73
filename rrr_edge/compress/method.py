"""What a method of compression is given, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rrr_edge.bundle import Preprocess
from rrr_edge.compress.weights import WeightsInfo
from rrr_edge.dataset import Dataset
from rrr_edge.networks import Network
from rrr_edge.recipe import Recipe
from rrr_edge.training import Run, Trained


@dataclass(frozen=True)
class Material:
    """The photos at network size, how their pixels are normalised, and how to carry out a training."""

    dataset: Dataset
    preprocess: Preprocess
    run: Run


class Made(NamedTuple):
    """A trained network; `notes` are what a user must know of how it came about."""

    network: Network
    weights: WeightsInfo
    trained: Trained
    notes: tuple[str, ...]


Method = Callable[[Recipe, Material], Made]
