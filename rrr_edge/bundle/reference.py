"""Reference images with torch's outputs, and the array types that sessions exchange."""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rrr_edge.errors import CorruptArtifact

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Outputs(NamedTuple):
    """`probabilities` [N, K] and `branch_probabilities` [N, B, K], float32."""

    probabilities: Floats
    branch_probabilities: Floats


def in_batches(run: Callable[[Images], Sequence[Floats]], images: Images, size: int) -> Outputs:
    """What `run` answers to `images`, given `size` of them at a time; its arrays may be used again by the next call."""
    parts = [[part.copy() for part in run(images[start : start + size])] for start in range(0, len(images), size)]
    return Outputs(*(np.concatenate(part) for part in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Reference:
    """Golden images uint8 [N, H, W, 3], labels [N] (-1 unknown), torch's probabilities [N, K] and [N, B, K].

    `files` [N] are the names of the photos in the folder that they come from; None in older bundles.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    branch_probabilities: NDArray[np.float32]
    files: NDArray[np.str_] | None = None


@contextmanager
def reading_arrays(path: Path) -> Iterator[Any]:
    """The arrays in the file `path`, by name. Raises CorruptArtifact, also for what goes wrong in the block."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}.") from error
