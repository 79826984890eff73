"""`rrr-edge watch` on a video, on cameras, and to its end."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import typer
from cameras import RtspCamera
from PIL import Image
from small_bundle import draw
from typer.testing import CliRunner

from rrr_edge.bundle.folder import Bundle
from rrr_edge.cli.app import app
from rrr_edge.cli.display import Display
from rrr_edge.cli.watch import Line, ending_quietly
from rrr_edge.runtime.classifier import Answer, Classifier, Prediction
from rrr_edge.runtime.streams import Frame, open_frames
from rrr_edge.runtime.watch import StreamResult

ARCHIVE = Path(__file__).parents[1] / "bundle" / "fixtures" / "bundle-0.1.0.tar.xz"
KEYS = [
    *("frame", "time_s", "age_ms", "label", "probability", "uncertainty"),
    *("answered", "confidence", "doubt", "dropped"),
]
FRAMES = 12


@pytest.fixture(scope="module")
def shapes_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("watch")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return Bundle.open(folder / "shapes-0.1.0.rrr")


@pytest.fixture(scope="module")
def video(shapes_bundle: Bundle) -> Path:
    """Shapes of three kinds, four frames each."""
    path, rng = shapes_bundle.path.with_name("video.mp4"), np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for number in range(FRAMES):
            picture = np.asarray(draw(("circle", "cross", "square")[number // 4], rng))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def camera() -> Iterator[RtspCamera]:
    with RtspCamera() as camera:
        yield camera


def watch(bundle: Bundle, source: str | Path, *options: str | Path) -> Any:
    words = ("watch", bundle.path, source, "--precision", "fp32", *options)
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_frame_of_a_file_is_a_line_of_json_in_order(shapes_bundle: Bundle, video: Path, tmp_path: Path) -> None:
    record = tmp_path / "answers.jsonl"
    record.write_text('{"frame": 0}\n{"cut off')
    result = watch(shapes_bundle, video, "--json", "--record", record)
    assert result.exit_code == 0
    found = lines(result.stdout)
    assert [list(line) for line in found] == [KEYS] * FRAMES
    assert [line["frame"] for line in found] == list(range(FRAMES))
    assert [line["time_s"] for line in found] == [number / 10 for number in range(FRAMES)]
    with open_frames(video) as frames, Classifier.open(shapes_bundle.path, precision="fp32") as classifier:
        expected = [classifier.predict(frame.pixels) for frame in frames]
    assert [line["label"] for line in found] == [answer.label for answer in expected]
    np.testing.assert_allclose([line["probability"] for line in found], [a.probability for a in expected], atol=1e-5)
    assert f"{FRAMES} frames answered" in result.stderr
    assert record.read_text() == f'{{"frame": 0}}\n{{"cut off\n{result.stdout}'


def test_people_get_a_line_a_frame_and_a_summary(shapes_bundle: Bundle, video: Path) -> None:
    result = watch(shapes_bundle, video, "--every", "4", "--smooth", "2")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == FRAMES // 4
    assert re.match(r" +0\.0 s  \w+ 0\.\d\d  uncertainty .* fps  age \d+ ms  0 dropped\n", result.stdout)
    assert "engine: openvino-fp32" in result.stderr
    assert watch(shapes_bundle, video, "-q").stderr == ""


def test_a_source_can_be_in_the_environment(shapes_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRR_EDGE_WATCH_SOURCE", "rtsp:/x")
    result = CliRunner().invoke(app, ["watch", str(shapes_bundle.path)])
    assert "'rtsp:/x' is not the address of a stream" in result.stderr
    assert "RRR_EDGE_WATCH_SOURCE" not in result.stderr


def test_votes_are_over_so_many_frames(shapes_bundle: Bundle, video: Path) -> None:
    plain, smooth = (
        np.array([line["probability"] for line in lines(watch(shapes_bundle, video, "--json", "--smooth", n).stdout)])
        for n in ("1", "3")
    )
    means = [plain[max(0, number - 2) : number + 1].mean() for number in range(FRAMES)]
    np.testing.assert_allclose(smooth, means, atol=1e-5)  # the network answers the same for all of them
    assert plain.std() > 1e-4


def test_unsure_frames_of_a_folder_are_saved_within_the_limit(shapes_bundle: Bundle, tmp_path: Path) -> None:
    photos, unsure = tmp_path / "photos", tmp_path / "unsure"
    photos.mkdir()
    for number in range(4):
        Image.new("RGB", (9, 9), (50 * number,) * 3).save(photos / f"{number}.jpg")
    options = ("--save-unsure", unsure, "--limit", "3", "--unsure-above", "0")
    assert watch(shapes_bundle, photos, *options).exit_code == 0
    kept = [file.read_bytes() for file in sorted(unsure.iterdir())]
    assert kept == [(photos / f"{number}.jpg").read_bytes() for number in range(3)]
    for alone in (("--limit", "3"), ("--unsure-above", "0.1"), ("--token", "x" * 20)):
        assert "means nothing without" in watch(shapes_bundle, photos, *alone).stderr


@pytest.mark.parametrize("source", ["rtsp:/x", "rtps://cam/1", "nowhere.mp4"])
def test_a_misspelt_source_is_a_sentence_and_exit_2(shapes_bundle: Bundle, source: str) -> None:
    result = watch(shapes_bundle, source, "--json")
    assert result.exit_code == 2
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["exit_code"] == 2
    assert result.stderr.startswith("error: ")


def test_a_source_that_cannot_be_read(shapes_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_text("no video")
    assert watch(shapes_bundle, tmp_path / "video.mp4").exit_code == 5
    (tmp_path / "only.png").write_text("no picture")
    (tmp_path / "video.mp4").unlink()
    assert watch(shapes_bundle, tmp_path).exit_code == 5
    with RtspCamera() as gone:
        pass
    for words in (("-v",), ("--json",), ("-v", "more"), ("-v", "--serve", "0", "--token", "short S3CRET")):
        result = watch(shapes_bundle, f"rtsp://admin:S3CRET@127.0.0.1:{gone.port}/live", *words)
        assert result.exit_code == (2 if "more" in words or "--token" in words else 4)
        assert "S3CRET" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--serve", "nowhere"), 2, "no address to serve"),
        (("--serve", "0", "--token", "short"), 2, "less than 16"),
        (("--serve", "0.0.0.0:0", "-q"), 2, "nobody is told"),
        (("--save-unsure", "unsure", "--unsure-above", "1"), 2, "keeps none"),
        (("--save-unsure", "video.mp4/unsure"), 4, "cannot be written"),
        (("--record", "absent/answers.jsonl"), 4, "cannot be written"),
        (("--record", "video.mp4"), 2, "no file of lines"),
    ],
)
def test_what_cannot_be_is_said_before_the_engine_is_loaded(
    shapes_bundle: Bundle, video: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], code: int, said: str
) -> None:
    def never(*args: object, **settings: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.chdir(video.parent)
    monkeypatch.setattr(Classifier, "open", never)
    result = watch(shapes_bundle, video, *options)
    assert (result.exit_code, said in result.stderr) == (code, True)


def test_ctrl_c_ends_with_a_summary(shapes_bundle: Bundle, camera: RtspCamera, tmp_path: Path) -> None:
    record = tmp_path / "answers.jsonl"
    options = ("--precision", "fp32", "--json", "--record", record, "--serve", "0", "--roi", "0,0,0.5,0.5")
    words = (sys.executable, "-m", "rrr_edge", "watch", shapes_bundle.path, camera.address, *options)
    process = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        assert process.stdout
        assert process.stderr
        first = process.stdout.readline()
        address = next(line.split()[1] for line in process.stderr if line.startswith("page: "))
        with urllib.request.urlopen(f"{address}answer", timeout=30) as reply:
            assert json.load(reply)["frame"] >= 0
        camera.freeze()  # so that it waits for a frame
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
        watchdog.cancel()
    assert process.returncode == 130
    # The signal may come between a line and its record.
    printed, recorded = (first + stdout).splitlines(), record.read_text().splitlines()
    assert recorded == printed[: len(recorded)]
    assert len(printed) - len(recorded) in (0, 1)
    assert (told := re.search(r"(\d+) frames answered", stderr))
    assert int(told[1]) - len(printed) in (0, 1)
    assert "Traceback" not in stderr


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_what_stops_it_is_its_exit_code(stop: BaseException, code: int) -> None:
    with pytest.raises(typer.Exit) as caught, ending_quietly():
        raise stop
    assert caught.value.exit_code == code


def test_a_closed_pipe_ends_it_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with ending_quietly():
            print("an answer", flush=True)
        print("what an end may flush", flush=True)


def test_a_terminal_has_one_line_that_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    line = Line(as_json=False)
    one = Prediction("mug\x1b[2J", 0, 0.9, 0.1, np.ones(1, np.float32), np.ones((1, 1), np.float32))
    frame = Frame(3, 1.5, 0.0, np.zeros((1, 1, 3), np.uint8))
    for _ in range(2):
        line(StreamResult(Answer(frame, one, 1.0, 20.0), one.label, 0.9, 0.1, 25.0))
    line.say(Display(quiet=True), "lost")
    *rewritten, cleared = terminal.getvalue().split("\x1b[K")[:-1]
    assert rewritten == ["\r     1.5 s  mug\\x1b[2J 0.90  uncertaint"] * 2
    assert cleared == "\r"
