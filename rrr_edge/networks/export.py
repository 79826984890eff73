"""Export to ONNX with preprocessing, softmax and vote in the graph, and its check against PyTorch."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.spec import Part, Vote
from rrr_edge.bundle.structure import part_of_layer
from rrr_edge.bundle.verification import Verification, verify
from rrr_edge.errors import GateFailed, MissingLibrary
from rrr_edge.networks import Network, Tailored, Torchvision
from rrr_edge.networks.tailored import fold
from rrr_edge.timing.progress import quiet

INPUT = "images"
OUTPUTS = ("probabilities", "branch_probabilities")
OPSET = 18

_NETWORK = "network."
_SCOPES = "pkg.torch.onnx.name_scopes"


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
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        # For a whole row of pixels: three numbers at a time would not fill a vector unit.
        self.register_buffer("scale", (1 / (255 * std)).repeat(preprocess.image_size))
        self.register_buffer("shift", (-mean / std).repeat(preprocess.image_size))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # Channels last until here: OpenVINO would move the bytes to channels first, and the numbers back again.
        rows = images.to(self.scale.dtype).flatten(2) * self.scale + self.shift
        logits = self.network(rows.reshape(images.shape).permute(0, 3, 1, 2))
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
    deployed = Deployed(_as_deployed(network), preprocess).cpu().float().eval()
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
        model = program.model_proto
        _name_by_part(model, network.part_of_layer if isinstance(network, Torchvision) else part_of_layer)
        simple, same = onnxsim.simplify(model)
    if not same:
        raise GateFailed(
            "onnxsim changed the network's answers.", advice="Report this with the versions of onnx and onnxsim."
        )
    onnx.checker.check_model(simple)
    onnx.save_model(simple, str(path))


def _as_deployed(network: Network) -> Network:
    """The network without what only training needs: attention and products become convolutions, or part of them."""
    if isinstance(network, Torchvision):
        return network.deployed()
    return fold(network) if isinstance(network, Tailored) else network


def _name_by_part(model: Any, part_of_layer: Callable[[str], Part]) -> None:
    """Put the part and the module in front of the names of nodes and tensors: "conv4/layer3.0.conv1/...".

    Each backend fuses layers in its own way, but names the result after these.
    """
    part: Part = "input"
    renamed: dict[str, str] = {}
    kept = {value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer)}
    modules = [_module(node) for node in model.graph.node]
    last = max(place for place, module in enumerate(modules) if module)
    for place, (node, module) in enumerate(zip(model.graph.node, modules, strict=True)):
        if module:
            part = part_of_layer(module)
        elif place > last:
            part = "vote"
        where = "/".join(filter(None, (part, module)))
        node.name = f"{where}/{node.name.removeprefix('node_')}"
        renamed |= {output: f"{where}/{output}" for output in node.output if output and output not in kept}
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for value in model.graph.value_info:
        value.name = renamed.get(value.name, value.name)


def _module(node: Any) -> str:
    """The network's module to which `node` belongs: the one whose weight it reads, else that which torch noted."""
    for name in node.input:
        if name.startswith(_NETWORK) and name.endswith(".weight"):
            return str(name.removeprefix(_NETWORK).removesuffix(".weight"))
    noted = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    within = [scope for scope in ast.literal_eval(noted) if scope.startswith(_NETWORK)]
    return within[-1].removeprefix(_NETWORK) if within else ""


def verify_onnx(
    path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], torch_outputs: Outputs
) -> Verification:
    """Compare `path`, run by ONNX Runtime, with what torch answered. Raises GateFailed beyond the fp32 limits."""
    from rrr_edge.backends.onnxruntime import run_model

    verification = verify(torch_outputs, run_model(path, images), labels, precision="fp32")
    if not verification.passed:
        raise GateFailed(f"{path.name} does not answer like torch: {'; '.join(verification.failures)}.")
    return verification
