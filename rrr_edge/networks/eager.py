"""PyTorch in eager mode as a session, to be timed beside the engines."""

import numpy as np
import torch

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.networks import Network
from rrr_edge.networks.export import Deployed


class EagerSession:
    """`network` in eager mode, on the device where its weights are, with the exported graph's own pre- and postlude.

    `threads` goes to torch.set_num_threads, which counts for the whole process.
    """

    def __init__(self, network: Network, preprocess: Preprocess, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._device = next(network.parameters()).device
        self._deployed = Deployed(network, preprocess).to(self._device).eval()

    @torch.inference_mode()
    def run(self, images: Images) -> Outputs:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        return Outputs(*(answer.cpu().numpy() for answer in self._deployed(pixels)))

    def precision_found(self) -> dict[str, float]:
        return {"fp32": 1.0}

    def close(self) -> None:
        del self._deployed
