"""The protocols of a backend, its sessions and the networks that are timed beside an engine."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from rrr_edge.bundle.baseline import Point
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.manifest import Manifest
from rrr_edge.bundle.measurements import LayerTime, Subject
from rrr_edge.bundle.quantisation import Quantisation
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.bundle.target import Precision, Target
from rrr_edge.errors import CannotRunHere, CorruptArtifact, UsageError
from rrr_edge.timing.progress import OnProgress


class Session(Protocol):
    """A loaded engine."""

    def run(self, images: Images) -> Outputs:
        """Answer uint8 RGB `images` [N, H, W, 3], H and W as the bundle's preprocessing says.

        The arrays may be the engine's own buffers: they hold until the next call.
        """

    def precision_found(self) -> dict[str, float]:
        """The share of the engine's MACs that really run in each precision ("fp32", "int8", ...); sums to 1."""

    def close(self) -> None:
        """Free the engine; a second time does nothing."""


class ProfiledSession(Session, Protocol):
    """A session whose every layer is clocked by the backend itself, which makes it a little slower.

    `images_computed` is how many images a run of one image computes: more than one where a batch is filled up.
    """

    images_computed: int

    def layers(self) -> tuple[LayerTime, ...]:
        """The layers in the order in which they run, `ms` the mean over all runs so far.

        Asked once, after at least one run; then the session can only be closed. Layers that were fused away or took
        no time are left out.
        """


@runtime_checkable
class DeviceTimed(Protocol):
    """A session whose device has a clock of its own: `device_ms` is what the last run took there, with transfers."""

    device_ms: float


class Signature(NamedTuple):
    """The shapes of an engine's input and outputs, in their order; None where any number does."""

    images: tuple[int | None, ...]
    probabilities: tuple[int | None, ...]
    branch_probabilities: tuple[int | None, ...]


@runtime_checkable
class Described(Protocol):
    """A session that can tell what its engine takes and gives without running it."""

    @property
    def signature(self) -> Signature: ...


class Preparation(NamedTuple):
    """How a graph is written before an engine is built that computes in the types which the graph has.

    `turing` says that the engine is also for GPUs of compute capability 7.5.
    """

    precision: Precision
    turing: bool = False


class Backend(Protocol):
    """A way to make engines from `model.onnx` and to run them."""

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files that every engine has."""

    @property
    def caches(self) -> bool:
        """Whether it keeps, in the user's cache folder, what makes loading an engine quicker the next time."""

    def preparation(self, target: Target) -> Preparation | None:
        """None where it builds from the bundle's own graph. Raises CannotRunHere where `target` lacks its precision."""

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that run an engine. Raises MissingLibrary."""

    def check(self, target: Target) -> None:
        """Raise MissingLibrary or CannotRunHere where this machine cannot run `target` at its precision."""

    def require_fit(self, engine: Engine, *, repair: str) -> None:
        """Raise CannotRunHere, with `repair`, where this machine cannot load `engine`, judged by its card."""

    def compile(self, model: Path, target: Target, calibration: Images, out: Path, on_progress: OnProgress) -> None:
        """Write the engine's files into the empty folder `out`; `calibration` is read for int8 only."""

    def open(self, folder: Path, target: Target) -> Session:
        """Load what `compile` wrote. The caller has checked the files."""

    def open_profiled(self, folder: Path, target: Target) -> ProfiledSession:
        """The same engine with its layers clocked."""


class QuantisedLayer(NamedTuple):
    """A convolution or product by its name in the graph, with its MACs for one image."""

    name: str
    macs: int


class Quantised(Protocol):
    """A network that is quantised in one way, of which layers can be made floats again."""

    @property
    def layers(self) -> tuple[QuantisedLayer, ...]:
        """The quantised ones, in their order."""

    def run(self, float_layers: Collection[str], images: Images) -> Outputs:
        """Answer `images` with the layers of these names in fp32. All layers: what the network answers unquantised."""

    def write(self, float_layers: Collection[str], out: Path) -> None:
        """Write it with these layers as floats: to the folder, or the file, `out` that its `Quantiser` makes.

        Raises UsageError where there is no such layer.
        """


def require_layers(names: Collection[str], layers: Sequence[QuantisedLayer]) -> None:
    """Raise UsageError where a layer is named that is not there."""
    there = {layer.name for layer in layers}
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            raise UsageError(
                f"The network has no quantised layer {name!r}{f'; did you mean {near[0]!r}?' if near else '.'}",
                advice="`compile --explain` shows the names for the target's table `quantisation`.",
            )


@runtime_checkable
class Quantiser(Protocol):
    """What quantises graphs, in more ways than one."""

    @property
    def variants(self) -> tuple[Quantisation, ...]:
        """The ways beside the plain one, none with float layers; the most promising first."""

    def quantise(
        self, model: Path, target: Target, calibration: Images, quantisation: Quantisation, on_progress: OnProgress
    ) -> Quantised:
        """The graph in the file `model`. Raises MissingLibrary and CorruptArtifact."""


@runtime_checkable
class CrossCompiler(Protocol):
    """A backend that builds engines for devices which are not at hand, and finishes them where they are loaded."""

    def check_build(self, target: Target) -> None:
        """Raise MissingLibrary or CannotRunHere where this machine cannot build engines for `target`."""

    def builder_versions(self) -> dict[str, str]:
        """Versions of the libraries that build an engine. Raises MissingLibrary."""

    def precision_built(self, folder: Path) -> dict[str, float]:
        """As `Session.precision_found`, by what the compiler said of the engine in `folder`."""

    def first_load(self, folder: Path) -> str:
        """What loading the engine in `folder` will take time for on this machine, the first time; else nothing."""


@runtime_checkable
class GPUBackend(Protocol):
    """A backend whose engines are made for GPUs."""

    def require_gpu(self, engine: Engine, gpu: "GPUModel", *, repair: str) -> None:
        """Raise CannotRunHere, with `repair`, where `engine` does not run on `gpu`, which need not be at hand."""


class GPUModel(NamedTuple):
    """A kind of GPU: its name ("RTX 2080 Ti"), which may be unknown, and its compute capability ("7.5")."""

    name: str
    compute_capability: str

    @property
    def words(self) -> str:
        return f"{self.name or 'A GPU'} (compute capability {self.compute_capability})"


def require_files(backend: Backend, engine: Engine, *, repair: str) -> None:
    """Raise CorruptArtifact where the card of `engine` lacks a file that its backend loads."""
    lacking = sorted(set(backend.files) - {file.name for file in engine.files})
    if lacking:
        raise CorruptArtifact(f"The card of {engine.name} does not list {', '.join(lacking)}.", advice=f"Run: {repair}")


def require_signature(session: Session, manifest: Manifest, batch: int, *, what: str, repair: str) -> None:
    """Raise CorruptArtifact where the engine in `session` takes or gives other shapes than `manifest` says."""
    if not isinstance(session, Described):
        return
    size, classes = manifest.preprocess.image_size, len(manifest.labels)
    expected = Signature((batch, size, size, 3), (batch, classes), (batch, manifest.spec.branches, classes))
    for name, found, wanted in zip(Signature._fields, session.signature, expected, strict=True):
        fits = len(found) == len(wanted) and all(a in (None, b) for a, b in zip(found, wanted, strict=True))
        if not fits:
            shape = ["any" if side is None else side for side in found]
            raise CorruptArtifact(
                f"{what} and the manifest contradict each other: {name} is {shape} instead of {list(wanted)}.",
                advice=f"Run: {repair}",
            )


def require_ports(model: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Raise CorruptArtifact unless a graph takes and gives a bundle's tensors, by their names."""
    if list(inputs) != ["images"] or list(outputs) != list(Outputs._fields):
        ports = f"takes {', '.join(inputs) or 'nothing'} and gives {', '.join(outputs) or 'nothing'}"
        raise CorruptArtifact(
            f"{model} is no graph of a bundle: it {ports}.", advice="Compress again, and leave the graph as it is."
        )


def require_not_older(engine: Engine, versions: Mapping[str, str], *, repair: str) -> None:
    """Raise CannotRunHere where one of the libraries here is older, by major and minor number, than the builder's."""
    for library, built in engine.versions.items():
        here = versions.get(library, "none")
        if _release(here) < _release(built):
            raise CannotRunHere(
                f"{engine.name} was built with {library} {built}; this machine has the older {here}.",
                advice=f"Run: {repair}",
            )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


class Baseline(NamedTuple):
    """An open session to be timed beside the engine; whoever opened it closes it."""

    name: str
    session: Session
    subject: Subject


class Workshop(Protocol):
    """Makes networks to compare with, where PyTorch is."""

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The ways in which it can run them here: `Subject.runtime` of what it opens."""

    def write(self, point: Point) -> None:
        """Put the network's file and card into the bundle, or why there is none, unless they are there."""

    def open(self, point: Point, runtime: str, *, threads: int) -> Baseline:
        """The network in one of `runtimes`."""
