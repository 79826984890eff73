import numpy as np
import pytest
import torch
from scipy import stats
from small_network import small_network
from torchvision.transforms.v2 import functional as vision

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.errors import BadInput
from rrr_edge.timing.statistics import wilson_interval
from rrr_edge.training.batches import Examples
from rrr_edge.training.evaluate import accuracy, predict


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_size", [5, 64])
def test_predict_is_the_mean_of_the_branches_softmaxes(
    examples: Examples, preprocess: Preprocess, training: bool, batch_size: int
) -> None:
    network = small_network(branches=3).double().train(training)
    outputs = predict(network, examples.images, preprocess=preprocess, batch_size=batch_size)
    assert (network.training, network.layer1.training) == (training, False)
    pixels = torch.from_numpy(examples.images).permute(0, 3, 1, 2).double() / 255
    with torch.no_grad():
        logits = network.eval()(vision.normalize(pixels, list(preprocess.mean), list(preprocess.std)))
    branches = torch.softmax(logits, dim=2)
    # In float64 but for the normalisation's constants: 2^-24 of each pixel.
    np.testing.assert_allclose(outputs.branch_probabilities, branches, atol=1e-6)
    np.testing.assert_allclose(outputs.probabilities, branches.mean(1), atol=1e-6)
    np.testing.assert_allclose(outputs.probabilities.sum(1), 1, atol=1e-12)


def test_predict_leaves_the_network_as_it_was(examples: Examples, preprocess: Preprocess) -> None:
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert predict(network.train(), examples.images, preprocess=preprocess).probabilities.dtype == np.float32
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(BadInput, match="no images"):
        predict(network, examples.images[:0], preprocess=preprocess)


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 20), (13, 20), (399, 400), (400, 400)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_is_scipys(successes: int, trials: int, confidence: float) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, trials, confidence=confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_accuracy_by_its_formulas() -> None:
    rng = np.random.default_rng(0)
    names = ("cup", "glass", "mug", "never seen")
    probabilities = rng.dirichlet([0.5] * 4, 300).astype(np.float32)
    labels = np.where(rng.random(300) < 0.6, probabilities.argmax(1), 0) % 3
    found = accuracy(probabilities, labels, names)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    error = sum(abs(confidence[bins == b].mean() - right[bins == b].mean()) * np.mean(bins == b) for b in set(bins))
    assert (found.images, found.correct) == (300, right.sum())
    assert found.accuracy == pytest.approx(right.mean())
    assert found.interval == pytest.approx(tuple(stats.binomtest(right.sum(), 300).proportion_ci(method="wilson")))
    assert found.calibration_error == pytest.approx(error, abs=1e-6)
    assert found.per_class == pytest.approx({name: right[labels == i].mean() for i, name in enumerate(names[:3])})


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(BadInput, match="no images"):
        accuracy(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), ("a", "b"))
    with pytest.raises(BadInput, match="do not fit"):
        accuracy(np.full((3, 2), 0.5, np.float32), np.zeros(3, np.int64), ("a", "b", "c"))
