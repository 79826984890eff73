"""A network's answers to images, and its accuracy."""

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_calibration_error

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.reference import Floats, Images, Outputs
from rrr_edge.bundle.verification import Accuracy
from rrr_edge.errors import BadInput
from rrr_edge.networks import Network
from rrr_edge.networks.export import Deployed
from rrr_edge.timing.statistics import wilson_interval

CALIBRATION_BINS = 15


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


def accuracy(probabilities: Floats, labels: NDArray[np.int64], class_names: tuple[str, ...]) -> Accuracy:
    """Judge `probabilities` [N, K] by `labels` [N]; a class without images has no entry in `per_class`.

    Raises BadInput where there is nothing to judge, or names, labels and probabilities do not belong together.
    """
    if not len(labels):
        raise BadInput("There are no images to judge the network by.")
    if probabilities.shape != (len(labels), len(class_names)):
        raise BadInput(
            f"Probabilities of shape {list(probabilities.shape)} do not fit {len(labels)} labels "
            f"of {len(class_names)} classes."
        )
    right = probabilities.argmax(1) == labels
    error = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), len(class_names), CALIBRATION_BINS, norm="l1"
    )
    return Accuracy(
        images=len(labels),
        correct=int(right.sum()),
        accuracy=float(right.mean()),
        interval=wilson_interval(int(right.sum()), len(labels)),
        calibration_error=float(error),
        per_class={
            name: float(right[labels == index].mean()) for index, name in enumerate(class_names) if index in labels
        },
    )
