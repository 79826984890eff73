"""What the optimisers keep for a checkpoint."""

import pytest
import torch
from torch import nn

from rrr_edge.bundle.recipe import Training
from rrr_edge.training.objective import Group
from rrr_edge.training.optimizer import Learner


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"optimizer": "adamw"}, ["exp_avg", "exp_avg_sq"]),
        ({"optimizer": "sgd", "momentum": 0.9}, ["momentum_buffer"]),
        ({"optimizer": "sgd", "momentum": 0.0}, []),
    ],
)
def test_a_checkpoint_holds_the_moments_that_there_are(settings: dict[str, object], kept: list[str]) -> None:
    parameter = nn.Parameter(torch.ones(3))
    learner = Learner((Group({"weight": parameter}, weight_decay=0.0),), Training(**settings))
    learner.begin(0.1)
    parameter.sum().backward()
    learner.step()
    assert [moment for moment, _, _ in learner.tensors()] == kept
