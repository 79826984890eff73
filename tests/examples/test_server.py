"""The server in examples/: right answers to many clients at once, and sentences for what is no photo."""

import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from rrr_edge.bundle.doubt import Doubt
from rrr_edge.runtime.classifier import Classifier

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "tests" / "bundle" / "fixtures" / "bundle-0.1.0.tar.xz"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "shapes-0.1.0.rrr"


@pytest.fixture(scope="module")
def address(bundle: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUNDLE", str(bundle))
        patch.syspath_prepend(str(ROOT / "examples" / "server"))
        from server import app

        patch.setattr(sys.modules["server"], "MAX_BYTES", 100_000)
        own = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="critical", ws="none"))
        thread = threading.Thread(target=server.run, args=([own],))
        thread.start()
        limit = time.monotonic() + 60
        while not server.started and time.monotonic() < limit:
            time.sleep(0.01)
        assert server.started
        yield f"http://127.0.0.1:{own.getsockname()[1]}/predict"
        server.should_exit = True
        thread.join(10)
        own.close()


def post(address: str, data: bytes) -> tuple[int, dict[str, str | float | bool]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data), timeout=10) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def some_photos() -> list[bytes]:
    rng, photos = np.random.default_rng(0), []
    for number in range(24):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (48, 60, 3), np.uint8)
        Image.fromarray(pixels // (1 + number % 4)).save(file, ("JPEG", "PNG")[number % 2])
        photos.append(file.getvalue())
    return photos


def test_clients_at_once_get_the_answers_to_their_own_photos(address: str, bundle: Path) -> None:
    photos = some_photos()
    with Classifier.open(bundle, precision="fp32") as classifier:
        expected = [(classifier.predict(photo).label, classifier.predict(photo).probability) for photo in photos]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda photo: post(address, photo), photos))
    assert {code for code, _ in answers} == {200}
    assert [answer["label"] for _, answer in answers] == [label for label, _ in expected]
    np.testing.assert_allclose([answer["probability"] for _, answer in answers], [p for _, p in expected], atol=1e-5)
    assert len({probability for _, probability in expected}) > 12
    assert all(answer["answered"] is True for _, answer in answers)


def test_answers_that_are_not_sure_enough_are_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = some_photos()
    doubts = [1 - float(post(address, photo)[1]["probability"]) for photo in photos]
    middle = float(np.median(doubts))
    monkeypatch.setattr(sys.modules["server"].app.state.classifier, "doubt", Doubt(threshold=middle))
    answered = [post(address, photo)[1]["answered"] for photo in photos]
    assert answered == [doubt <= middle for doubt in doubts]
    assert 0 < sum(answered) < len(photos)


def test_what_is_no_photo_is_said(address: str) -> None:
    code, said = post(address, b"no photo")
    assert code == 422
    assert "cannot be read" in str(said["detail"])
    assert post(address, bytes(100_001))[0] == 413


def test_the_command_of_its_page_serves_and_the_answer_looks_as_printed(bundle: Path) -> None:
    page = (ROOT / "examples" / "server" / "README.md").read_text()
    variable, *command = shlex.split(re.findall(r"^BUNDLE=.*$", page, re.MULTILINE)[0])
    printed = json.loads(re.findall(r"^\{.*\}$", page, re.MULTILINE)[0])
    assert variable == "BUNDLE=mugs.rrr"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UVICORN_")}
    environment |= {"BUNDLE": str(bundle), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(
        [*command, "--port", "0"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        watchdog = threading.Timer(60, server.kill)
        watchdog.start()
        try:
            assert server.stderr
            said = ""
            while not (running := re.search(r"running on (http://\S+)", said)):
                line = server.stderr.readline()
                assert line, said
                said += line
            code, answer = post(f"{running[1]}/predict", some_photos()[0])
        finally:
            watchdog.cancel()
            server.terminate()
    assert code == 200
    assert answer.keys() == printed.keys()
