"""Reference images with torch's outputs, and the array types that sessions exchange."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Outputs(NamedTuple):
    """`probabilities` [N, K] and `branch_probabilities` [N, B, K], float32."""

    probabilities: Floats
    branch_probabilities: Floats


@dataclass(frozen=True)
class Reference:
    """Golden images uint8 [N, H, W, 3], labels [N] (-1 unknown), torch's probabilities [N, K] and [N, B, K]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    branch_probabilities: NDArray[np.float32]
