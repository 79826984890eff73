import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rrr_edge.backends.graph.parts import convolution_macs, part_of_node, product_macs


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("conv4/layer3.0.conv1/Conv_320/WithoutBiases", "conv4"),
        ("fused stump/layer1.0.relu/relu_1_nchwc", "stump"),
        ("heads/avgpool/mean + heads/fc/conv2d_17", "heads"),
        ("input/add_abcd_acdb_stump/conv1/Conv_302", "input"),
        ("probabilities", "vote"),
        ("branch_probabilities", "vote"),
        ("ReorderOutput_token_23", "conv5"),
        ("", "conv5"),
    ],
)
def test_the_part_is_read_from_the_name_or_is_that_of_the_layer_before(name: str, part: str) -> None:
    assert part_of_node(name, "conv5") == part


def test_what_comes_first_belongs_to_the_input() -> None:
    assert part_of_node("a transposition") == "input"


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (4, 2)])
def test_convolutions_are_counted_as_torch_counts_them(groups: int, stride: int) -> None:
    convolution = torch.nn.Conv2d(8, 12, 3, stride, padding=1, groups=groups)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = convolution(torch.zeros(1, 8, 10, 14))
    assert convolution_macs(output.shape, convolution.weight.shape) == counter.get_total_flops() / 2


@pytest.mark.parametrize("shapes", [((1, 6), (6, 5)), ((1, 3, 1, 6), (3, 6, 5)), ((1, 4, 6), (6, 5))])
def test_products_are_counted_as_torch_counts_them(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    left, right = (torch.zeros(shape) for shape in shapes)
    with FlopCounterMode(display=False) as counter:
        output = left @ right
    assert product_macs(output.shape, left.shape) == counter.get_total_flops() / 2
    assert np.prod(output.shape) * left.shape[-1] == counter.get_total_flops() / 2
