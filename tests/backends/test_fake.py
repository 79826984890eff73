from pathlib import Path

import numpy as np
import pytest

from rrr_edge.backends import Backend, Session
from rrr_edge.backends.fake import Fake
from rrr_edge.bundle.measurements import LayerTime
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CorruptArtifact
from rrr_edge.timing.progress import silent

TARGET = Target(name="test", backend="fake")
IMAGES = np.zeros((3, 8, 8, 3), np.uint8)


def by_brightness(images: np.ndarray) -> Outputs:
    bright = images.reshape(len(images), -1).mean(1, dtype=np.float32) / 255
    rows = np.stack([1 - bright, bright], axis=1)
    return Outputs(rows, rows[:, None])


def test_it_is_a_backend_and_a_session() -> None:
    """mypy reads this; at run time nothing happens."""
    backend: Backend = Fake(by_brightness)
    session: Session = Fake(by_brightness)
    assert backend.versions()
    session.close()


def test_compile_then_open_then_run(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"a graph")
    out = tmp_path / "engine"
    out.mkdir()
    backend = Fake(by_brightness)
    backend.check(TARGET)
    backend.compile(model, TARGET, IMAGES, out, silent)
    assert [file.stat().st_size > 0 for file in out.iterdir()] == [True]

    session = backend.open(out, TARGET)
    images = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 255)])
    probabilities, branch_probabilities = session.run(images)
    assert probabilities.tolist() == [[1, 0], [0, 1]]
    assert branch_probabilities.shape == (2, 1, 2)
    assert session.seen == 2


def test_another_model_makes_another_engine(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.onnx").write_text(name)
        (tmp_path / name).mkdir()
        Fake(by_brightness).compile(tmp_path / f"{name}.onnx", TARGET, IMAGES, tmp_path / name, silent)
        made.append([file.read_bytes() for file in (tmp_path / name).iterdir()])
    assert made[0] != made[1]


def test_what_was_not_compiled_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact):
        Fake(by_brightness).open(tmp_path, TARGET)


def test_always_gives_every_image_the_same() -> None:
    session = Fake.always([0.25, 0.75])
    probabilities, branch_probabilities = session.run(IMAGES)
    assert probabilities.dtype == branch_probabilities.dtype == np.float32
    assert probabilities.tolist() == [[0.25, 0.75]] * 3
    assert branch_probabilities.tolist() == [[[0.25, 0.75]]] * 3


def test_precision_is_what_it_was_told() -> None:
    assert Fake(by_brightness).precision_found() == {"fp32": 1.0}
    assert Fake(by_brightness, precision={"int8": 0.9, "fp32": 0.1}).precision_found() == {"int8": 0.9, "fp32": 0.1}


def test_layers_are_what_it_was_told(tmp_path: Path) -> None:
    layer = LayerTime(name="stump/conv1", kind="Conv", part="stump", precision="int8", ms=1.5, macs=7)
    backend = Fake(by_brightness, profiled=(layer,))
    (tmp_path / "model.onnx").write_bytes(b"a graph")
    backend.compile(tmp_path / "model.onnx", TARGET, IMAGES, tmp_path, silent)
    session = backend.open_profiled(tmp_path, TARGET)
    assert len(session.run(IMAGES).probabilities) == 3
    assert session.layers() == (layer,)


@pytest.mark.parametrize("images", [IMAGES.astype(np.float32), IMAGES[0], IMAGES.transpose(0, 3, 1, 2)])
def test_it_refuses_what_an_engine_refuses(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        Fake(by_brightness).run(images)


def test_sessions_close_each_for_itself(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"a graph")
    backend = Fake(by_brightness)
    backend.compile(model, TARGET, IMAGES, tmp_path, silent)
    first, second = backend.open(tmp_path, TARGET), backend.open(tmp_path, TARGET)
    first.close()
    with pytest.raises(RuntimeError, match="closed"):
        first.run(IMAGES)
    assert len(second.run(IMAGES).probabilities) == 3
