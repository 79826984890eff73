"""Removal of the least important output channels of a factored network: double pruning (Wong et al. 2021, abstract).

The paper's way is not known to us. Channels that are added to each other go together, as Torch-Pruning's dependency
graph finds them. A channel's score is the Taylor term of a gate behind its normalisations, t = gamma dL/dgamma +
beta dL/dbeta, summed over those that go together: the first-order change of the loss when they are gone. No weight is
fine-tuned.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rrr_edge.bundle.basis import Normalise
from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.factored import delivered, full_ranks
from rrr_edge.bundle.spec import BaseSpec, ChannelSpec, FactoredSpec, PhaseWidths, ResNetSpec
from rrr_edge.bundle.structure import BranchedSpec, block_shapes, stem_layers
from rrr_edge.compress.basis.decompose import factorise
from rrr_edge.compress.method import Inputs
from rrr_edge.compress.slimming import widths_of
from rrr_edge.errors import UsageError
from rrr_edge.networks import Network, ResNet, build
from rrr_edge.networks.factored import pairs_of, with_modules
from rrr_edge.timing.progress import Step
from rrr_edge.training import open_fabric, without_overruns
from rrr_edge.training.batches import normalise as normalised

_BATCH = 32


class Coupled(NamedTuple):
    """Channels that several layers have in common: the first pair that gives them, and their normalisations."""

    first: str
    norms: tuple[str, ...]


def require_channels(base: BaseSpec, what: str) -> BranchedSpec:
    """`base`, in which every layer has channels of its own. Raises UsageError for others."""
    if not isinstance(base, ResNetSpec | ChannelSpec) or base.branches > 1:
        raise UsageError(
            f"Channels are pruned of bottleneck networks in one piece, and {what} is another.",
            advice="Leave --then out.",
        )
    return base


def most_slimmed(base: BranchedSpec) -> float:
    """The share of the parameters of `base` that goes when every layer keeps one channel, and one basis vector."""
    least = slimmer(FactoredSpec(base=base, ranks=dict.fromkeys(full_ranks(base), 1)), all_but_one(base))
    return 1 - cost(delivered(least), image_size=32).params / cost(base, image_size=32).params


def all_but_one(base: BranchedSpec) -> dict[str, int]:
    """How many channels can go of those that are coupled, by a pair that gives them."""
    widths = _widths(base)
    counts = {"conv1": widths.stem - 1}
    for number, phase in enumerate(widths.phases, start=1):
        counts[f"layer{number}.0.conv3"] = phase.outputs - 1
        for block, (first, second) in enumerate(phase.blocks):
            counts |= {f"layer{number}.{block}.conv1": first - 1, f"layer{number}.{block}.conv2": second - 1}
    return counts


class Channels:
    """The coupled channels of a factored network and the importance of each.

    The factors of the network are absorbed: what is pruned is in the weights.
    """

    def __init__(self, network: Network, inputs: Inputs) -> None:
        import torch_pruning

        assert isinstance(network, ResNet)
        self.network = with_modules(network, {name: pair.absorbed() for name, pair in pairs_of(network).items()})
        self.network.eval().requires_grad_(True)
        self._prune_outputs = torch_pruning.prune_conv_out_channels
        # The graph follows gradients, so all parameters must have one.
        self._graph: Any = torch_pruning.DependencyGraph()
        self._graph.build_dependency(self.network, torch.zeros(1, 3, 64, 64))
        self._coupled = self._find()
        self._scores = self._judge(inputs)

    def weakest(self, normalise: Normalise) -> tuple[str, ...]:
        """The first pairs of the coupled channels in the order in which each is to lose one; none loses its last."""
        spec, found = self.spec, []
        for one in self._coupled:
            scores = self._scores[one.first].sort().values
            if normalise == "layer":
                scores = scores / scores.norm().clamp_min(torch.finfo(scores.dtype).tiny)
            elif normalise == "cost":
                less = slimmer(spec, {one.first: 1}) if len(scores) > 1 else spec
                scores = scores / max(1, cost(spec, image_size=32).params - cost(less, image_size=32).params)
            found += [(score, one.first) for score in scores[:-1].tolist()]
        return tuple(name for _, name in sorted(found, key=lambda pair: pair[0]))

    @property
    def spec(self) -> FactoredSpec:
        assert isinstance(self.network.spec, FactoredSpec)
        return self.network.spec

    def without(self, removed: tuple[str, ...]) -> Network:
        """The network when the channels of the pairs named in `removed` have lost one for each time; used up by it."""
        network, expected = self.network, slimmer(self.spec, Counter(removed))
        assert isinstance(network, ResNet)
        for first, count in Counter(removed).items():
            weak = self._scores[first].argsort(stable=True)[:count].tolist()
            pair = network.get_submodule(f"{first}.scaling")
            self._graph.get_pruning_group(pair, self._prune_outputs, idxs=weak).prune()
        for name, pair in pairs_of(network).items():
            if pair.rank != expected.ranks[name]:
                # Fewer channels have no use for so many basis vectors: a decomposition of full rank is the same.
                network.set_submodule(name, factorise(pair.product()))
        assert widths_of(network) == expected.base
        smaller = build(expected)
        smaller.load_state_dict(network.state_dict())
        return smaller.train(network.training)

    def _find(self) -> list[Coupled]:
        names = {module: name for name, module in self.network.named_modules()}
        found: list[Coupled] = []
        seen: set[str] = set()
        for name, pair in pairs_of(self.network).items():
            if name in seen:
                continue
            group = self._graph.get_pruning_group(pair.scaling, self._prune_outputs, idxs=[0])
            modules = [dependency.target.module for dependency, _ in group]
            seen |= {names[module].removesuffix(".scaling") for module in modules if isinstance(module, nn.Conv2d)}
            norms = tuple(names[module] for module in modules if isinstance(module, nn.BatchNorm2d))
            found.append(Coupled(name, norms))
        return found

    def _judge(self, inputs: Inputs) -> dict[str, Tensor]:
        """The sum over batches of the squared Taylor terms [C], by the first pair; photos as they are.

        Computed on the device of a training, in full precision; the network and the sums are on the CPU.
        """
        examples, on_progress = inputs.examples, inputs.run.on_progress
        device = open_fabric(inputs.run).device
        self.network.to(device)
        norms = {name: self.network.get_submodule(name) for one in self._coupled for name in one.norms}
        self.network.requires_grad_(False)
        for norm in norms.values():
            norm.requires_grad_(True)
        totals: dict[str, Tensor] = {}
        with without_overruns(self.network, device):
            for start in range(0, len(examples), _BATCH):
                images = torch.from_numpy(examples.images[start : start + _BATCH]).permute(0, 3, 1, 2).to(device)
                labels = torch.from_numpy(examples.labels[start : start + _BATCH]).to(device)
                self.network.zero_grad()
                loss = F.cross_entropy(self.network(normalised(images, inputs.preprocess))[:, 0], labels)
                loss.backward()  # type: ignore[no-untyped-call]
                for one in self._coupled:
                    term = torch.stack([_taylor(norms[name]) for name in one.norms]).sum(0).cpu()
                    totals[one.first] = totals.get(one.first, torch.zeros_like(term)) + term**2
                on_progress(Step("judge channels", min(start + _BATCH, len(examples)), len(examples)))
        self.network.zero_grad()
        self.network.cpu()
        return totals


def _taylor(norm: nn.Module) -> Tensor:
    terms = []
    for parameter in norm.parameters():
        assert parameter.grad is not None
        terms.append(parameter.detach() * parameter.grad)
    return torch.stack(terms).sum(0)


def slimmer(spec: FactoredSpec, counts: Mapping[str, int]) -> FactoredSpec:
    """`spec` when the coupled channels, named by a pair that gives them, have lost so many; ranks as far as of use."""
    assert isinstance(spec.base, ResNetSpec | ChannelSpec)
    widths = _widths(spec.base)
    lost: Counter[str] = Counter()
    for name, count in counts.items():
        where, _, own = name.rpartition(".")
        # What a phase adds to is given by the last convolution of each block, and by the projection.
        outputs = own in ("conv3", "0")
        lost[where.partition(".")[0] if outputs else name] += count
    first, second, third, fourth = (
        PhaseWidths(
            outputs=phase.outputs - lost[f"layer{number}"],
            blocks=tuple(
                (one - lost[f"layer{number}.{block}.conv1"], two - lost[f"layer{number}.{block}.conv2"])
                for block, (one, two) in enumerate(phase.blocks)
            ),
        )
        for number, phase in enumerate(widths.phases, start=1)
    )
    stem = widths.stem - lost["conv1"]
    base = ChannelSpec(stem=stem, phases=(first, second, third, fourth), num_classes=widths.num_classes)
    most = full_ranks(base)
    return FactoredSpec(base=base, ranks={name: min(rank, most[name]) for name, rank in spec.ranks.items()})


def _widths(base: BranchedSpec) -> ChannelSpec:
    """The widths of a network in one piece."""
    first, second, third, fourth = (
        PhaseWidths(outputs=phase[0].outputs, blocks=tuple(block.planes for block in phase))
        for phase in block_shapes(base)
    )
    return ChannelSpec(
        stem=stem_layers(base).outputs, phases=(first, second, third, fourth), num_classes=base.num_classes
    )
