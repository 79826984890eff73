"""`rrr-edge verify`, and `doctor --gpu`, through the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_bundle import link_bundle
from typer.testing import CliRunner

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.target import Target
from rrr_edge.cli.app import app
from rrr_edge.errors import GateFailed
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.runtime.verify import verify_engine

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
