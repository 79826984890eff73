"""A network's answers to images."""

import numpy as np
import torch

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.errors import BadInput
from rrr_edge.networks import Network
from rrr_edge.networks.export import Deployed


def predict(network: Network, images: Images, *, preprocess: Preprocess, batch_size: int = 64) -> Outputs:
    """Answer uint8 `images` [N, H, W, 3] in eval mode, by the arithmetic of the exported graph.

    Computes and answers in the type of the weights; a bundle's are float32. Runs on the device where the network is;
    its mode is restored. Raises BadInput where there are no images.
    """
    if not len(images):
        raise BadInput("There are no images to answer.")
    weights = next(network.parameters())
    deployed = Deployed(network, preprocess).to(weights)
    was_training = network.training
    deployed.eval()
    try:
        with torch.inference_mode():
            answers = [
                deployed(torch.from_numpy(np.ascontiguousarray(images[i : i + batch_size])).to(weights.device))
                for i in range(0, len(images), batch_size)
            ]
    finally:
        network.train(was_training)
    probabilities, branch_probabilities = (torch.cat(parts).cpu().numpy() for parts in zip(*answers, strict=True))
    return Outputs(probabilities, branch_probabilities)
