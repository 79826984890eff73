"""nn.Module -> model.onnx: preprocessing, softmax and vote inside, checked against torch before it is kept."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rrr_edge.backends.protocols import Outputs
from rrr_edge.bundle import Preprocess, Verification
from rrr_edge.errors import GateFailed, MissingLibrary
from rrr_edge.networks import Network
from rrr_edge.progress import quiet
from rrr_edge.spec import Vote
from rrr_edge.verification import verify

INPUT = "images"
OUTPUTS = ("probabilities", "branch_probabilities")
OPSET = 18


class Deployed(nn.Module):
    """`network` as the device sees it: uint8 RGB [N, H, W, 3] -> probabilities [N, K], branch probabilities [N, B, K].

    The vote is the mean of the branches' softmaxes (Sun et al. 2023, section 3), or the softmax of their mean logits
    where the network's spec says so.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Network, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        logits = self.network(pixels * self.scale + self.shift)
        return _VOTES[self.network.spec.vote](logits), logits.softmax(-1)


# From logits [N, B, K] to probabilities [N, K].
_VOTES: dict[Vote, Callable[[Tensor], Tensor]] = {
    "probabilities": lambda logits: logits.softmax(-1).mean(1),
    "logits": lambda logits: logits.mean(1).softmax(-1),
}


def export_onnx(network: Network, preprocess: Preprocess, path: Path) -> None:
    """Write `network` to `path` with a free batch dimension, simplified. Raises MissingLibrary."""
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter needs it and says so less clearly)
        import onnxsim
    except ImportError as error:
        raise MissingLibrary(error.name or "onnx", extra="compress", purpose="Exporting to ONNX") from error
    deployed = Deployed(network, preprocess).cpu().float().eval()
    side = preprocess.image_size
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    with quiet():
        program = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
        assert program is not None
        simple, same = onnxsim.simplify(program.model_proto)
    if not same:
        raise GateFailed(
            "onnxsim changed the network's answers.", advice="Report this with the versions of onnx and onnxsim."
        )
    onnx.checker.check_model(simple)
    onnx.save_model(simple, str(path))


def verify_onnx(
    path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], torch_outputs: Outputs
) -> Verification:
    """Compare `path`, run by ONNX Runtime, with what torch answered. Raises GateFailed beyond the fp32 limits."""
    from rrr_edge.backends.onnxruntime import run_model

    verification = verify(torch_outputs, run_model(path, images), labels, precision="fp32", against="torch")
    if not verification.passed:
        raise GateFailed(f"{path.name} does not answer like torch: {'; '.join(verification.failures)}.")
    return verification
