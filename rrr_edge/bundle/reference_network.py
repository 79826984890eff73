"""The reference network of a bundle: a user's own, or another bundle's, and its answers to the test photos."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import Field

from rrr_edge.bundle.commands import command_line
from rrr_edge.bundle.evaluation import Bools, Labels, PairedDifference, ReferenceComparison, judge
from rrr_edge.bundle.folder import REFERENCE, Bundle
from rrr_edge.bundle.manifest import Manifest, Preprocess
from rrr_edge.bundle.record import SCHEMA, Record, SchemaVersion, Sealed
from rrr_edge.bundle.reference import Floats, Images
from rrr_edge.bundle.verification import Accuracy
from rrr_edge.errors import BadInput, CorruptArtifact
from rrr_edge.timing.paired import mcnemar
from rrr_edge.timing.progress import OnProgress
from rrr_edge.timing.statistics import wilson_interval

# The chance at most that a network whose outputs have the right names is refused for their order.
_WRONGLY_REFUSED = 1e-3


class NetworkBeside(Record):
    """A network to compare with: its name, what it is ("ResNet152"), the SHA-256 of its weights, its cost.

    `note` is what a reader of its accuracy should know.
    """

    name: str
    network: str
    source: Literal["weights", "bundle"]
    sha256: str
    params: int
    macs: int
    preprocess: Preprocess
    note: str = ""

    def compare(self, right: Bools, own_right: Bools) -> ReferenceComparison:
        """Beside the classifier that has `own_right` [N] of the same photos right."""
        count = int(right.sum())
        return ReferenceComparison(
            name=self.name,
            network=self.network,
            sha256=self.sha256,
            params=self.params,
            macs=self.macs,
            accuracy=count / len(right),
            interval=wilson_interval(count, len(right)),
            paired=PairedDifference.of(own_right, right),
        )


class RunnableNetwork(NamedTuple):
    """A network to compare with that can answer here, by libraries of `versions`.

    `answer` takes images uint8 [N, S, S, 3] as its own preprocessing fits them, and gives probabilities [N, K] in the
    order of the bundle's classes.
    """

    about: NetworkBeside
    answer: Callable[[Images, OnProgress], Floats]
    versions: dict[str, str]


class ReferenceNetwork(Sealed):
    """A network's answers to the labelled images of reference.npz, whose SHA-256 is `images_sha256`.

    `answers` are indices of the bundle's classes, in the order of these images.
    """

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge reference network"] = "rrr-edge reference network"
    network: NetworkBeside
    images_sha256: str
    answers: tuple[int, ...]
    accuracy: Accuracy
    versions: dict[str, str]
    created: str

    @classmethod
    def of(cls, bundle: Bundle) -> Self | None:
        """The bundle's, or None. Raises CorruptArtifact, also where it was measured on other images."""
        path = bundle.reference_network
        if not path.is_file():
            return None
        found = cls.from_json_file(path)
        labels = labels_of(bundle)
        answers = np.array(found.answers)
        if (
            found.images_sha256 != images_sha256(bundle.manifest)
            or len(answers) != len(labels)
            or not ((answers >= 0) & (answers < len(bundle.manifest.labels))).all()
            or found.accuracy.correct != int((answers == labels).sum())
        ):
            raise CorruptArtifact(
                f"{path} and the test photos in {bundle.path} contradict each other.",
                advice=f"Run: {command_line('evaluate', bundle.path, reference='WEIGHTS', labels='LABELS')}",
            )
        return found

    @classmethod
    def judged(
        cls, network: RunnableNetwork, probabilities: Floats, labels: Labels, *, names: tuple[str, ...], images: str
    ) -> Self:
        """From its `probabilities` [N, K] for the labelled images of the reference.npz whose SHA-256 is `images`.

        Raises what `judge` and `require_order` raise.
        """
        accuracy = judge(probabilities, labels, names)
        require_order(network.about, probabilities, labels, names)
        return cls(
            network=network.about,
            images_sha256=images,
            answers=tuple(probabilities.argmax(1).tolist()),
            accuracy=accuracy,
            versions=network.versions,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )

    def compare(self, labels: Labels, own_right: Bools) -> ReferenceComparison:
        """Beside the classifier that has `own_right` [N] of the same images right, which have these `labels` [N]."""
        return self.network.compare(np.array(self.answers) == labels, own_right)

    @property
    def words(self) -> str:
        (low, high), about = self.accuracy.interval, self.network
        return (
            f"{about.name} ({about.network}, at {about.preprocess.image_size} pixels) is right on "
            f"{self.accuracy.accuracy:.1%} of the {self.accuracy.images} test photos (95% interval {low:.1%} to "
            f"{high:.1%}). {about.note}".rstrip()
        )


def require_order(network: NetworkBeside, probabilities: Floats, labels: Labels, names: Sequence[str]) -> None:
    """Raise BadInput where a user's own network answers far better if its outputs are given other names.

    Each output gets the class to which most of its answers belong. Where these classes are all different, and McNemar's
    exact test, corrected for all orders of the classes that there are, says that they fit better than the given ones,
    then the given ones are wrong.
    """
    answers = probabilities.argmax(1)
    meant = {int(a): int(np.bincount(labels[answers == a], minlength=len(names)).argmax()) for a in np.unique(answers)}
    if network.source != "weights" or len(set(meant.values())) < len(meant):
        return
    right, as_well = answers == labels, np.array([meant[int(a)] for a in answers]) == labels
    p = mcnemar(int((right & ~as_well).sum()), int((as_well & ~right).sum()))
    orders = math.lgamma(len(names) + 1)
    if as_well.mean() > right.mean() and (not p or math.log(p) + orders < math.log(_WRONGLY_REFUSED)):
        moved = [f"{names[a]!r} seems to mean {names[b]!r}" for a, b in meant.items() if a != b]
        raise BadInput(
            f"The outputs of {network.name} seem to have another order than its labels: it is right on "
            f"{right.mean():.1%} of {len(labels)} photos as they are, and on {as_well.mean():.1%} where "
            f"{', '.join(moved[:5])}{f' and {len(moved) - 5} more' if len(moved) > 5 else ''}.",
            advice="Give --labels a text file with a class a line, in the order of the network's outputs.",
        )


def images_sha256(manifest: Manifest) -> str:
    """The SHA-256 of reference.npz."""
    return next(entry.sha256 for entry in manifest.files if entry.name == REFERENCE)


def labels_of(bundle: Bundle) -> Labels:
    """Those of the reference images that have one."""
    labels = bundle.reference.labels
    return labels[labels >= 0]


def network_beside(bundle: Bundle) -> ReferenceComparison | None:
    """The reference network beside the bundle's own in PyTorch, as it answered when it was made; None without one."""
    reference = ReferenceNetwork.of(bundle)
    if reference is None:
        return None
    labels, stored = labels_of(bundle), bundle.reference
    return reference.compare(labels, stored.probabilities[stored.labels >= 0].argmax(1) == labels)


def same_photos(a: Bundle, b: Bundle) -> bool:
    """Whether the labelled images are the same; preprocessed in another way, drawn alike from the same files."""
    if not np.array_equal(a.reference.labels, b.reference.labels):
        return False
    if a.manifest.preprocess == b.manifest.preprocess:
        return np.array_equal(a.reference.images, b.reference.images)
    drawn, as_well = ((m.provenance.data_sha256, m.recipe.seed) for m in (a.manifest, b.manifest))
    return drawn == as_well
