"""The weights of each finished training stage, as files."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rrr_edge.bundle.files import write_file
from rrr_edge.errors import CorruptArtifact
from rrr_edge.networks import Network


def state_of(network: Network) -> dict[str, Tensor]:
    """A copy of the network's state dict, in memory."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}


def keep(path: Path, state: dict[str, Tensor]) -> None:
    """Replace `path`, in a folder made where missing, in one step."""
    write_file(path, save(state))


def recall(path: Path) -> dict[str, Tensor]:
    """What was kept. Raises CorruptArtifact where it is gone or damaged."""
    try:
        state: dict[str, Tensor] = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise CorruptArtifact(
            f"{path}, kept for going on, cannot be read: {error}.", advice="Start anew with --force."
        ) from error
    return state
