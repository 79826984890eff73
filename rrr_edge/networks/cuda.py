"""PyTorch sessions on NVIDIA GPUs: eager mode, a CUDA graph, or torch.compile."""

from collections.abc import Callable
from copy import deepcopy
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.networks import Network
from rrr_edge.networks.export import Deployed

Mode = Literal["eager", "graph", "compile"]
MODES: tuple[Mode, ...] = get_args(Mode)

# From a deployed network and where its images will lie to what answers them.
_Answer = Callable[[], tuple[Tensor, Tensor]]
_Mode = Callable[[nn.Module, Tensor], _Answer]
_WARM_UPS = 3


def is_usable() -> bool:
    """Whether PyTorch sees a GPU."""
    return torch.cuda.is_available()


class CudaSession:
    """A copy of `network` with the exported graph's own pre- and postlude, on `device`.

    Frames go up as uint8 from pinned memory, answers come down into it, and the stream is waited for, so that whoever
    measures a run measures all of it; `device_ms` is what the last one took between two events on the device.
    Convolutions compute in fp32: TensorFloat-32 is off, from the first session on and for the whole process.
    """

    def __init__(self, network: Network, preprocess: Preprocess, *, mode: Mode, device: str = "cuda") -> None:
        self.device_ms = 0.0
        torch.backends.cudnn.allow_tf32 = False  # the newer setting, of convolutions alone, breaks torch.export
        self._device = torch.device(device)
        self._deployed = Deployed(deepcopy(network), preprocess).to(self._device).eval()
        self._answer_with = _MODES[mode]
        self._ready: dict[int, _Ready] = {}

    def run(self, images: Images) -> Outputs:
        count = len(images)
        with torch.inference_mode():
            if count not in self._ready:
                self._ready[count] = _Ready(self._deployed, images, self._answer_with, self._device)
            answers, self.device_ms = self._ready[count].run(images)
        return answers

    def precision_found(self) -> dict[str, float]:
        return {"fp32": 1.0}

    def close(self) -> None:
        self._ready.clear()
        del self._deployed


class _Ready:
    """Buffers for one number of images, and what fills the answers."""

    def __init__(self, deployed: nn.Module, images: Images, answer_with: _Mode, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._images = torch.empty(images.shape, dtype=torch.uint8, pin_memory=pinned)
        self._pixels = torch.zeros(images.shape, dtype=torch.uint8, device=device)
        self._answer = answer_with(deployed, self._pixels)
        self._answers = tuple(torch.empty(a.shape, dtype=a.dtype, pin_memory=pinned) for a in self._answer())
        self._events = tuple(torch.Event(device, enable_timing=True) for _ in range(2))

    def run(self, images: Images) -> tuple[Outputs, float]:
        self._images.numpy()[:] = images
        start, end = self._events
        start.record()
        self._pixels.copy_(self._images, non_blocking=True)
        for ours, answer in zip(self._answers, self._answer(), strict=True):
            ours.copy_(answer, non_blocking=True)
        end.record()
        end.synchronize()
        return Outputs(*(answer.numpy() for answer in self._answers)), start.elapsed_time(end)


def _eager(deployed: nn.Module, pixels: Tensor) -> _Answer:
    return lambda: deployed(pixels)


def _graph(deployed: nn.Module, pixels: Tensor) -> _Answer:
    """All kernels of a run as one CUDA graph: what is left when Python and the launches cost nothing."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UPS):
            deployed(pixels)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answers = deployed(pixels)

    def answer() -> tuple[Tensor, Tensor]:
        graph.replay()
        return cast(tuple[Tensor, Tensor], answers)

    return answer


def _compile(deployed: nn.Module, pixels: Tensor) -> _Answer:
    """torch.compile as it is meant for small batches: its kernels, in a CUDA graph of its own."""
    compiled = torch.compile(deployed, mode="reduce-overhead", dynamic=False)
    for _ in range(_WARM_UPS):
        compiled(pixels)
    return lambda: compiled(pixels)


_MODES: dict[Mode, _Mode] = {"eager": _eager, "graph": _graph, "compile": _compile}
