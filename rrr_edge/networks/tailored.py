"""Tailored networks (Morgado and Vasconcelos 2019): frozen ResNet blocks and small proxies, weighed by attention."""

from collections.abc import Mapping
from copy import deepcopy
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rrr_edge.bundle.spec import FactoredSpec
from rrr_edge.bundle.structure import SKIP, ConvShape
from rrr_edge.bundle.tailored import STEM, TailoredNode, TailoredSpec, with_attention
from rrr_edge.bundle.tailored_structure import STEM_CONV, NodeShape, channels_of, node_shapes, pooling
from rrr_edge.networks.pair import Pair
from rrr_edge.networks.resnet import GlobalMean, Heads

# Logits of the attention before training: the block has weight 0.948 beside three proxies.
BLOCK_LOGIT, PROXY_LOGIT = 2.0, -2.0
_PROXY_STD = 0.01
# An exported node's output is divided by a running factor, which stays above this for the sake of 16-bit numbers.
_LEAST_FACTOR = 1 / 16


class Outputs(NamedTuple):
    """`nodes` by number, 0 the stem's, after their ReLU; `local`, where asked for, are the same of detached inputs."""

    nodes: dict[int, Tensor]
    local: dict[int, Tensor]
    logits: Tensor


class Tailored(nn.Module):
    """The network of a spec. Everything has torchvision's name, but for `proxies` and `attention` in the nodes.

    Initialised as torchvision does; proxies by N(0, 0.01^2), the logits of the attention 2 for blocks, -2 for proxies.
    """

    def __init__(self, spec: TailoredSpec) -> None:
        super().__init__()
        self.spec: TailoredSpec | FactoredSpec = spec
        self._last = len(spec.nodes)
        shapes = node_shapes(spec.backbone)
        self.conv1, self.bn1 = _conv_and_norm(STEM_CONV)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        phases = [nn.ModuleDict() for _ in range(4)]
        self.layer1, self.layer2, self.layer3, self.layer4 = phases
        for own, node in spec.existing.items():
            proxies = {
                source: Proxy(
                    shapes[own].proxy_convs(channels_of(shapes, source), spec.proxy_widths),
                    pooling(shapes, source, own),
                )
                for source in node.proxies
            }
            phases[shapes[own].phase][shapes[own].name.partition(".")[2]] = Node(shapes[own], node, own, proxies)
        self.avgpool = GlobalMean()
        self.fc = Heads(channels_of(shapes, len(spec.nodes)), 1, spec.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 1, K] of normalised images [N, 3, H, W]."""
        return self.outputs(images).logits

    def outputs(self, images: Tensor, *, local: bool = False) -> Outputs:
        """Everything between normalised images [N, 3, H, W] and the logits [N, 1, K].

        `local` outputs have the values of the nodes' own, with gradients to the proxies into the node and its attention
        alone. The block is not computed again for them: nothing in it learns.
        """
        found = {STEM: self.maxpool(self.relu(self.bn1(self.conv1(images))))}
        detached: dict[int, Tensor] = {STEM: found[STEM].detach()}
        alone: dict[int, Tensor] = {}
        for own, node in self.nodes.items():
            block = node.block(found[own - 1]) if node.has_block else None
            found[own] = node(block, found)
            if local:
                alone[own] = node(None if block is None else block.detach(), detached)
                detached[own] = found[own].detach()
        return Outputs(found, alone, self.fc(self.avgpool(found[self._last])))

    @property
    def plain(self) -> TailoredSpec:
        """The spec of a network without pairs."""
        assert isinstance(self.spec, TailoredSpec)
        return self.spec

    @property
    def nodes(self) -> dict[int, "Node"]:
        """The nodes that exist, by number."""
        phases = cast(list[nn.ModuleDict], [self.layer1, self.layer2, self.layer3, self.layer4])
        return {node.number: node for phase in phases for node in cast(list[Node], phase.values())}

    def universal(self) -> dict[str, nn.Parameter]:
        """The parameters that all tasks share, by name: those of the backbone but for its classifier."""
        return {name: p for name, p in self.named_parameters() if is_universal(name)}

    def freeze_universal(self) -> None:
        """Stop gradients to the universal parameters. Their batch statistics still adapt in training mode."""
        for parameter in self.universal().values():
            parameter.requires_grad_(False)

    def attention(self) -> dict[int, Tensor]:
        """The weights of each node's paths, the block's first."""
        return {own: node.weights() for own, node in self.nodes.items()}

    def record_attention(self) -> None:
        """Write the attention into the spec."""
        self.spec = with_attention(self.plain, {own: w.detach().tolist() for own, w in self.attention().items()})


class Node(nn.Module):
    """Equation 2: the ReLU of the attention-weighted sum of the universal block and the proxies.

    Where there is a single path, there is no attention.
    """

    def __init__(self, shape: NodeShape, spec: TailoredNode, number: int, proxies: Mapping[int, "Proxy"]) -> None:
        super().__init__()
        self.number = number
        self.has_block = spec.block
        # What the input is multiplied by on its way around the block; other than 1 only in a folded network.
        self.identity_factor = 1.0
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        convs = shape.convs if spec.block else {}
        for name, conv in convs.items():
            if name == SKIP:
                self.downsample = nn.Sequential(*_conv_and_norm(conv))
            else:
                self.add_module(name, (both := _conv_and_norm(conv))[0])
                self.add_module(name.replace("conv", "bn"), both[1])
        self._depth = len(convs) - (SKIP in convs)
        self.proxies = nn.ModuleDict({str(source): proxy for source, proxy in proxies.items()})
        logits = [BLOCK_LOGIT] * spec.block + [PROXY_LOGIT] * len(proxies)
        self.attention = nn.Parameter(torch.tensor(logits)) if len(logits) > 1 else None

    def block(self, x: Tensor) -> Tensor:
        """The universal block with its shortcut, without its last ReLU."""
        out = x
        for i, (conv, norm) in enumerate(self.convs(), start=1):
            out = norm(conv(out))
            if i < self._depth:
                out = self.relu(out)
        if self.downsample is not None:
            out += self.downsample(x)
        else:
            out += x if self.identity_factor == 1.0 else x * self.identity_factor
        return out

    def forward(self, block: Tensor | None, nodes: Mapping[int, Tensor]) -> Tensor:
        """The node's output from the block's and from the `nodes` that the proxies read."""
        parts = [] if block is None else [block]
        parts += [proxy(nodes[int(source)]) for source, proxy in self.proxies.items()]
        if self.attention is not None:
            parts = [weight * part for weight, part in zip(self.weights(), parts, strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        # Not in place: where the block is the only path, the sum is its output, which the imitation reads again.
        return F.relu(total)

    def weights(self) -> Tensor:
        """The softmax over the paths, the block's first."""
        if self.attention is None:
            return next(self.parameters()).new_ones(1)
        return self.attention.softmax(0)

    def convs(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """The block's convolutions with their normalisation, in order, without the shortcut's."""
        return [_pair(self, i) for i in range(1, self._depth + 1)]


class Proxy(nn.Module):
    """Section 3.2: max-pooling to the node's resolution, then one 1x1 convolution, or two with a ReLU between.

    Each is normalised; nothing follows the last.
    """

    def __init__(self, convs: Mapping[str, ConvShape], stride: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(stride + 1, stride, stride // 2) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self._depth = len(convs)
        for name, shape in convs.items():
            conv, norm = _conv_and_norm(shape)
            nn.init.normal_(conv.weight, std=_PROXY_STD)
            self.add_module(name, conv)
            self.add_module(name.replace("conv", "bn"), norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.pool(x)
        for i, (conv, norm) in enumerate(self.convs(), start=1):
            out = norm(conv(out))
            if i < self._depth:
                out = self.relu(out)
        return cast(Tensor, out)

    def convs(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return [_pair(self, i) for i in range(1, self._depth + 1)]


def is_universal(name: str) -> bool:
    """Whether the parameter of that name is one that all tasks share."""
    return ".proxies." not in name and not name.endswith(".attention") and not name.startswith("fc.")


def shrink(network: Tailored, spec: TailoredSpec) -> Tailored:
    """The network of `spec`, which has some of the paths of `network`, with the same weights.

    The softmax of each node then runs over the paths that are left.
    """
    smaller = Tailored(spec)
    state = network.state_dict()
    for own, node in spec.existing.items():
        name = f"{node_shapes(spec.backbone)[own].name}.attention"
        if name in state:
            before = network.plain.nodes[own - 1]
            kept = [i for i, path in enumerate(_paths(before)) if path in _paths(node)]
            state[name] = state[name][kept]
    smaller.load_state_dict({name: state[name] for name in smaller.state_dict()})
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(network.get_parameter(name).requires_grad)
    return smaller.train(network.training)


def fold(network: Tailored) -> Tailored:
    """A copy in eval mode whose attention is part of its convolutions' normalisation: equal but for roundings.

    A block's shortcut without a convolution cannot take the block's weight. There the node's whole output is divided by
    it instead, and whoever reads the node multiplies, which a ReLU and max-pooling let pass; where too small a factor
    would come of it, the shortcut is multiplied.
    """
    folded = deepcopy(network).eval().requires_grad_(False)
    factors = {STEM: 1.0}
    for own, node in folded.nodes.items():
        block, *proxies = node.weights().tolist() if node.has_block else (0.0, *node.weights().tolist())
        carried = block * factors.get(own - 1, 1.0)
        out = carried if node.has_block and node.downsample is None and carried >= _LEAST_FACTOR else 1.0
        factors[own] = out
        if node.has_block:
            convs = node.convs()
            _scale(convs, into=factors[own - 1], by=block / out)
            if node.downsample is not None:
                conv, norm = cast(tuple[nn.Conv2d, nn.BatchNorm2d], tuple(node.downsample))
                _scale([(conv, norm)], into=factors[own - 1], by=block / out)
            else:
                node.identity_factor = carried / out
        for weight, (source, proxy) in zip(proxies, node.proxies.items(), strict=True):
            _scale(cast(Proxy, proxy).convs(), into=factors[int(source)], by=weight / out)
        node.attention = None
    folded.fc.weight.mul_(factors[max(factors)])
    return folded


def _scale(convs: list[tuple[nn.Conv2d, nn.BatchNorm2d]], *, into: float, by: float) -> None:
    """Multiply what the first convolution reads, and what the last normalisation gives."""
    first = convs[0][0]
    (first.scaling if isinstance(first, Pair) else first).weight.data.mul_(into)
    convs[-1][1].weight.data.mul_(by)
    convs[-1][1].bias.data.mul_(by)


def _paths(node: TailoredNode) -> list[int | None]:
    return [*([None] if node.block else []), *node.proxies]


def _pair(module: nn.Module, i: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return cast(nn.Conv2d, module.get_submodule(f"conv{i}")), cast(nn.BatchNorm2d, module.get_submodule(f"bn{i}"))


def _conv_and_norm(shape: ConvShape) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(shape.inputs, shape.outputs, shape.kernel, shape.stride, shape.kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv, nn.BatchNorm2d(shape.outputs)
