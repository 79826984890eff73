"""Where an engine's time goes, and how near it comes to the best that this machine reaches in the same precision."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rrr_edge.anatomy import Ceiling, LayerTime
from rrr_edge.backends import Backend, ClockedSession, Images, Outputs
from rrr_edge.baseline import Rival
from rrr_edge.compile import build_unproven
from rrr_edge.errors import MissingLibrary
from rrr_edge.measurement import Measurement, Subject
from rrr_edge.onnxfile import FLOAT, UINT8, Node, Port, encode
from rrr_edge.progress import Report, Step
from rrr_edge.target import Target
from rrr_edge.verification import demand_precision

LAYERS = "engine, its layers clocked"
CEILING = "large convolutions"

# The side of the images that the large convolutions see: their weights are the same everywhere.
_SIDE, _SIDE_BEYOND_CPU = 64, 512
_CALIBRATION_IMAGES = 4
_SEED = 0


class Dissection:
    """Rivals to be timed beside the engine, and what they tell once that is over."""

    def __init__(self, engine: ClockedSession, ceiling: ClockedSession | None, target: Target, note: str = "") -> None:
        self.notes = (note,) if note else ()
        self.images_computed = engine.images_computed
        self._target = target
        self._engine = _Clocked(engine)
        self._ceiling = _Clocked(ceiling, _noise(target)) if ceiling else None
        subject = Subject(backend=target.backend, precision=target.precision, threads=target.threads)
        sessions = {LAYERS: self._engine, CEILING: self._ceiling}
        self.rivals = tuple(Rival(name, session, subject) for name, session in sessions.items() if session)

    def layers(self, run_ms: float) -> tuple[LayerTime, ...]:
        """The engine's layers, each with its share of the runs in which they were clocked, times `run_ms`.

        So what clocking adds to a run is taken off all alike, and what is missing from `run_ms` lies between layers.
        """
        return self._engine.layers(run_ms)

    def ceiling(self, convolutions: Measurement | None) -> Ceiling | None:
        """From the timed runs of the large convolutions; the interval is that of their median.

        None where they could not be built, or the backend clocked none of them in the target's precision.
        """
        if self._ceiling is None or convolutions is None:
            return None
        median = convolutions.summary.median_ms
        low, high = convolutions.summary.median_interval_ms
        rates = {
            layer.macs / layer.ms / 1e6: layer.name
            for layer in self._ceiling.layers(median)
            if layer.macs and layer.precision == self._target.precision
        }
        if not rates:
            return None
        best = max(rates)
        shapes = [shape.name for shape in _shapes(self._target)]
        shape = next((shape for shape in shapes if shape in rates[best]), rates[best])
        return Ceiling(
            precision=self._target.precision,
            gmacs_per_s=best,
            interval=(best * median / high, best * median / low),
            how=f"1x1 convolution, {shape}: the best of {len(shapes)} shapes, by the backend's own clock",
        )


@contextmanager
def dissecting(backend: Backend, folder: Path, target: Target, report: Report) -> Iterator[Dissection]:
    """Open the engine in `folder` and, where it can be built, one of large convolutions, with their layers clocked.

    Raises GateFailed where the large convolutions do not run in the target's precision.
    """
    with ExitStack() as stack:
        engine = stack.enter_context(closing(backend.open_clocked(folder, target)))
        ceiling, note = None, ""
        try:
            ceiling = stack.enter_context(_ceiling(backend, target, report))
        except MissingLibrary as missing:
            note = f"What this machine does at best was not measured: {missing} {missing.advice}"
        yield Dissection(engine, ceiling, target, note)


@contextmanager
def _ceiling(backend: Backend, target: Target, report: Report) -> Iterator[ClockedSession]:
    alone = target.model_copy(update={"batch": 1})
    report(Step("build", 0, 1, f"large convolutions, {target.precision}"))
    with tempfile.TemporaryDirectory(prefix="rrr-edge-") as work:
        model, out = Path(work) / "ceiling.onnx", Path(work) / "engine"
        out.mkdir()
        model.write_bytes(large_convolutions(target))
        calibration = np.concatenate([_noise(target)] * _CALIBRATION_IMAGES)
        build_unproven(model, alone, calibration, out, report=report)
        with closing(backend.open_clocked(out, alone)) as session:
            found = session.precision_found()
            demand_precision(target.precision, found, what="the machine's ceiling", so="it is not measured")
            yield session


class _Clocked:
    """A session that remembers how long all its runs took together, timed or not, as the layers' clocks do.

    With `images` of its own it takes those, whatever it is given.
    """

    def __init__(self, session: ClockedSession, images: Images | None = None) -> None:
        self._session, self._images = session, images
        self._runs = self._spent_ns = 0

    def run(self, images: Images) -> Outputs:
        start = time.perf_counter_ns()
        outputs = self._session.run(images if self._images is None else self._images)
        self._spent_ns += time.perf_counter_ns() - start
        self._runs += 1
        return outputs

    def precision_found(self) -> dict[str, float]:
        return self._session.precision_found()

    def close(self) -> None:
        self._session.close()

    def layers(self, run_ms: float) -> tuple[LayerTime, ...]:
        scale = run_ms / (self._spent_ns / self._runs / 1e6)
        return tuple(layer.model_copy(update={"ms": layer.ms * scale}) for layer in self._session.layers())


class _Shape(NamedTuple):
    inputs: int
    outputs: int
    side: int

    @property
    def name(self) -> str:
        return f"{self.inputs} to {self.outputs} channels at {self.side}x{self.side}"


def _shapes(target: Target) -> tuple[_Shape, ...]:
    side = _SIDE if target.device == "CPU" else _SIDE_BEYOND_CPU
    return (
        _Shape(256, 512, side),
        _Shape(512, 512, side),
        _Shape(512, 1024, side // 2),
        _Shape(1024, 1024, side // 2),
        _Shape(1024, 2048, side // 4),
        _Shape(2048, 2048, side // 4),
    )


def _noise(target: Target) -> Images:
    side = _shapes(target)[0].side
    return np.random.default_rng(_SEED).integers(0, 256, (1, side, side, 3), dtype=np.uint8)


def large_convolutions(target: Target) -> bytes:
    """An ONNX file with an engine's input and outputs and one large 1x1 convolution of each shape between."""
    rng = np.random.default_rng(_SEED)
    shapes = _shapes(target)
    constants: dict[str, NDArray[np.generic]] = {"scale": np.array([1 / 64], np.float32)}
    nodes = [
        Node("Cast", ("images",), "numbers", {"to": FLOAT}),
        Node("Mul", ("numbers", "scale"), "scaled"),
        Node("Transpose", ("scaled",), "channels first", {"perm": (0, 3, 1, 2)}),
    ]

    def convolve(inputs: int, outputs: int, name: str) -> None:
        weights = f"weights of {name}"
        # Sane activations: denormal numbers would slow the convolutions down.
        constants[weights] = rng.normal(0, (2 / inputs) ** 0.5, (outputs, inputs, 1, 1)).astype(np.float32)
        nodes.append(Node("Conv", (nodes[-1].output, weights), name))
        nodes.append(Node("Relu", (name,), f"{name}, rectified"))

    convolve(3, shapes[0].inputs, "more channels")
    side = shapes[0].side
    for shape in shapes:
        if shape.side < side:
            window = {"kernel_shape": (2, 2), "strides": (2, 2)}
            nodes.append(Node("MaxPool", (nodes[-1].output,), f"pooled to {shape.side}", window))
            side = shape.side
        convolve(shape.inputs, shape.outputs, shape.name)
    classes = shapes[-1].outputs
    constants |= {"places": np.array([2, 3]), "branches": np.array([1])}
    nodes += [
        Node("ReduceMean", (nodes[-1].output, "places"), "logits", {"keepdims": 0}),
        Node("Softmax", ("logits",), "probabilities", {"axis": -1}),
        Node("Unsqueeze", ("probabilities", "branches"), "branch_probabilities"),
    ]
    return encode(
        nodes,
        constants,
        [Port("images", UINT8, ("batch", shapes[0].side, shapes[0].side, 3))],
        [Port("probabilities", FLOAT, ("batch", classes)), Port("branch_probabilities", FLOAT, ("batch", 1, classes))],
    )
