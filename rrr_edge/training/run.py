"""The settings of how a training is carried out, and the device and precision that follow from them."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from rrr_edge.errors import CannotRunHere
from rrr_edge.networks import Network
from rrr_edge.timing.machine import cpu_info, usable_cores
from rrr_edge.timing.progress import OnProgress, silent
from rrr_edge.training.batches import Examples
from rrr_edge.training.checkpoint import EpochRow
from rrr_edge.training.share import processes

Device = Literal["auto", "cpu", "cuda"]

_NATIVE_BF16 = {"avx512_bf16", "amx_bf16"}
# Floats of the widest vectors that oneDNN computes with.
_VECTOR = 16


@dataclass(frozen=True)
class Run:
    """How a training is carried out. Only `device` and `precision` touch the numbers, and those by roundings.

    "auto" precision is bf16-mixed where the hardware has bfloat16. `checkpoints` is a folder of this training's own.
    `validation` is judged every `validate_every` epochs and after the last. `after_step` is called with the number of
    finished steps and of all, before the state is kept; it may look at the network, but not change it.
    """

    device: Device = "auto"
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    checkpoints: Path | None = None
    resume: bool = False
    validation: Examples | None = None
    validate_every: int = 10
    on_progress: OnProgress = silent
    after_step: Callable[[int, int], None] | None = None


@dataclass(frozen=True)
class Trained:
    """What there is to record of a finished training."""

    history: tuple[EpochRow, ...]
    precision: str
    device: str


def require_device(device: Device) -> None:
    """Raise CannotRunHere where torch cannot train on `device`."""
    if device == "cuda" and not torch.cuda.is_available():
        raise CannotRunHere("torch finds no CUDA GPU on this machine.", advice="Use --device cpu.")


def open_fabric(run: Run) -> Fabric:
    """The device, precision and processes of `run`. Raises CannotRunHere."""
    require_device(run.device)
    device = "cuda" if run.device != "cpu" and torch.cuda.is_available() else "cpu"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    precision = precision_of(run, torch.device(device))
    if processes() == 1:
        return Fabric(accelerator=device, devices=1, precision=precision)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes()))
    fabric = Fabric(
        accelerator=device, strategy="ddp", devices=here, num_nodes=processes() // here, precision=precision
    )
    fabric.launch()
    return fabric


def precision_of(run: Run, device: torch.device) -> Literal["bf16-mixed", "32-true"]:
    if run.precision != "auto":
        return run.precision
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else not _NATIVE_BF16.isdisjoint(cpu_info()[1])
    return "bf16-mixed" if native else "32-true"


def augmenting_threads(fabric: Fabric) -> int:
    """All cores beside a GPU, one where the network itself computes on the cores."""
    return 1 if fabric.device.type == "cpu" else usable_cores()


@contextmanager
def on_device(network: Network, fabric: Fabric) -> Iterator[None]:
    """The network in training mode, channels last and on its device; torch's global random state as it was after."""
    was_training = network.training
    fabric.to_device(network)
    network.to(memory_format=torch.channels_last)
    network.train()
    try:
        with (
            torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []),
            without_overruns(network, fabric.device),
        ):
            yield
    finally:
        network.to(memory_format=torch.contiguous_format)
        network.train(was_training)


def without_overruns(network: nn.Module, device: torch.device) -> AbstractContextManager[None]:
    """PyTorch without oneDNN, where its gradients would be written past their memory, which ends the process.

    In PyTorch 2.14 strided 1x1 convolutions in channels-last memory do that, where they read fewer channels than fit
    into a vector: seen with AVX2 and fewer than 8; AVX-512 has vectors of 16. Only pruning leaves so few.
    """
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    if device.type == "cpu" and any(
        conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.in_channels // conv.groups < _VECTOR
        for conv in convolutions
    ):
        return torch.backends.mkldnn.flags(enabled=False, allow_tf32=None)
    return nullcontext()
