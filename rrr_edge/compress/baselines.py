"""Baseline networks that are only timed: source networks, whole or pruned, random weights of usual scale."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rrr_edge.backends import Session
from rrr_edge.backends.protocols import Baseline
from rrr_edge.bundle.baseline import (
    BASELINE_CALIBRATION_IMAGES,
    LATENCY_ONLY,
    BaselineCard,
    Point,
    card_of,
    obstacle_of,
)
from rrr_edge.bundle.files import describe_file, staged_file, write_file, writing_to
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.measurements import Granularity, Subject
from rrr_edge.bundle.sources import name_of
from rrr_edge.bundle.spec import NetworkSpec, ResNetSpec, SourceSpec, source_spec
from rrr_edge.compress.prune import make_permanent, mask, without_blocks
from rrr_edge.compress.slimming import slimming, sparsity_of
from rrr_edge.errors import RRREdgeError, UsageError
from rrr_edge.networks import Network, build, cost, cuda
from rrr_edge.networks.cuda import CudaSession
from rrr_edge.networks.eager import EagerSession
from rrr_edge.networks.export import export_onnx

_SEED = 0


def write_baseline(bundle: Bundle) -> Path:
    """Put the source network for its classes and image size at `bundle.baseline`, unless it is there already."""
    RandomNetworks(bundle).write(Point(backbone=bundle.manifest.recipe.backbone))
    return bundle.baseline


def pytorch_baselines(bundle: Bundle, *, threads: int) -> tuple[Baseline, ...]:
    """The same network in each way that PyTorch can run it here."""
    workshop, whole = RandomNetworks(bundle), Point(backbone=bundle.manifest.recipe.backbone)
    return tuple(workshop.open(whole, runtime, threads=threads) for runtime in workshop.runtimes)


@dataclass(frozen=True)
class RandomNetworks:
    """The workshop of a bundle's comparisons: its source network for its classes and image size, whole or pruned.

    What is pruned is random.

    Widths are those that Torch-Pruning leaves; which of the random channels they are makes no difference.
    """

    bundle: Bundle

    def write(self, point: Point) -> None:
        """Where a granularity cannot reach the sparsity, a sentence that says so takes the file's place."""
        path = self.bundle.alternative(point.stem)
        with writing_to(path):
            path.parent.mkdir(exist_ok=True)
        try:
            self._write(point, path)
        except UsageError as error:
            write_file(obstacle_of(path), f"{error}\n")
        else:
            obstacle_of(path).unlink(missing_ok=True)

    @property
    def runtimes(self) -> tuple[str, ...]:
        return tuple(f"{name} fp32" for name in _RUNTIMES if "cuda" not in name or cuda.is_usable())

    def open(self, point: Point, runtime: str, *, threads: int) -> Baseline:
        """Raises UsageError where the sparsity is out of reach.

        Where other programs share the cores, torch's spinning threads may make single runs take seconds; then set
        OMP_WAIT_POLICY=PASSIVE before torch is first imported. On an idle machine that costs torch a third of its
        speed, so it is left to the user, and recorded.
        """
        network, preprocess = self._network(point), self.bundle.manifest.preprocess
        name = runtime.removesuffix(" fp32")
        words, how, session = _RUNTIMES[name]
        expense = cost(network.spec, preprocess.image_size)
        subject = Subject(
            backend=name,
            precision="fp32",
            threads=threads,
            params=expense.params,
            macs=expense.macs,
            note=f"{how}; {LATENCY_ONLY}",
            granularity=point.granularity,
            sparsity=self._gone(network, point),
            sparsity_asked=point.sparsity,
        )
        return Baseline(f"{point.words}, {words}", session(network, preprocess, threads), subject)

    def _write(self, point: Point, path: Path) -> None:
        """Raises UsageError where the sparsity is out of reach."""
        spec, preprocess = self._spec(point), self.bundle.manifest.preprocess
        if _is_there(path, point, spec, preprocess):
            return
        network = self._network(point)
        with staged_file(path) as stage:
            export_onnx(network, preprocess, stage)
        expense = cost(spec, preprocess.image_size)
        card = BaselineCard(
            name=point.words,
            spec=spec,
            preprocess=preprocess,
            params=expense.params,
            macs=expense.macs,
            granularity=point.granularity,
            sparsity=self._gone(network, point),
            sparsity_asked=point.sparsity,
            model=describe_file(path),
        )
        write_file(card_of(path), card.to_json())

    def _spec(self, point: Point) -> NetworkSpec:
        return _SPECS[point.granularity](point.sparsity, self._whole)

    def _network(self, point: Point) -> Network:
        return self._make(point) if point.sparsity else self._unpruned

    @cached_property
    def _unpruned(self) -> Network:
        # Every round of a sweep opens it.
        return self._make(Point(backbone=self.bundle.manifest.recipe.backbone))

    @property
    def _whole(self) -> SourceSpec:
        manifest = self.bundle.manifest
        return source_spec(manifest.spec.num_classes, manifest.recipe.backbone)

    def _gone(self, network: Network, point: Point) -> float:
        """The share of the source network's parameters that is not there, or masked."""
        if point.granularity != "element":
            return sparsity_of(network.spec, self._whole)
        zeros = sum(kernel.numel() - int(kernel.count_nonzero()) for kernel in network.parameters() if kernel.ndim > 1)
        return zeros / sum(parameter.numel() for parameter in network.parameters())

    def _make(self, point: Point) -> Network:
        zeroed = point.sparsity if point.granularity == "element" else 0.0
        preprocess, images = self.bundle.manifest.preprocess, self.bundle.calibration
        return random_network(self._spec(point), preprocess, images, zeroed=zeroed)


def _bottlenecks(whole: SourceSpec) -> ResNetSpec:
    """Raises UsageError for a source network of other blocks."""
    if isinstance(whole, ResNetSpec):
        return whole
    raise UsageError(
        f"Channels and blocks are pruned in networks of bottleneck blocks, and {name_of(whole.backbone)} has none.",
        advice="Compare with the network itself and with element-wise pruning: --against baseline,element",
    )


_SPECS: dict[Granularity, Callable[[float, SourceSpec], NetworkSpec]] = {
    "baseline": lambda sparsity, whole: whole,
    "element": lambda sparsity, whole: whole,
    "channel": lambda sparsity, whole: slimming(sparsity, _bottlenecks(whole)).spec,
    "block": lambda sparsity, whole: without_blocks(sparsity, _bottlenecks(whole)),
}


class _Runtime(NamedTuple):
    words: str
    how: str
    session: Callable[[Network, Preprocess, int], Session]


_WAITING = f"OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY', 'unset')}"
_RUNTIMES: dict[str, _Runtime] = {
    "pytorch": _Runtime(
        "PyTorch", f"eager mode, {_WAITING}", lambda network, fit, threads: EagerSession(network, fit, threads=threads)
    ),
    "pytorch cuda eager": _Runtime(
        "PyTorch CUDA eager", "eager mode on the GPU", lambda network, fit, _: CudaSession(network, fit, mode="eager")
    ),
    "pytorch cuda graph": _Runtime(
        "PyTorch CUDA graph", "one CUDA graph", lambda network, fit, _: CudaSession(network, fit, mode="graph")
    ),
    "pytorch cuda compile": _Runtime(
        "PyTorch CUDA compile",
        "torch.compile, reduce-overhead",
        lambda network, fit, _: CudaSession(network, fit, mode="compile"),
    ),
}


def random_network(
    spec: NetworkSpec, preprocess: Preprocess, images: NDArray[np.uint8], *, zeroed: float = 0.0, seed: int = _SEED
) -> Network:
    """The network of `spec` as it is initialised, with the batch statistics of uint8 `images` [N, H, W, 3].

    Without true statistics the activations of so deep a network grow or fade until they are denormal, and denormals
    take a CPU many times longer: the comparison would flatter us. At most 32 images are read. Weights that make up the
    share `zeroed` of all parameters, drawn from the seed too, are zero. Raises UsageError where these are too many.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(spec)
    if zeroed:
        mask(network, zeroed, seed=seed)
        make_permanent(network)
    network.eval()  # without dropout
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average over all batches
            module.train()
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    pixels = torch.from_numpy(np.ascontiguousarray(images[:BASELINE_CALIBRATION_IMAGES])).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        network((pixels - mean) / std)
    return network.eval()


def _is_there(path: Path, point: Point, spec: NetworkSpec, preprocess: Preprocess) -> bool:
    try:
        card = BaselineCard.read(path)
    except RRREdgeError:
        return False
    asked = (point.granularity, point.sparsity, spec, preprocess)
    return (card.granularity, card.sparsity_asked, card.spec, card.preprocess) == asked
