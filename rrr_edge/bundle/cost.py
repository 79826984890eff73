"""The cost of a network of any family whose structure is described here, counted on that."""

from rrr_edge.bundle.factored import factored_cost
from rrr_edge.bundle.manifest import Cost
from rrr_edge.bundle.spec import FactoredSpec
from rrr_edge.bundle.structure import BranchedSpec, resnet_cost
from rrr_edge.bundle.tailored import TailoredSpec
from rrr_edge.bundle.tailored_structure import tailored_cost


def cost(spec: BranchedSpec | TailoredSpec | FactoredSpec, image_size: int, *, stump_frozen: bool = True) -> Cost:
    """Parameters, MACs of one image and bytes of the state dict.

    A tailored network is taken to have the source's blocks as they are; where they have learned, nothing is shared.
    """
    if isinstance(spec, FactoredSpec):
        return factored_cost(spec, image_size)
    if isinstance(spec, TailoredSpec):
        return tailored_cost(spec, image_size)
    return resnet_cost(spec, image_size, stump_frozen=stump_frozen)
