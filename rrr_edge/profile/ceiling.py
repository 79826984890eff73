"""The machine's best rate, measured on large convolutions."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rrr_edge.backends import Backend, ProfiledSession
from rrr_edge.backends.build import build_unproven
from rrr_edge.backends.graph.writer import FLOAT, UINT8, Node, Port, encode
from rrr_edge.bundle.files import scratch_folder
from rrr_edge.bundle.reference import Images
from rrr_edge.bundle.target import Target
from rrr_edge.bundle.verification import require_precision
from rrr_edge.timing.progress import OnProgress, Step

# The side of the images that the large convolutions see: their weights are the same everywhere.
_SIDE, _SIDE_BEYOND_CPU = 64, 512
_CEILING_CALIBRATION_IMAGES = 4
_SEED = 0


@contextmanager
def measure_ceiling(backend: Backend, target: Target, on_progress: OnProgress) -> Iterator[ProfiledSession]:
    alone = target.model_copy(update={"batch": 1, "quantisation": None})
    on_progress(Step("build", 0, 1, f"large convolutions, {target.precision}"))
    with scratch_folder() as work:
        model, out = work / "ceiling.onnx", work / "engine"
        out.mkdir()
        model.write_bytes(large_convolutions(target))
        calibration = np.concatenate([noise_images(target)] * _CEILING_CALIBRATION_IMAGES)
        build_unproven(model, alone, calibration, out, on_progress=on_progress)
        with closing(backend.open_profiled(out, alone)) as session:
            found = session.precision_found()
            require_precision(target.precision, found, what="the machine's ceiling", so="it is not measured")
            yield session


class _Shape(NamedTuple):
    inputs: int
    outputs: int
    side: int

    @property
    def name(self) -> str:
        return f"{self.inputs} to {self.outputs} channels at {self.side}x{self.side}"


def convolution_shapes(target: Target) -> tuple[_Shape, ...]:
    side = _SIDE if target.device == "CPU" else _SIDE_BEYOND_CPU
    return (
        _Shape(256, 512, side),
        _Shape(512, 512, side),
        _Shape(512, 1024, side // 2),
        _Shape(1024, 1024, side // 2),
        _Shape(1024, 2048, side // 4),
        _Shape(2048, 2048, side // 4),
    )


def noise_images(target: Target) -> Images:
    side = convolution_shapes(target)[0].side
    return np.random.default_rng(_SEED).integers(0, 256, (1, side, side, 3), dtype=np.uint8)


def large_convolutions(target: Target) -> bytes:
    """An ONNX file with an engine's input and outputs and one large 1x1 convolution of each shape between."""
    rng = np.random.default_rng(_SEED)
    shapes = convolution_shapes(target)
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
