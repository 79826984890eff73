import numpy as np
import pytest
import torch
from small_network import small_network
from torchvision.transforms.v2 import functional as vision

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.errors import BadInput
from rrr_edge.training.batches import Examples
from rrr_edge.training.evaluate import predict


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
