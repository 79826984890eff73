"""Frames of files, folders and cameras: none invented, none twice, in order, and how old they are."""

import functools
import http.server
import io
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cameras
import numpy as np
import pytest
from cameras import Camera, HttpCamera, RtspCamera
from PIL import Image

from rrr_edge.errors import BadInput, CannotRunHere, UsageError
from rrr_edge.runtime.streams import Frame, Frames, Source, open_frames
from rrr_edge.runtime.streams import frames as streams
from rrr_edge.runtime.streams import video as video_reader
from rrr_edge.runtime.streams.clock import CameraClock
from rrr_edge.runtime.streams.frame_queue import FrameQueue
from rrr_edge.runtime.streams.reader import RawFrame, SourceLost, Timeouts


def write_video(path: Path, frames: int, *, codec: str = "libx264", fps: int = 10) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = cameras.WIDTH, cameras.HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(cameras.draw(number, number / fps), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module", params=["libx264 mp4", "mjpeg avi"])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec, suffix = request.param.split()
    return write_video(tmp_path_factory.mktemp("video") / f"video.{suffix}", 30, codec=codec)


@pytest.fixture(params=[RtspCamera, HttpCamera])
def camera(request: pytest.FixtureRequest) -> Iterator[Camera]:
    with request.param() as camera:
        yield camera


def take(frames: Frames, count: int) -> list[Frame]:
    return [frame for frame, _ in zip(frames, range(count), strict=False)]


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def numbers(frames: list[Frame]) -> list[int]:
    """Those in the pixels."""
    return [cameras.read(frame.pixels)[0] for frame in frames]


def test_a_file_gives_every_frame_once_in_order(video: Path) -> None:
    with open_frames(video) as frames:
        found = []
        for frame in frames:  # more slowly than it is read
            found.append(frame)
            time.sleep(0.002)
    assert numbers(found) == [frame.number for frame in found] == list(range(30))
    np.testing.assert_allclose([frame.time_s for frame in found], np.arange(30) / 10, atol=1e-3)
    assert {frame.dropped for frame in found} == {0}
    assert found[0].pixels.shape == (cameras.HEIGHT, cameras.WIDTH, 3)
    assert (found[0].encoded is not None) == (video.suffix == ".avi")


def test_of_every_third_frame_the_others_are_not_dropped(video: Path) -> None:
    with open_frames(video, every=3) as frames:
        assert numbers(list(frames)) == list(range(0, 30, 3))
        assert frames.dropped == 0


def test_a_file_can_be_left_in_the_middle(video: Path) -> None:
    frames = open_frames(video)
    assert numbers(take(frames, 2)) == [0, 1]
    frames.stop()
    assert list(frames) == []
    assert f"frames of {frames.source.shown}" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(("matrix", "quarters"), [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)])
def test_a_video_that_was_turned_is_upright(tmp_path: Path, matrix: tuple[int, int, int, int], quarters: int) -> None:
    """As phones do it: the pixels lie on their side, and a matrix in the file says how to show them.

    It is that of ISO/IEC 14496-12: x and y (to the right and down) become ax + cy and bx + dy.
    """
    plain = write_video(tmp_path / "plain.mp4", 3)
    content = bytearray(plain.read_bytes())
    a, b, c, d = (entry << 16 for entry in matrix)
    begin = content.index(b"tkhd") + 44
    content[begin : begin + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    with open_frames(plain) as upright, open_frames(tmp_path / "turned.mp4") as frames:
        for expected, frame in zip(upright, frames, strict=True):
            np.testing.assert_array_equal(frame.pixels, np.rot90(expected.pixels, quarters))


def test_a_folder_gives_its_pictures_by_name_and_says_which_it_cannot_read(tmp_path: Path) -> None:
    for value in (3, 1, 2):
        Image.new("RGB", (8, 6), (value, 0, 0)).save(tmp_path / f"{value}.png")
    (tmp_path / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    said: list[str] = []
    with open_frames(tmp_path, on_change=said.append) as frames:
        found = [(frame.number, int(frame.pixels[0, 0, 0])) for frame in frames]
        assert frames.damaged == 1
    assert found == [(0, 1), (2, 3)]
    assert len(said) == 1
    assert "2.png" in said[0]


def test_what_is_no_source_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    for name, said in (("text.mp4", "invalid data"), ("empty", "no picture")):
        with pytest.raises(BadInput, match=said):
            open_frames(tmp_path / name)
    with pytest.raises(UsageError, match="no latest frame"):
        open_frames(tmp_path / "text.mp4", "latest")
    with pytest.raises(UsageError, match="no policy 'newest'"):
        open_frames(tmp_path / "text.mp4", "newest")  # type: ignore[arg-type]
    for settings in ({"timeout_s": 0.0}, {"timeout_s": float("inf")}, {"every": 0}):
        with pytest.raises(UsageError, match="must be more than 0"):
            open_frames(tmp_path / "text.mp4", **settings)  # type: ignore[arg-type]


def test_a_file_that_was_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", 30)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with open_frames(cut) as frames:
        found = numbers(list(frames))
    assert 0 < len(found) < 30
    assert found == list(range(len(found)))


@pytest.mark.parametrize(("standard", "weights"), [("ITU709", (0.2126, 0.0722)), (None, (0.299, 0.114))])
def test_colours_are_those_of_the_standard_that_a_video_names(
    tmp_path: Path, standard: str | None, weights: tuple[float, float]
) -> None:
    """Y'CbCr of limited range to R'G'B' as ITU-R BT.709 has it, and where none is named, as BT.601 has it."""
    luma, blue, red = (y_cb_cr := (120, 90, 180))
    with av.open(str(tmp_path / "flat.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        frame = av.VideoFrame(64, 64, "yuv420p")
        for plane, value in zip(frame.planes, y_cb_cr, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        if standard:
            frame.colorspace = stream.codec_context.colorspace = av.video.reformatter.Colorspace[standard].value
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    of_red, of_blue = weights
    y, cb, cr = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    r, b = y + 2 * (1 - of_red) * cr, y + 2 * (1 - of_blue) * cb
    g = (y - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    with open_frames(tmp_path / "flat.mp4") as frames:
        (found,) = (frame.pixels for frame in frames)
    np.testing.assert_allclose(found.reshape(-1, 3), np.broadcast_to([255 * r, 255 * g, 255 * b], (4096, 3)), atol=3)


def test_a_video_or_a_picture_on_a_server_is_no_live_stream(tmp_path: Path) -> None:
    write_video(tmp_path / "video.mkv", 10)
    Image.new("RGB", (64, 48)).save(tmp_path / "snapshot.jpg")
    handler = functools.partial(SilentHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(UsageError, match=r"is a video of 1\.0 s"):
            open_frames(f"{address}/video.mkv")
        said: list[str] = []
        with (
            pytest.raises(UsageError, match="is one picture"),
            open_frames(f"{address}/snapshot.jpg", on_change=said.append) as frames,
        ):
            list(frames)
        assert said == []
        server.shutdown()


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_stream_that_cannot_be_decoded_is_lost_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, repaired = io.BytesIO(), threading.Event()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")

    def raw_frames() -> Iterator[RawFrame]:
        while True:
            time.sleep(0.005)
            yield RawFrame(buffer.getvalue() if repaired.is_set() else b"\xff\xd8 damaged", time.monotonic())
            yield RawFrame(None if not repaired.is_set() else buffer.getvalue(), time.monotonic())

    @contextmanager
    def reader(source: Source, timeouts: Timeouts) -> Iterator[Iterator[RawFrame]]:
        yield raw_frames()

    monkeypatch.setitem(streams._READERS, "stream", reader)
    said: list[str] = []
    source = Source("stream", "x", "x")
    with Frames(source, "latest", 1, Timeouts(1, 1, undecoded_s=0.05), said.append) as frames:
        taking = threading.Thread(target=lambda: take(frames, 1))
        taking.start()
        wait_for(lambda: frames.losses)
        assert "no picture could be decoded for 0.05 s" in frames.lost
        time.sleep(0.6)  # it is opened again, and nothing has changed
        assert len(said) == frames.losses == 1
        repaired.set()
        wait_for(lambda: not frames.lost)
        taking.join(5)
    assert said[1:] == ["x is back"]


class Damaged:
    stream_index, size = 0, 1

    def decode(self) -> list[av.VideoFrame]:
        raise av.FFmpegError(1, "damaged")


def test_a_decoders_errors_are_no_pictures() -> None:
    def demux() -> Iterator[Damaged]:
        while True:
            time.sleep(0.001)
            yield Damaged()

    container = SimpleNamespace(format=SimpleNamespace(name="rtsp"), demux=demux)
    stream = SimpleNamespace(index=0, codec_context=SimpleNamespace(name="h264"))
    with pytest.raises(SourceLost, match="no picture could be decoded"):
        for number, raw in enumerate(video_reader._raw_frames(av, container, stream, Timeouts(1, 1, 0.02))):
            assert raw.picture is None
            assert number < 1000


def test_the_time_that_an_app_takes_is_no_loss() -> None:
    packet = SimpleNamespace(stream_index=0, size=1, decode=lambda: [SimpleNamespace(is_corrupt=False, time=0.0)])
    other = SimpleNamespace(stream_index=1)
    container = SimpleNamespace(format=SimpleNamespace(name="rtsp"), demux=lambda: iter([packet, other, packet]))
    stream = SimpleNamespace(index=0, codec_context=SimpleNamespace(name="h264"))
    count = 0
    for _ in video_reader._raw_frames(av, container, stream, Timeouts(1, 0.2, 0.2)):
        count += 1
        time.sleep(0.25)
    assert count == 2


def test_a_slow_disk_has_its_time_and_what_comes_late_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def raw_frames() -> Iterator[RawFrame]:
        yield RawFrame(lambda: np.zeros((2, 2, 3), np.uint8), time.monotonic())
        raise SourceLost("it is damaged")

    @contextmanager
    def reader(source: Source, timeouts: Timeouts) -> Iterator[Iterator[RawFrame]]:
        time.sleep(0.1)
        yield raw_frames()

    monkeypatch.setitem(streams._READERS, "file", reader)
    monkeypatch.setattr(streams, "_STOP_S", 0.01)
    frames = Frames(Source("file", "x", "x"), "all", 1, Timeouts(0.01, 0.01), lambda said: None)
    frames.wait_until_open()
    with pytest.raises(BadInput, match="x cannot be read further: it is damaged"):
        list(frames)


def test_a_live_source_gives_the_newest_frame_and_counts_the_others(camera: Camera) -> None:
    with open_frames(camera.address) as frames:
        found, drawn, ages = [], [], []
        for frame in frames:
            number, captured_s = cameras.read(frame.pixels)
            drawn.append(number)
            ages.append(((time.monotonic() - captured_s) * 1e3, frame.age_ms))
            found.append(frame)
            if len(found) == 8:
                break
            time.sleep(0.1)
        assert frames.dropped == sum(frame.dropped for frame in found) > 0
    gaps = np.diff([frame.number for frame in found])
    np.testing.assert_array_equal(gaps, [frame.dropped + 1 for frame in found[1:]])
    assert drawn == sorted(set(drawn))
    true, told = np.median(ages, axis=0)
    assert true < 500
    assert abs(true - told) < 300


def test_all_frames_of_a_live_source_come_if_asked_for(camera: Camera) -> None:
    with open_frames(camera.address, "all") as frames:
        found = take(frames, 6)
        assert frames.dropped == 0
    assert [(frame.number, frame.dropped) for frame in found] == [(number, 0) for number in range(6)]
    drawn = numbers(found)
    assert drawn == sorted(set(drawn))


def test_a_killed_and_a_frozen_camera_are_lost_and_come_back(camera: Camera) -> None:
    said: list[str] = []
    with open_frames(camera.address, timeout_s=1.0, on_change=said.append) as frames:
        stream = iter(frames)
        drawn = [cameras.read(next(stream).pixels)[0]]
        for losses, (end, begin) in enumerate(((camera.kill, camera.start), (camera.freeze, camera.thaw)), 1):
            end()
            wait_for(lambda: frames.lost)
            begin()
            returned = time.monotonic()
            drawn += [cameras.read(next(stream).pixels)[0] for _ in range(3)]
            assert time.monotonic() - returned < 15
            assert frames.losses >= losses
            wait_for(lambda: not frames.lost)
    assert drawn == sorted(set(drawn))
    # A busy machine may lose it once more.
    assert ["back" if " is back" in text else "lost" for text in said] == ["lost", "back"] * (len(said) // 2)
    assert any("there was no answer for 1 s" in text for text in said[2:])


def test_stop_returns_while_a_read_hangs() -> None:
    with RtspCamera() as camera:
        frames = open_frames(camera.address, timeout_s=30)
        take(frames, 1)
        camera.freeze()
        time.sleep(0.1)
        waiting = threading.Thread(target=lambda: take(frames, 100))
        waiting.start()
        begin = time.monotonic()
        frames.stop()
        waiting.join(5)
        assert time.monotonic() - begin < 5
        assert not waiting.is_alive()


@pytest.mark.parametrize("kind", [RtspCamera, HttpCamera])
def test_a_login_is_used_and_never_shown(kind: type[Camera]) -> None:
    said: list[str] = []
    with kind(login="admin:S3CRET") as camera:
        with open_frames(camera.address, timeout_s=0.5, on_change=said.append) as frames:
            take(frames, 1)
            camera.kill()
            wait_for(lambda: said)
        camera.start()
        with pytest.raises(CannotRunHere, match="Unauthorized") as caught:
            open_frames(camera.address.replace("S3CRET", "wr0ng"))
    assert "127.0.0.1" in said[0]
    told = f"{said} {frames.source!r} {caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert "S3CRET" not in told
    assert "wr0ng" not in told


def test_a_camera_that_is_not_there_is_said_at_once() -> None:
    with RtspCamera() as camera:
        pass
    begin = time.monotonic()
    with pytest.raises(CannotRunHere, match="refused"):
        open_frames(camera.address)
    assert time.monotonic() - begin < 5


def test_the_clock_sees_what_waited_on_its_way() -> None:
    clock = CameraClock()
    assert clock.captured(100.0, 5.2) == pytest.approx(5.2)  # the first one: 0.2 s late, which nobody can know
    assert clock.captured(100.04, 5.04) == pytest.approx(5.04)  # this one came at once
    assert clock.captured(101.0, 8.0) == pytest.approx(6.0, abs=1e-3)  # two seconds in some buffer
    assert clock.captured(50.0, 8.1) == pytest.approx(8.1)  # its clock was set back
    assert clock.captured(None, 9.0) == 9.0


def test_a_repeated_stamp_keeps_what_the_clock_knows() -> None:
    clock = CameraClock()
    clock.captured(100.0, 5.0)
    assert clock.captured(101.0, 8.9) == clock.captured(101.0, 8.9) == pytest.approx(6.0, abs=1e-3)


def test_stamps_that_run_slow_do_not_add_up() -> None:
    clock = CameraClock()
    ages = [second - clock.captured(second * 0.95, float(second)) for second in range(600)]
    assert max(ages) < 0.05 * 31


def test_the_clock_follows_a_camera_whose_clock_drifts() -> None:
    clock, late = CameraClock(), []
    for second in range(0, 36_000, 10):
        late.append(second - clock.captured(second * (1 - 5e-5), float(second)))
    assert max(late) < 1e-6


def test_a_queue_of_all_holds_its_writer_back_until_there_is_room() -> None:
    box: FrameQueue[int] = FrameQueue("all")
    written: list[int] = []

    def write() -> None:
        for item in range(20):
            box.put(item)
            written.append(item)
        box.close(BadInput("the end"))

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(lambda: len(written) == 4)
    time.sleep(0.02)
    assert len(written) == 4
    assert [box.take() for _ in range(20)] == [(item, 0) for item in range(20)]
    with pytest.raises(BadInput, match="the end"):
        box.take()
    writer.join()
