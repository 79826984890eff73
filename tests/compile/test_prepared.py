"""A prepared graph is made before anything is asked of this machine, kept, and built from until its origin changes.

TensorRT's place is taken by a fake; the graphs are real, mostly in fp32, for which nothing has to be quantised.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from small_bundle import flip_a_byte, link_bundle

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.fake import Fake
from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.onnxruntime import ONNXRuntime, run_model
from rrr_edge.backends.protocols import Preparation
from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import ENGINE, PREPARED, PREPARED_CARD, Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.quantisation import Quantisation
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.compile import compile_bundle, prepare_bundle
from rrr_edge.compile import prepared as module
from rrr_edge.errors import CannotRunHere, GateFailed, MissingLibrary, RRREdgeError, UsageError

TARGET = Target(name="rtx", backend="tensorrt")


class Absent(Fake):
    def preparation(self, target: Target) -> Preparation:
        return Preparation(target.precision)

    def check(self, target: Target) -> None:
        raise MissingLibrary("tensorrt", extra="tensorrt", purpose="The tensorrt backend")


class Builder(ONNXRuntime):
    """Builds from the graph it is given, which it remembers."""

    graph: Graph
    calibration: np.ndarray

    def preparation(self, target: Target) -> Preparation:
        return Preparation(target.precision)

    def compile(self, model, target, calibration, out, report) -> None:
        type(self).graph, type(self).calibration = Graph.load(model), calibration
        super().compile(model, target, calibration, out, report)


@pytest.fixture
def bundle(shared_bundle: Bundle, tmp_path: Path) -> Bundle:
    return link_bundle(shared_bundle, tmp_path)


@pytest.fixture(autouse=True)
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "tensorrt", Absent.always([1.0]))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions of the graphs that are really made from now on."""
    precisions, prepare = [], module.prepare

    def counted(model, precision, *rest, **options) -> None:
        precisions.append(precision)
        prepare(model, precision, *rest, **options)

    monkeypatch.setattr(module, "prepare", counted)
    return precisions


def files(bundle: Bundle, target: Target = TARGET) -> dict[str, str]:
    folder = bundle.engine_folder(target.engine_name)
    return {file.name: sha256(file) for file in folder.iterdir()} if folder.exists() else {}


def test_without_tensorrt_the_graph_is_made_and_kept_and_the_exit_code_is_6(bundle: Bundle) -> None:
    with pytest.raises(MissingLibrary) as caught:
        compile_bundle(bundle, TARGET)
    assert caught.value.exit_code == 6
    assert f"The prepared graph is kept in {bundle.path}/engines/rtx-fp32." in str(caught.value)
    assert set(files(bundle)) == {PREPARED, PREPARED_CARD}
    assert bundle.engine_names() == []
    with pytest.raises(UsageError, match=r"has no rtx-fp32 engine \(it has: none yet\); its graph is prepared\."):
        bundle.engine(TARGET)


def test_the_real_target_is_refused_here_with_its_graph_kept(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    target = Target.load("tensorrt").model_copy(update={"precision": "fp32"})
    try:
        BACKENDS["tensorrt"].check(target)
        pytest.skip("TensorRT runs here")
    except (KeyError, RRREdgeError):
        pass
    with pytest.raises((CannotRunHere, MissingLibrary)) as caught:
        compile_bundle(bundle, target)
    assert "tensorrt" in str(caught.value).lower()
    assert caught.value.advice
    assert set(files(bundle, target)) == {PREPARED, PREPARED_CARD}


def test_the_card_says_what_was_prepared_and_proven(bundle: Bundle) -> None:
    card = prepare_bundle(bundle, TARGET)
    folder = bundle.engine_folder("rtx-fp32")
    assert bundle.prepared(TARGET) == card
    assert (card.file.sha256, card.bytes) == (sha256(folder / PREPARED), (folder / PREPARED).stat().st_size)
    assert card.origin.model_sha256 == bundle.model_sha256
    assert (card.origin.precision, card.origin.lowering, card.origin.modelopt) == ("fp32", "grouped", None)
    assert card.precision_found == {"fp32": 1.0}
    found = run_model(folder / PREPARED, bundle.reference.images).probabilities
    assert card.verification.max_abs_diff >= np.abs(found - bundle.reference.probabilities).max()
    assert card.verification.passed
    assert card.verification.images == len(bundle.reference.images)


def test_an_unchanged_graph_is_built_from_and_not_made_again(
    bundle: Bundle, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_bundle(bundle, TARGET)
    before = files(bundle)
    monkeypatch.setitem(BACKENDS, "tensorrt", Builder())
    engine = compile_bundle(bundle, TARGET)
    assert made == ["fp32"]
    assert files(bundle).items() >= before.items()
    assert set(files(bundle)) == {*before, "model.onnx", ENGINE}
    assert [file.name for file in engine.files] == ["model.onnx"]
    assert engine.files[0].sha256 == before[PREPARED]
    assert bundle.engine(TARGET) == engine


def test_the_graph_follows_the_lowering(bundle: Bundle, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "tensorrt", Builder())
    assert compile_bundle(bundle, TARGET).lowering == "grouped"
    assert "Concat" not in {node.op_type for node in Builder.graph.nodes}
    split = TARGET.model_copy(update={"lowering": "split"})
    assert compile_bundle(bundle, split).lowering == "split"
    assert "Concat" in {node.op_type for node in Builder.graph.nodes}
    assert made == ["fp32", "fp32"]


@pytest.mark.parametrize("damage", ["graph", "card", "no graph", "no card"])
def test_a_damaged_graph_is_made_again(bundle: Bundle, made: list[str], damage: str) -> None:
    prepare_bundle(bundle, TARGET)
    before = files(bundle)[PREPARED]
    path = bundle.engine_folder("rtx-fp32") / (PREPARED_CARD if "card" in damage else PREPARED)
    path.unlink() if damage.startswith("no") else flip_a_byte(path)
    prepare_bundle(bundle, TARGET)
    assert made == ["fp32", "fp32"]
    assert files(bundle)[PREPARED] == before


def test_other_calibration_images_or_another_modelopt_make_another_graph(
    bundle: Bundle, made: list[str], shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("modelopt")
    target = TARGET.model_copy(update={"precision": "fp16"})
    first = prepare_bundle(bundle, target)
    assert first.origin.calibration
    assert first.origin.modelopt == module.modelopt_version() is not None
    second = prepare_bundle(bundle, target, calib_data=shapes / "train" / "circle")
    assert second.origin.calibration != first.origin.calibration
    monkeypatch.setattr(module, "modelopt_version", lambda: "99.0")
    assert prepare_bundle(bundle, target, calib_data=shapes / "train" / "circle").origin.modelopt == "99.0"
    assert made == ["fp16"] * 3
    # Where there is no ModelOpt, what another machine has prepared is good enough.
    monkeypatch.setattr(module, "modelopt_version", lambda: None)
    monkeypatch.setitem(BACKENDS, "tensorrt", Builder())
    prepare_bundle(bundle, target, calib_data=shapes / "train" / "circle")
    assert made == ["fp16"] * 3


def test_another_way_to_prepare_makes_another_graph(
    bundle: Bundle, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_bundle(bundle, TARGET)
    monkeypatch.setattr(module, "PREPARATION", first.origin.preparation + 1)
    second = prepare_bundle(bundle, TARGET)
    assert second.origin.preparation == first.origin.preparation + 1
    assert made == ["fp32", "fp32"]
    for share, count in ((0.5, 2), (0.0, 3)):  # of which no less than a half is wanted now
        card = second.model_copy(update={"quantisation": Quantisation(float_layers=("a",), least_share=share)})
        (bundle.engine_folder(TARGET.engine_name) / PREPARED_CARD).write_text(card.to_json())
        prepare_bundle(bundle, TARGET)
        assert len(made) == count


def test_an_engine_stays_sound_when_its_graph_is_prepared_anew(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "tensorrt", Builder())
    engine, before = compile_bundle(bundle, TARGET), files(bundle)
    prepare_bundle(bundle, TARGET.model_copy(update={"lowering": "dense"}))
    assert files(bundle)[PREPARED] != before[PREPARED]
    assert bundle.engine(TARGET) == engine


def _wrong(graph: Path, images: np.ndarray) -> Outputs:
    probabilities = np.tile(np.array([1, 0, 0], np.float32), (len(images), 1))
    return Outputs(probabilities, np.stack([probabilities] * 2, 1))


def test_a_graph_that_answers_otherwise_is_not_kept_and_the_older_one_stays(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_bundle(bundle, TARGET)
    before = files(bundle)
    monkeypatch.setattr(module, "run_prepared", _wrong)
    split = TARGET.model_copy(update={"lowering": "split"})
    with pytest.raises(GateFailed, match="fp32 prepared graph does not answer like the network") as caught:
        prepare_bundle(bundle, split)
    assert caught.value.exit_code == 3
    assert files(bundle) == before
    with pytest.raises(GateFailed):
        prepare_bundle(bundle, split.model_copy(update={"name": "other"}))
    assert os.listdir(bundle.path / "engines") == ["rtx-fp32"]


def test_a_graph_that_stayed_in_another_precision_is_not_kept(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Graph, "precision_shares", lambda self: {"fp32": 0.9, "bf16": 0.1})
    with pytest.raises(
        GateFailed, match="fp32 was asked, but the prepared graph computes 10% bf16, 90% fp32"
    ) as caught:
        prepare_bundle(bundle, TARGET)
    assert "--precision bf16" in caught.value.advice
    assert files(bundle) == {}


def test_a_graph_that_loses_more_than_is_allowed_now_is_judged_anew(
    bundle: Bundle, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 24 images wrong: 4.2% of accuracy."""
    reference = bundle.reference
    answers = reference.probabilities.copy()
    answers[0] = np.roll(answers[0], 1)
    monkeypatch.setattr(module, "run_prepared", lambda *_: Outputs(answers, reference.branch_probabilities))
    target = TARGET.model_copy(update={"precision": "int8"})
    monkeypatch.setattr(
        module, "prepare", lambda *a, **_: made.append("int8") or Path(a[3]).write_bytes(a[0].read_bytes())
    )
    monkeypatch.setattr(module.Graph, "precision_shares", lambda self: {"int8": 1.0})
    monkeypatch.setattr("rrr_edge.bundle.verification.LIMITS", {"int8": (0.9, 1.0, -1.0)})
    assert prepare_bundle(bundle, target, limits=Limits(max_drop=0.05, search_minutes=0)).verification.passed
    prepare_bundle(bundle, target, limits=Limits(max_drop=0.05, search_minutes=0))
    assert made == ["int8"]
    with pytest.raises(GateFailed, match=r"accuracy fell"):
        prepare_bundle(bundle, target, limits=Limits(max_drop=0.01, search_minutes=0))
    assert made == ["int8"] * 2


def test_what_cannot_be_prepared_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="openvino backend takes the bundle's own graph"):
        prepare_bundle(bundle, "openvino")
    with pytest.raises(UsageError, match="can only be measured on the target itself") as caught:
        prepare_bundle(bundle, TARGET.model_copy(update={"lowering": "auto"}))
    assert "--lowering grouped, split, dense" in caught.value.advice
    assert files(bundle) == {}
