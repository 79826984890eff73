"""What is installed is all that is needed: the wheel, unpacked elsewhere and run without the workshop's libraries."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from small_bundle import LABELS, link_bundle

from rrr_edge import __version__
from rrr_edge.bundle.folder import Bundle

ROOT = Path(__file__).parent.parent
WITHOUT_TORCH = (
    "import sys, runpy; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'onnx', 'safetensors', 'sklearn']))\n"
    "runpy.run_module('rrr_edge', run_name='__main__')"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"])
    return Path(path)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, folder: Path, *arguments: str | Path, code: str = WITHOUT_TORCH) -> str:
    """What `python -m rrr_edge ARGUMENTS` prints in `folder`, with nothing of ours on the path but the wheel's."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_holds_the_package_its_data_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"rrr_edge-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    for folder, prefix in (("rrr_edge", ""), ("targets", "rrr_edge/"), ("calibration", "rrr_edge/")):
        files = [f for f in (ROOT / folder).rglob("*") if f.is_file() and "__pycache__" not in f.parts]
        wanted = {prefix + str(f.relative_to(ROOT)) for f in files}
        assert len(wanted) >= 5
        assert wanted <= held, wanted - held
    assert {"rrr_edge/py.typed", "rrr_edge/bundle/schemas/manifest.json", "rrr_edge/targets/openvino.toml"} <= held
    assert "rrr_edge/calibration/digits/LICENSE.txt" in held
    assert {name.split("/")[0] for name in held} == {"rrr_edge", f"rrr_edge-{__version__}.dist-info"}
    assert not [name for name in held if "tests" in Path(name).parts or name.endswith(".pyc")]
    assert sum(name.endswith("LICENSE") for name in held) == 1


def test_it_names_its_command_and_its_light_dependencies(installed: Path) -> None:
    about = installed / f"rrr_edge-{__version__}.dist-info"
    assert "rrr-edge = rrr_edge.cli:main" in (about / "entry_points.txt").read_text()
    required = [line for line in (about / "METADATA").read_text().splitlines() if line.startswith("Requires-Dist")]
    always = {line.split()[1].split(">")[0] for line in required if "extra ==" not in line}
    assert always == {"numpy", "pillow", "pydantic", "typer", "rich"}


def test_it_runs_from_elsewhere_without_torch(installed: Path, compiled: Bundle, shapes: Path, tmp_path: Path) -> None:
    code = "import rrr_edge; print(rrr_edge.__file__)"
    assert Path(run(installed, tmp_path, code=code).strip()).is_relative_to(installed)

    rows = json.loads(run(installed, tmp_path, "targets", "--json"))
    assert {row["target"] for row in rows} == {file.stem for file in (ROOT / "targets").glob("*.toml")}

    bundle = link_bundle(compiled, tmp_path).path
    engine = json.loads(run(installed, tmp_path, "compile", bundle, "-t", "onnxruntime", "--json"))
    assert engine["precision_found"] == {"fp32": 1.0}
    photo = shapes / "test" / "cross" / "0.png"
    document = json.loads(run(installed, tmp_path, "predict", bundle, photo, "-t", "onnxruntime", "--json"))
    assert document["predictions"][0]["label"] in LABELS
    findings = json.loads(run(installed, tmp_path, "doctor", bundle, "--json"))
    assert [finding["verdict"] for finding in findings] == ["load", "load"]


def test_the_packaged_calibration_images_are_found(installed: Path, tmp_path: Path) -> None:
    code = "import rrr_edge.images.dataset as d; print(*d.calibration_folder('digits').rglob('*.png'), sep=chr(10))"
    files = run(installed, tmp_path, code=code).split()
    assert len(files) == 100
    assert all(Path(file).is_relative_to(installed / "rrr_edge" / "calibration" / "digits") for file in files)
