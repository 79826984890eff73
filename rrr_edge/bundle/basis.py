"""The recipe of basis scaling, and the rows of its pruning."""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from rrr_edge.bundle.reused import Chained
from rrr_edge.bundle.sources import Backbone
from rrr_edge.bundle.training import BasisTraining

# How the note of a bundle begins from which no basis vector went.
NOTHING_PRUNED = "Nothing was pruned"
PATENT = "Basis scaling is patented (US 12,288,160 B2, IBM): whether you may use it is yours to find out and decide."

Importance = Literal["taylor2", "taylor1"]
Normalise = Literal["none", "layer", "cost"]


class BasisScaling(Chained):
    """Convolutions become a basis and a scaling back, and the least important basis vectors go (Wong et al. 2021).

    Only one factor a vector and the classifier learn. `importance` of a factor f is that of its Taylor term
    t = (dL/df) f over the batches: the mean of t^2 ("taylor2", Molchanov et al. 2019), or |mean t| ("taylor1", 2017).
    "auto" `sparsity` takes the last network whose accuracy on photos that are held out is at most `max_drop` below the
    unpruned one's, and ends after more than `patience` in a row that lose more. A number is reached whatever it costs.
    """

    method: Literal["basis"] = "basis"
    backbone: Backbone = Field(default="resnet50", description="The source network")
    training: BasisTraining = BasisTraining()
    sparsity: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        default="auto", description="Share of the parameters of what it begins with that goes, or auto: until max-drop"
    )
    max_drop: float = Field(default=0.01, ge=0, lt=1, description="Accuracy on held-out photos that pruning may lose")
    patience: int = Field(
        default=2, ge=0, description="Removals in a row that may lose more than max-drop before the pruning ends"
    )
    epochs_per_prune: int = Field(default=1, ge=1, description="Epochs before each removal of basis vectors")
    prune_share: float = Field(default=0.1, gt=0, lt=1, description="Share of the basis vectors that a removal takes")
    importance: Importance = Field(default="taylor2", description="Mean square of the Taylor term, or its mean's size")
    normalise: Normalise = Field(
        default="layer", description="Importance as it is, by the norm of its layer, or by parameters that go (cost)"
    )
    then: Literal["none", "channel"] = Field(
        default="none", description="What goes after the basis vectors: whole channels, by their Taylor terms"
    )
    then_sparsity: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of the parameters that is gone after then",
    )
    fold_norm: bool = Field(default=False, description="Multiply normalisation into the weights before decomposing")
    adapt_statistics: bool = Field(default=False, description="Let batch statistics follow the photos")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if not self.training.shared_batches or self.training.feature_views:
            raise ValueError("all layers learn, so branches share their batches and no features are kept")
        if self.training.keep == "best":
            raise ValueError("weights are not fine-tuned, so keep = best has nothing to choose: leave it out")
        if self.fold_norm and self.adapt_statistics:
            raise ValueError("fold_norm makes batch statistics a part of the weights, so they cannot adapt")
        wanted = self.sparsity if isinstance(self.sparsity, float) and self.then == "channel" else None
        if (wanted is None) != (self.then_sparsity is None):
            raise ValueError("then_sparsity is needed where a sparsity is followed by then = channel, and only there")
        if wanted is not None and self.then_sparsity is not None and self.then_sparsity < wanted:
            raise ValueError(f"then_sparsity {self.then_sparsity} is less than sparsity {wanted}")
        return self


class BasisRow(NamedTuple):
    """A line of basis.csv: the network with so many `bases` (basis vectors) left, as it would be delivered.

    `sparsity` is the share of the parameters that is gone; `accuracy` is on the photos that decide, `least` what is
    allowed, `within` whether it is reached. Where nothing is to be decided, there are neither.
    """

    removals: int
    bases: int
    params: int
    macs: int
    sparsity: float
    accuracy: float | None
    least: float | None
    within: bool
    seconds: float
