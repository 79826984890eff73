"""Against files that the onnx package writes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rrr_edge.bundle.external_data import require_no_other_files, require_self_contained
from rrr_edge.errors import CorruptArtifact


def tensor(name: str, *, external: bool) -> TensorProto:
    made = numpy_helper.from_array(np.arange(4, dtype=np.float32), name)
    if external:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        entry = made.external_data.add()
        entry.key, entry.value = "location", "../../etc/passwd"
    return made


def graph(inner: Any, name: str = "g") -> onnx.GraphProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    if isinstance(inner, TensorProto):
        return helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], name, [], [output], [inner])
    return helper.make_graph([inner], name, [], [output])


def constant(*, external: bool) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["y"], value=tensor("c", external=external))


def branch(*, external: bool) -> onnx.NodeProto:
    then, other = (graph(tensor("w", external=external), name) for name in ("then", "else"))
    return helper.make_node("If", ["b"], ["y"], then_branch=then, else_branch=other)


PLACES = {
    "initializer": lambda external: graph(tensor("w", external=external)),
    "constant": lambda external: graph(constant(external=external)),
    "subgraph": lambda external: graph(branch(external=external)),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_in_another_file_is_found_wherever_it_is_named(place: str, tmp_path: Path) -> None:
    for external in (False, True):
        path = tmp_path / f"{external}.onnx"
        path.write_bytes(helper.make_model(PLACES[place](external)).SerializeToString())
    for require in (require_self_contained, require_no_other_files):
        require(tmp_path / "False.onnx")
        with pytest.raises(CorruptArtifact, match="takes weights from other files"):
            require(tmp_path / "True.onnx")


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"not a graph", b"\x3a\x7f", b"\x0b"])
def test_what_is_no_onnx_file_is_one_sentence(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(CorruptArtifact, match="is no ONNX file"):
        require_self_contained(tmp_path / "model.onnx")


def test_every_cut_of_a_file_is_refused_or_read(tmp_path: Path) -> None:
    whole = helper.make_model(graph(tensor("w", external=False))).SerializeToString()
    for end in range(1, len(whole)):
        (tmp_path / "model.onnx").write_bytes(whole[:end])
        try:
            require_self_contained(tmp_path / "model.onnx")
        except CorruptArtifact:
            continue
