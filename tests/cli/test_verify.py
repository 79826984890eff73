"""`rrr-edge verify`, and `doctor --gpu`, through the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import write_bundle, write_engine
from small_bundle import link_bundle
from typer.testing import CliRunner

from rrr_edge.backends import BACKENDS
from rrr_edge.backends.fake import Fake
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.cli.app import app
from rrr_edge.errors import GateFailed
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.runtime.verify import verify_engine, verify_session

ENGINE = "onnxruntime-fp32"


@pytest.fixture
def own(compiled: Bundle, tmp_path: Path) -> Bundle:
    bundle = link_bundle(compiled, tmp_path)
    shutil.copytree(compiled.engine_folder(ENGINE), bundle.engine_folder(ENGINE))
    return bundle


def test_verify_runs_the_reference_images_and_stores_what_came_of_it(own: Bundle) -> None:
    code, document = run("verify", own.path, "--target", "onnxruntime")
    assert code == 0
    assert document["kind"] == "rrr-edge verification"
    assert document["verification"]["passed"]
    record = own.verified(own.engine(Target.load("onnxruntime")))
    assert record is not None
    assert record.verification.images == len(own.reference.images)
    assert record.versions.keys() == {"onnxruntime"}
    said = CliRunner().invoke(app, ["verify", str(own.path), "--target", "onnxruntime"]).stdout
    assert f"verified on {len(own.reference.images)} images: top-1 agrees on 100.00%" in said


def test_what_failed_on_the_device_is_verified_anew_when_it_is_opened(own: Bundle) -> None:
    target = Target.load("onnxruntime")
    reference = own.reference
    object.__setattr__(reference, "probabilities", reference.probabilities[:, ::-1].copy())
    with pytest.raises(GateFailed):
        verify_engine(own, target)
    failed = own.verified(own.engine(target))
    assert failed is not None
    assert not failed.verification.passed
    Classifier.open(own.path, "onnxruntime").close()
    again = own.verified(own.engine(target))
    assert again is not None
    assert again.verification.passed


@pytest.mark.parametrize(
    ("before", "lost", "max_drop", "passes"),
    [
        (0.99, 0, None, True),  # it was luckily better than the network when it was compiled
        (0.99, 1, None, True),
        (0.99, 30, None, False),
        (0.95, 4, 0.01, False),
        (0.95, 4, None, True),
    ],
)
def test_what_may_be_lost_follows_from_what_was_lost_when_it_was_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, before: float, lost: int, max_drop: float | None, passes: bool
) -> None:
    """Of 100 images, by an engine of which the card says that it was right on 99 or 95%, and the network on 97%."""
    rows = np.tile(np.array([0.5, 0.3, 0.2], np.float32), (100, 1))
    bundle = write_bundle(tmp_path / "x.rrr", images=100)
    object.__setattr__(bundle.reference, "probabilities", rows)
    object.__setattr__(bundle.reference, "branch_probabilities", rows[:, None])
    target = Target(name="test", backend="fake", precision="int8")
    card = write_engine(bundle, target)
    compiled = {"accuracy_reference": 0.97, "accuracy": before, "min_agreement": 0.0}
    card = card.model_copy(update={"verification": card.verification.model_copy(update=compiled)})
    left = lost

    def answer(images: np.ndarray) -> Outputs:
        nonlocal left
        answers, wrong = rows[: len(images)].copy(), min(left, len(images))
        answers[:wrong] = answers[:wrong, [1, 0, 2]]
        left -= wrong
        return Outputs(answers, answers[:, None])

    session = Fake(answer, {"int8": 1.0})
    monkeypatch.setitem(BACKENDS, "fake", session)
    if passes:
        assert verify_session(bundle, card, session, max_drop=max_drop).verification.passed
    else:
        with pytest.raises(GateFailed, match="accuracy fell"):
            verify_session(bundle, card, session, max_drop=max_drop)


def test_what_was_not_compiled_cannot_be_verified(own: Bundle) -> None:
    code, document = run("verify", own.path, "--target", "openvino")
    assert code == 2
    assert "has no openvino-int8 engine" in document["error"]


def test_a_described_gpu_does_not_matter_to_an_engine_for_the_cpu(own: Bundle) -> None:
    code, rows = run("doctor", own.path, "--gpu", "RTX 2080 Ti")
    assert (code, [row["verdict"] for row in rows]) == (0, ["load", "load"])
    code, unknown = run("doctor", own.path, "--gpu", "Voodoo 2")
    assert code == 2
    assert "There is no GPU 'Voodoo 2'" in unknown["error"]


def test_an_engine_for_turing_is_judged_for_gpus_that_are_not_here(compiled: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = link_bundle(compiled, tmp_path)
    code, engine = run("compile", bundle.path, "--target", "rtx-turing", "--precision", "fp32")
    assert (code, engine["verified_by"]) == (0, "graph")
    for gpu, verdict, expected in (
        ("RTX 2070", "load", 0),
        ("RTX 3090", "rebuild", 4),
        ("H100", "rebuild", 4),
    ):
        code, rows = run("doctor", bundle.path, "--gpu", gpu)
        assert (code, rows[-1]["verdict"]) == (expected, verdict), gpu
    code, _ = run("predict", bundle.path, bundle.path, "--target", "rtx-turing", "--precision", "fp32")
    assert code == 4


def run(*arguments: str | Path) -> tuple[int, Any]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    return result.exit_code, json.loads(result.stdout)
