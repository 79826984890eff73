"""A tiny convolutional network as the ONNX graph of a bundle, and ways to ruin it for 8 bits without changing it."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from fake_bundle import rewrite, write_bundle
from onnx import TensorProto, helper, numpy_helper

from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.onnxruntime import run_model
from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import CALIBRATION, MANIFEST, MODEL, REFERENCE, Bundle

SIZE, CLASSES, WIDTH = 8, 3, 8
# Those that follow an activation, and so can be ruined.
RUINABLE = ("conv4/b", "conv4/c", "conv5/d", "conv5/e")
LAYERS = ("stump/a", *RUINABLE, "heads/fc")


def write_network(path: Path, *, seed: int = 0) -> Path:
    """Pixels [N, 8, 8, 3] through five convolutions of 1x1 and 3x3 with ReLUs, and one of all pixels, to classes."""
    rng = np.random.default_rng(seed)
    weights: list[Any] = []
    nodes: list[Any] = []

    def node(kind: str, name: str, inputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, name))
        return name

    floats = node("Cast", "input/cast", ["images"], to=TensorProto.FLOAT)
    scaled = node("Mul", "input/scale", [floats, constant("scale", np.float32(1 / 64))])
    x = node("Transpose", "input/transpose", [scaled], perm=[0, 3, 1, 2])
    inputs = 3
    for place, name in enumerate(LAYERS):
        outputs, side = (CLASSES, SIZE) if name == "heads/fc" else (WIDTH, 3 if place % 2 else 1)
        kernel = rng.normal(0, np.sqrt(2 / (inputs * side**2)), (outputs, inputs, side, side)).astype(np.float32)
        bias = rng.normal(0, 0.1, outputs).astype(np.float32)
        x = node(
            "Conv",
            name,
            [x, constant(f"{name}.weight", kernel), constant(f"{name}.bias", bias)],
            pads=[0 if name == "heads/fc" else side // 2] * 4,
        )
        if name != "heads/fc":
            x = node("Relu", f"{name}.relu", [x])
        inputs = outputs
    flat = node("Reshape", "heads/view", [x, constant("shape", np.array([-1, 1, CLASSES]))])
    nodes.append(helper.make_node("Softmax", [flat], ["branch_probabilities"], "vote/softmax", axis=2))
    nodes.append(
        helper.make_node("ReduceMean", ["branch_probabilities"], ["probabilities"], "vote/mean", axes=[1], keepdims=0)
    )
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", CLASSES]),
            helper.make_tensor_value_info("branch_probabilities", TensorProto.FLOAT, ["N", 1, CLASSES]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def photos(count: int, *, seed: int = 1) -> np.ndarray:
    """Noise around a colour of each image's own, uint8 [count, 8, 8, 3]."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(6, 249, (count, 1, 1, 3)) + rng.integers(-6, 7, (count, SIZE, SIZE, 3))
    return colours.astype(np.uint8)


def normalise(path: Path, *, deviation: float) -> None:
    """Scale and move each layer's channels to mean 0 and deviation 1 over `photos`, the logits to this `deviation`."""
    import onnxruntime

    for name in LAYERS:
        graph = Graph.load(path)
        graph.model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(graph.model.SerializeToString(), providers=["CPUExecutionProvider"])
        (answers,) = session.run([name], {"images": photos(200)})
        mean, scale = answers.mean((0, 2, 3)), answers.std((0, 2, 3))
        if name == "heads/fc":
            scale /= deviation
        graph = Graph.load(path)
        graph.weights[f"{name}.weight"] = graph.weights[f"{name}.weight"] / scale[:, None, None, None]
        graph.weights[f"{name}.bias"] = (graph.weights[f"{name}.bias"] - mean) / scale
        graph.save(path)


def write_tiny_bundle(
    folder: Path, ruined: Collection[str] = (), *, images: int = 200, deviation: float = 3.0
) -> Bundle:
    """The network as a bundle: its answers to `photos` are the reference, and as often right as it is sure of them."""
    bundle = write_bundle(folder, image_size=SIZE)
    normalise(write_network(folder / MODEL), deviation=deviation)
    pixels = photos(images)
    answers = run_model(folder / MODEL, pixels)
    ruin(folder / MODEL, ruined)
    drawn = np.random.default_rng(3).random(images)[:, None]
    labels = (answers.probabilities.cumsum(1) < drawn).sum(1).clip(max=CLASSES - 1)
    np.savez(folder / REFERENCE, images=pixels, labels=labels, **answers._asdict())
    np.savez(folder / CALIBRATION, images=pixels)
    entries = [describe_file(folder / file.name).model_dump(mode="json") for file in bundle.manifest.files]
    rewrite(folder / MANIFEST, lambda manifest: manifest.update(files=entries))
    return Bundle.open(folder)


def ruin(path: Path, layers: Collection[str], *, decades: float = 3) -> None:
    """Scale each channel that one of `layers` reads, by up to so many powers of ten, and its weights by the inverse.

    A ReLU lets positive factors pass, so the network answers as before. But a step of 8 bits for all channels is then
    larger than what most of them carry.
    """
    graph = Graph.load(path)
    for name in layers:
        (layer,) = (node for node in graph.nodes if node.name == name)
        relu = graph.writer(layer.input[0])
        before = graph.writer(relu.input[0])
        kernel, bias = before.input[1:]
        scales = np.random.default_rng(7).permutation(np.geomspace(1, 10**decades, len(graph.weights[bias])))
        scales = scales.astype(np.float32)
        graph.weights[kernel] = graph.weights[kernel] * scales[:, None, None, None]
        graph.weights[bias] = graph.weights[bias] * scales
        groups = next((attribute.i for attribute in layer.attribute if attribute.name == "group"), 1)
        weights = graph.weights[layer.input[1]]
        rows = np.repeat(scales.reshape(groups, -1), len(weights) // groups, axis=0)
        graph.weights[layer.input[1]] = weights / rows[:, :, None, None]
    graph.save(path)
