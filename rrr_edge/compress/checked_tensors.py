"""The check that loaded tensors are those of a network: all names, all shapes, dense and finite."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rrr_edge.bundle.sources import Shape
from rrr_edge.compress.state_dicts import some
from rrr_edge.errors import BadInput


def check_tensors(found: Mapping[str, Any], expected: Mapping[str, Shape], name: str, where: str) -> dict[str, Tensor]:
    """`found` in float32, with counts of batches where they are absent.

    Raises BadInput, which says how it differs from the state dict `expected` of the network called `name`.
    """
    counts = {key: torch.tensor(0) for key in expected if _is_count(key) and key not in found}
    tensors = {**found, **counts}
    said = f"{where} does not hold the weights of a {name}"
    _refuse(
        {
            "missing": [key for key in expected if key not in tensors],
            "not among its tensors": [key for key in tensors if key not in expected],
            "not a tensor": [key for key, value in tensors.items() if not isinstance(value, Tensor)],
        },
        said,
        name,
    )
    shapes = {key: f"{key} {list(tensors[key].shape)} instead of {list(shape)}" for key, shape in expected.items()}
    wrong = [told for key, told in shapes.items() if tensors[key].shape != expected[key]]
    _refuse({"of the wrong shape": wrong}, said, name)
    return {key: as_float32(value, key, name, where) for key, value in tensors.items()}


def as_float32(value: Tensor, key: str, name: str, where: str) -> Tensor:
    """The tensor called `key`, unless it is sparse, quantised or not finite (BadInput); counts stay integers."""
    said = f"{where} does not hold the weights of a {name}"
    dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    _refuse({"not dense floats": [] if dense and (_is_count(key) or value.is_floating_point()) else [key]}, said, name)
    value = value.long() if _is_count(key) else value.detach().float()
    _refuse({"not finite": [] if value.isfinite().all() else [key]}, said, name)
    return value.contiguous()


def _refuse(problems: dict[str, list[str]], where: str, name: str) -> None:
    said = "; ".join(
        f"{some(names)} {'is' if len(names) == 1 else 'are'} {problem}" for problem, names in problems.items() if names
    )
    if said:
        raise BadInput(
            f"{where}: {said}.",
            advice=f"Give the state dict of a {name} as torchvision builds it, or published weights: "
            "--weights imagenet",
        )


def _is_count(name: str) -> bool:
    return name.endswith("num_batches_tracked")
