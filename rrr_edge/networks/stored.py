"""The network of a bundle as a PyTorch module."""

from safetensors import SafetensorError
from safetensors.torch import load_file

from rrr_edge.bundle.commands import compressing
from rrr_edge.bundle.folder import Bundle
from rrr_edge.errors import CorruptArtifact
from rrr_edge.networks import Network, build


def load_network(bundle: Bundle) -> Network:
    """The bundle's network with its weights, in evaluation mode on the CPU. Raises CorruptArtifact."""
    network = build(bundle.manifest.spec)
    try:
        network.load_state_dict(load_file(bundle.weights))
    except (SafetensorError, RuntimeError) as error:
        raise CorruptArtifact(
            f"{bundle.weights} does not hold the weights of the network in {bundle.path}.",
            advice=f"Run: {compressing(bundle.path, anew=True)}",
        ) from error
    return network.eval()
