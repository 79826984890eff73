"""The optimisers of trainings, and the tensors that each must remember."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from rrr_edge.bundle.recipe import OptimizerName, Training
from rrr_edge.training.objective import Group


class _Kind(NamedTuple):
    """`make` takes torch's parameter groups; `moments` are the keys of a parameter's state beside the step."""

    make: Callable[["_Groups", Training], Optimizer]
    moments: tuple[str, ...]


_Groups = list[dict[str, Any]]


def _adamw(groups: _Groups, training: Training) -> Optimizer:
    return AdamW(groups, lr=training.learning_rate, fused=True)


def _sgd(groups: _Groups, training: Training) -> Optimizer:
    return SGD(groups, lr=training.learning_rate, momentum=training.momentum)


_KINDS: dict[OptimizerName, _Kind] = {
    "adamw": _Kind(_adamw, ("exp_avg", "exp_avg_sq")),
    "sgd": _Kind(_sgd, ("momentum_buffer",)),
}


class Learner:
    """The optimiser of `groups`, and its tensors by the names of their parameters."""

    def __init__(self, groups: tuple[Group, ...], training: Training) -> None:
        self.parameters = {name: parameter for group in groups for name, parameter in group.parameters.items()}
        self._kind = _KINDS[training.optimizer]
        # SGD without momentum keeps nothing.
        self._moments = () if training.optimizer == "sgd" and not training.momentum else self._kind.moments
        self._optimizer = self._kind.make(
            [{"params": list(g.parameters.values()), "weight_decay": g.weight_decay} for g in groups], training
        )

    def begin(self, learning_rate: float) -> None:
        """Forget the gradients of the step before, and set the rate of this one."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad()

    def step(self) -> None:
        self._optimizer.step()

    def allocate(self, steps: int) -> None:
        """Make room for the tensors that `tensors` gives, as after that many steps."""
        for parameter in self.parameters.values():
            # empty_like, because the fused step needs the moments in the parameter's memory layout.
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(steps), device=parameter.device),
                **{moment: torch.empty_like(parameter, requires_grad=False) for moment in self._moments},
            }

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """What a checkpoint holds: which moment, of which parameter, and it."""
        for name, parameter in self.parameters.items():
            for moment in self._moments:
                yield moment, name, self._optimizer.state[parameter][moment]
