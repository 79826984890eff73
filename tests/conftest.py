"""A small real bundle that the device-side tests share: photos drawn here, random weights, twelve epochs."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TRACED_GRAPHS", tempfile.mkdtemp(prefix="rrr-edge-graphs-"))
os.environ["XDG_CACHE_HOME"] = os.environ.get("RRR_EDGE_TEST_CACHE", "/tmp/rrr-edge-test-cache")

import pytest
from small_bundle import copy_bundle, write_shapes

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.recipe import Training
from rrr_edge.profile import frames
from rrr_edge.report.candidate import Candidate
from rrr_edge.timing.machine import BackgroundLoad

# A shell lets what it runs in the background ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What the tests write need not outlive a power cut; tests/bundle/test_files.py sees that it would.
os.fsync = lambda descriptor: None

TRAINING = Training(epochs=12, batch_size=12, augment=False, validation_share=0)


def pytest_sessionfinish(session: pytest.Session) -> None:
    gc.unfreeze()
    if not hasattr(session.config, "workerinput"):
        shutil.rmtree(os.environ["TRACED_GRAPHS"], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Networks of one structure are traced once; tests/networks/test_export.py does without."""
    if hasattr(sys.modules.get("torch"), "onnx"):
        from export_cache import trace_once

        trace_once()


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_stays(request: pytest.FixtureRequest) -> None:
    """Each timed round collects garbage, which would look through all that earlier tests have imported."""
    if request.path.parent.name in ("profile", "cli", "compile", "timing", "compress"):
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _profiles_are_quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes no profile of a test unstable, and photos are small; tests/timing tests the clock."""
    if request.path.parent.name in ("profile", "cli", "compile"):
        monkeypatch.setattr(BackgroundLoad, "share", 0.0)
    if request.path.parent.name in ("profile", "cli") and "full_size_photos" not in request.fixturenames:
        monkeypatch.setattr(frames, "FRAME_SIZE", (64, 36))


@pytest.fixture
def full_size_photos() -> None:
    """A profile's photos are as large as those of a user."""


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("photos") / "shapes")


@pytest.fixture(scope="session")
def shared_bundle(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Nothing but compressed. Do not change it: use `bundle` for that."""
    import torch

    from rrr_edge.bundle.recipe import RRR
    from rrr_edge.compress import compress

    recipe = RRR(weights="random", image_size=32, branches=2, training=TRAINING)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # quicker for so small a network, most of all where the cores are shared
    try:
        return compress(shapes, tmp_path_factory.mktemp("bundles") / "shapes.rrr", recipe=recipe)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def compiled(shared_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With engines openvino-fp32, openvino-int8 and onnxruntime-fp32. Do not change it: copy it."""
    from rrr_edge.compile import compile_bundle

    bundle = copy_bundle(shared_bundle, tmp_path_factory.mktemp("compiled") / "shapes.rrr")
    compile_bundle(bundle, "openvino", precision="fp32")
    compile_bundle(bundle, "openvino", precision="int8")
    compile_bundle(bundle, "onnxruntime")
    return bundle


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """A candidate for a report with everything that a profile can hold, on disk. Do not change it."""
    from made_up import full_profile, make_bundle, store

    bundle = make_bundle(tmp_path_factory.mktemp("full") / "mugs.rrr")
    return store(bundle, full_profile(bundle))


@pytest.fixture
def bundle(compiled: Bundle, tmp_path: Path) -> Iterator[Bundle]:
    """A copy of `compiled` to break."""
    copy = copy_bundle(compiled, tmp_path / "shapes.rrr")
    yield copy
    shutil.rmtree(copy.path, ignore_errors=True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Quicker for small networks, most of all where the cores are shared."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The leading blocks of a ResNet152, with normalisations that are not at their start, as a file."""
    import torch
    from safetensors.torch import save_file
    from torch import nn

    from rrr_edge.bundle.spec import ResNetSpec
    from rrr_edge.networks import build

    torch.manual_seed(0)
    network = build(ResNetSpec(depths=(3, 2, 1, 1)))
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1)
        norm.running_mean.uniform_(-0.1, 0.1)
    tensors = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    path = tmp_path_factory.mktemp("weights") / "original.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB, which is less than any bundle here; only root can make one."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here (that needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
