"""Bundles that were sealed again after something in them was made to contradict the rest."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_bundle import rewrite
from onnx import TensorProto, helper

from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import Bundle
from rrr_edge.compile import compile_bundle
from rrr_edge.errors import CorruptArtifact
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.machine import usable_cores

ARCHIVE = Path(__file__).parents[1] / "bundle" / "fixtures" / "bundle-0.1.0.tar.xz"
BACKENDS = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("shipped")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return Bundle.open(folder / "shapes-0.1.0.rrr")


@pytest.fixture
def bundle(shipped: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(shipped.path, tmp_path / "shapes.rrr"))


def change_card(bundle: Bundle, target: str, **changes: Any) -> None:
    def change(card: dict[str, Any]) -> None:
        card["target"] |= {key: value for key, value in changes.items() if key in card["target"]}
        card |= {key: value for key, value in changes.items() if key not in card["target"]}

    rewrite(bundle.engine_folder(f"{target}-fp32") / "engine.json", change)


@pytest.mark.parametrize(
    ("batch", "said"),
    [(2, "is for batches of 1, not of 2"), (10**6, "is for batches of 1, not of 1000000")],
)
def test_an_engine_of_another_batch_than_its_card_says_is_refused(bundle: Bundle, batch: int, said: str) -> None:
    change_card(bundle, "openvino", batch=batch)
    with pytest.raises(CorruptArtifact, match=said):
        Classifier.open(bundle.path, "openvino", precision="fp32")


@pytest.mark.parametrize("target", BACKENDS)
def test_a_card_without_files_is_refused(bundle: Bundle, target: str) -> None:
    change_card(bundle, target, files=[])
    with pytest.raises(CorruptArtifact, match=r"does not list model\."):
        Classifier.open(bundle.path, target, precision="fp32")


@pytest.mark.parametrize("target", BACKENDS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["preprocess"].update(image_size=64), r"images is .* instead of \[1, 64, 64, 3\]"),
        (lambda data: data["spec"].update(branches=3), r"branch_probabilities is .* instead of \[1, 3, 3\]"),
        (
            lambda data: (data["labels"].append("star"), data["spec"].update(num_classes=4)),
            r"probabilities is .* instead of \[1, 4\]",
        ),
    ],
    ids=["size", "branches", "labels"],
)
def test_an_engine_that_does_not_fit_the_manifest_is_refused_when_it_is_opened(
    bundle: Bundle, target: str, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    rewrite(bundle.path / "manifest.json", change)
    with pytest.raises(CorruptArtifact, match=said):
        Classifier.open(bundle.path, target, precision="fp32")


@pytest.mark.parametrize("target", BACKENDS)
def test_no_more_threads_run_than_there_are_cores(bundle: Bundle, target: str) -> None:
    change_card(bundle, target, threads=2000)
    with Classifier.open(bundle.path, target, precision="fp32") as classifier:
        assert classifier.predict(bundle.reference.images[0]).label in bundle.manifest.labels
        if target == "openvino":
            asked = classifier.session._open.compiled.get_property("INFERENCE_NUM_THREADS")
            assert asked == usable_cores()


def unknown_operator() -> onnx.ModelProto:
    node = helper.make_node("Levitate", ["images"], ["probabilities"], domain="nowhere")
    return _model([node], ["probabilities", "branch_probabilities"])


def one_output() -> onnx.ModelProto:
    return _model([helper.make_node("Cast", ["images"], ["probabilities"], to=TensorProto.FLOAT)], ["probabilities"])


def external_data() -> onnx.ModelProto:
    model = one_output()
    weights = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")
    model.graph.initializer.append(weights)
    return model


def _model(nodes: list[onnx.NodeProto], outputs: list[str]) -> onnx.ModelProto:
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 32, 32, 3])
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("nowhere", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", [images], given), opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("target", BACKENDS)
@pytest.mark.parametrize("model", [unknown_operator, one_output, external_data])
def test_a_graph_that_is_no_bundles_is_refused_and_nothing_is_kept(
    bundle: Bundle, target: str, model: Callable[[], onnx.ModelProto]
) -> None:
    path = bundle.path / "model.onnx"
    path.write_bytes(model().SerializeToString())
    entry = describe_file(path).model_dump()
    rewrite(
        bundle.path / "manifest.json",
        lambda data: data.update(files=[f for f in data["files"] if f["name"] != path.name] + [entry]),
    )
    shutil.rmtree(bundle.path / "engines")
    with pytest.raises(CorruptArtifact, match=r"model\.onnx"):
        compile_bundle(Bundle.open(bundle.path), target, precision="fp32")
    assert not bundle.engine_names()
