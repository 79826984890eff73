"""The temperature that makes probabilities as large as the answers are often right."""

import numpy as np

from rrr_edge.bundle.doubt import tempered
from rrr_edge.bundle.evaluation import Labels, calibration_error
from rrr_edge.bundle.reference import Floats

# Temperatures outside are a sign of data that tells nothing.
_COLDEST, _HOTTEST = 0.05, 20.0
_FOLDS = 5


def fit_temperature(probabilities: Floats, labels: Labels) -> float:
    """The temperature at which `probabilities` [N, K] make the `labels` [N] likeliest (Guo et al. 2017, section 4.2).

    The negative log-likelihood is convex in 1 / T: its slope is bisected, from T = 0.05 to 20. Where all answers are
    right, or all wrong, any T that is small, or large, enough fits: it is 1 then.
    """
    right = probabilities.argmax(1) == labels
    if right.all() or not right.any():
        return 1.0
    logs = np.log(tempered(probabilities, 1.0))
    own = logs[np.arange(len(labels)), labels]
    low, high = 1 / _HOTTEST, 1 / _COLDEST
    for _ in range(50):
        middle = float(np.sqrt(low * high))
        slope = float(((tempered(probabilities, 1 / middle) * logs).sum(1) - own).mean())
        if slope > 0:
            high = middle
        else:
            low = middle
    return float(1 / np.sqrt(low * high))


def error_after(probabilities: Floats, labels: Labels) -> float:
    """The expected calibration error with a temperature: each fifth of the photos has that of the others."""
    folds = np.random.default_rng(0).permutation(len(labels)) % _FOLDS
    after = np.empty(len(labels))
    for fold in range(_FOLDS):
        mine = folds == fold
        if mine.any():
            temperature = fit_temperature(probabilities[~mine], labels[~mine])
            after[mine] = tempered(probabilities[mine], temperature).max(1)
    return calibration_error(after.astype(np.float32), probabilities.argmax(1) == labels)
