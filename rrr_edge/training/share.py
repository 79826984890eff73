"""Training in several processes, each with its share of the branches.

Branches share no trainable parameter but the stump's. So each process trains some of them, on just the batches that
they see in one process: nothing needs to be exchanged, and batch normalisation sees whole batches. To split the batches
instead, as data-parallel training does, would need normalisation over all processes, which torch has on GPUs only, and
would change the augmentation. A stump that learns too is kept alike by adding up its gradients over the processes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch import distributed as dist

from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.bundle.structure import in_stump
from rrr_edge.errors import CannotRunHere, UsageError
from rrr_edge.networks import Network, ResNet, build
from rrr_edge.timing.processes import process_count, process_rank

T = TypeVar("T")


def processes() -> int:
    """How many of them torchrun started for this training."""
    return process_count()


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return process_rank() == 0


def first_does(fabric: Fabric, act: Callable[[], T]) -> T:
    """Let the first process alone `act`, and give its answer, a small one, to all.

    Where that fails all stop: the first process with its error, the others with CannotRunHere.
    """
    answer, error = None, None
    if is_first():
        try:
            answer = act()
        except Exception as caught:  # raised below, once the others know
            error = caught
    answer, failed = fabric.broadcast((answer, error is not None))
    if error:
        raise error
    if failed:
        raise CannotRunHere("The first process stopped; its error says why.")
    return cast(T, answer)


@dataclass(frozen=True)
class Share:
    """The branches of this process: the `fabric.global_rank`-th of `fabric.world_size` equal parts.

    All processes must call the methods that gather or combine, in the same order. Where there is one process, nothing
    is copied or exchanged. Raises UsageError where the branches cannot be shared.
    """

    fabric: Fabric
    network: Network

    def __post_init__(self) -> None:
        spec, parts = self.network.spec, self.fabric.world_size
        if spec.branches % parts:
            raise UsageError(
                f"{parts} processes cannot share {spec.branches} branches evenly.",
                advice=f"Start a number of processes that divides {spec.branches}.",
            )
        if parts > 1 and spec.kind == "factored":
            raise UsageError("Several processes cannot share a factored network.", advice="Start a single process.")
        if parts > 1 and spec.dropout:
            raise UsageError("Several processes cannot draw the dropout of one.", advice="Start a single process.")

    @property
    def branches(self) -> range:
        each = self.network.spec.branches // self.fabric.world_size
        return range(each * self.fabric.global_rank, each * (self.fabric.global_rank + 1))

    @property
    def is_first(self) -> bool:
        return self.branches.start == 0

    def take(self) -> Network:
        """The network with just these branches, on the device and in the training mode of the whole one."""
        if self.fabric.world_size == 1:
            return self.network
        assert isinstance(self.network, ResNet)
        assert isinstance(self.network.spec, ResNetSpec)
        mine = build(self.network.spec.model_copy(update={"branches": len(self.branches)}))
        mine.to(next(self.network.parameters()).dtype)
        mine.load_state_dict({name: self.rows(name, tensor) for name, tensor in self.network.state_dict().items()})
        for name, parameter in self.network.named_parameters():
            mine.get_parameter(name).requires_grad_(parameter.requires_grad)
        if self.network.stump_frozen:
            mine.freeze_stump()
        self.fabric.to_device(mine)
        mine.to(memory_format=torch.channels_last)
        for name, tensor in mine.state_dict().items():
            if in_stump(name):
                # Computed by each process, and perhaps on different devices.
                dist.broadcast(tensor, src=0)
        return mine.train(self.network.training)

    def give(self, mine: Network) -> Network:
        """The whole network, with what all processes have learned."""
        if self.fabric.world_size == 1:
            return mine
        whole = self.network.state_dict()
        with torch.no_grad():
            for name, tensor in mine.state_dict().items():
                whole[name].copy_(self.gather(name, tensor))
        return self.network

    def rows(self, name: str, tensor: Tensor) -> Tensor:
        """Of a tensor of the whole network the part of these branches."""
        if self.fabric.world_size == 1 or _is_common(name, tensor):
            return tensor
        rows: Tensor = tensor.chunk(self.fabric.world_size)[self.fabric.global_rank]
        return rows

    def gather(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor of the whole network, of which this process has `tensor`."""
        if self.fabric.world_size == 1 or _is_common(name, tensor):
            return tensor
        parts = [
            torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for _ in range(self.fabric.world_size)
        ]
        dist.all_gather(parts, tensor.detach().contiguous())
        return torch.cat(parts)

    def mean(self, *values: float) -> list[float]:
        """Of each value the mean over the processes."""
        if self.fabric.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.fabric.device)
        dist.all_reduce(total)
        means: list[float] = (total / self.fabric.world_size).tolist()
        return means

    def most(self, value: int) -> int:
        """The largest of the processes' values."""
        if self.fabric.world_size == 1:
            return value
        largest = torch.tensor(value, device=self.fabric.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def add_up_gradients(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Let the stump feel the branches of all processes."""
        for name, parameter in parameters:
            if self.fabric.world_size > 1 and in_stump(name) and parameter.grad is not None:
                dist.all_reduce(parameter.grad)


def _is_common(name: str, tensor: Tensor) -> bool:
    """Whether all processes have it whole; the counts of batches are numbers without rows."""
    return in_stump(name) or tensor.dim() == 0
