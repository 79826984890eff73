"""The network that was compressed, to compare times with: true in structure, its weights random but sane."""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rrr_edge.baseline import LATENCY_ONLY, Against, Baseline, Rival, card_of
from rrr_edge.bundle import Bundle, Preprocess, describe_file
from rrr_edge.errors import RRREdgeError
from rrr_edge.export import export_onnx
from rrr_edge.files import staged_file, write_file, writing_to
from rrr_edge.measurement import Subject
from rrr_edge.networks import Network, build, cost
from rrr_edge.networks.eager import EagerSession
from rrr_edge.spec import NetworkSpec, ResNetSpec

NAME = "ResNet152"
_CALIBRATION_IMAGES = 32
_SEED = 0


def baseline_spec(spec: NetworkSpec) -> ResNetSpec:
    """ResNet_3_8_36_3 in one piece, for the classes of `spec`."""
    return ResNetSpec(num_classes=spec.num_classes)


def against_resnet152(bundle: Bundle, *, threads: int) -> Against:
    """What `profile` compares with where PyTorch is: ResNet152 as a file for the backend, and in PyTorch."""
    return Against(models=(write_baseline(bundle),), rivals=(eager_baseline(bundle, threads=threads),))


def write_baseline(bundle: Bundle) -> Path:
    """Put ResNet152 for the bundle's classes and image size at `bundle.baseline`, unless it is there already."""
    spec, preprocess = baseline_spec(bundle.manifest.spec), bundle.manifest.preprocess
    path = bundle.baseline
    if not _is_there(path, spec, preprocess):
        with writing_to(path):
            path.parent.mkdir(exist_ok=True)
        with staged_file(path) as stage:
            export_onnx(random_network(spec, preprocess, bundle.calibration), preprocess, stage)
        expense = cost(spec, preprocess.image_size)
        card = Baseline(
            name=NAME,
            spec=spec,
            preprocess=preprocess,
            params=expense.params,
            macs=expense.macs,
            model=describe_file(path),
        )
        write_file(card_of(path), card.to_json())
    return path


def eager_baseline(bundle: Bundle, *, threads: int) -> Rival:
    """The same network in PyTorch's eager mode.

    Where other programs share the cores, torch's spinning threads may make single runs take seconds; then set
    OMP_WAIT_POLICY=PASSIVE before torch is first imported. On an idle machine that costs torch a third of its speed,
    so it is left to the user, and recorded.
    """
    spec, preprocess = baseline_spec(bundle.manifest.spec), bundle.manifest.preprocess
    expense = cost(spec, preprocess.image_size)
    subject = Subject(
        backend="pytorch",
        precision="fp32",
        threads=threads,
        params=expense.params,
        macs=expense.macs,
        note=f"eager mode, OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY', 'unset')}; {LATENCY_ONLY}",
    )
    network = random_network(spec, preprocess, bundle.calibration)
    return Rival(f"{NAME}, PyTorch", EagerSession(network, preprocess, threads=threads), subject)


def random_network(
    spec: NetworkSpec, preprocess: Preprocess, images: NDArray[np.uint8], *, seed: int = _SEED
) -> Network:
    """The network of `spec` as it is initialised, with the batch statistics of uint8 `images` [N, H, W, 3].

    Without true statistics the activations of so deep a network grow or fade until they are denormal, and denormals
    take a CPU many times longer: the comparison would flatter us. At most 32 images are read.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(spec)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average over all batches
    network.train()
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    pixels = torch.from_numpy(np.ascontiguousarray(images[:_CALIBRATION_IMAGES])).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        network((pixels - mean) / std)
    return network.eval()


def _is_there(path: Path, spec: ResNetSpec, preprocess: Preprocess) -> bool:
    try:
        card = Baseline.read(path)
    except RRREdgeError:
        return False
    return (card.spec, card.preprocess) == (spec, preprocess)
