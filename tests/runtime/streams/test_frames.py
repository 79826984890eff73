"""Frames of files, folders and cameras: none invented, none twice, in order, and how old they are."""

import struct
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cameras
import numpy as np
import pytest
from cameras import Camera, HttpCamera, RtspCamera
from PIL import Image

from rrr_edge.errors import BadInput, CannotRunHere, UsageError
from rrr_edge.runtime.streams import Frame, Frames, open_frames
from rrr_edge.runtime.streams.clock import CameraClock
from rrr_edge.runtime.streams.mailbox import Mailbox


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
    threads = threading.active_count()
    frames = open_frames(video)
    assert numbers(take(frames, 2)) == [0, 1]
    frames.stop()
    assert list(frames) == []
    assert threading.active_count() == threads


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
        assert frames.dropped == sum(frame.dropped for frame in found) > 5
    gaps = np.diff([frame.number for frame in found])
    np.testing.assert_array_equal(gaps, [frame.dropped + 1 for frame in found[1:]])
    assert drawn == sorted(set(drawn))
    true, told = np.median(ages, axis=0)
    assert true < 250
    assert abs(true - told) < 150


def test_all_frames_of_a_live_source_come_if_asked_for(camera: Camera) -> None:
    with open_frames(camera.address, "all") as frames:
        found = take(frames, 6)
        assert frames.dropped == 0
    assert len(set(np.diff(numbers(found)))) == 1


def test_a_killed_and_a_frozen_camera_are_lost_and_come_back(camera: Camera) -> None:
    said: list[str] = []
    with open_frames(camera.address, timeout_s=0.4, on_change=said.append) as frames:
        stream = iter(frames)
        drawn = [cameras.read(next(stream).pixels)[0]]
        for losses, (end, begin) in enumerate(((camera.kill, camera.start), (camera.freeze, camera.thaw)), 1):
            end()
            wait_for(lambda: frames.lost)
            begin()
            returned = time.monotonic()
            drawn += [cameras.read(next(stream).pixels)[0] for _ in range(3)]
            assert time.monotonic() - returned < 5
            assert (frames.losses, frames.lost) == (losses, "")
    assert drawn == sorted(set(drawn))
    assert ["back" if " is back" in text else "lost" for text in said] == ["lost", "back"] * 2
    assert "there was no answer for 0.4 s" in said[2]


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
        waiting.join(2)
        assert time.monotonic() - begin < 2
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
    assert time.monotonic() - begin < 2


def test_the_clock_sees_what_waited_on_its_way() -> None:
    clock = CameraClock()
    assert clock.captured(100.0, 5.2) == pytest.approx(5.2)  # the first one: 0.2 s late, which nobody can know
    assert clock.captured(100.04, 5.04) == pytest.approx(5.04)  # this one came at once
    assert clock.captured(101.0, 8.0) == pytest.approx(6.0, abs=1e-3)  # two seconds in some buffer
    assert clock.captured(50.0, 8.1) == pytest.approx(8.1)  # its clock was set back
    assert clock.captured(None, 9.0) == 9.0


def test_the_clock_follows_a_camera_whose_quartz_is_slow() -> None:
    clock, late = CameraClock(), []
    for second in range(0, 36_000, 10):
        late.append(second - clock.captured(second * (1 - 5e-5), float(second)))
    assert max(late) < 1e-6


def test_a_mailbox_of_all_holds_its_writer_back_until_there_is_room() -> None:
    box: Mailbox[int] = Mailbox("all")
    written: list[int] = []

    def write() -> None:
        for item in range(20):
            box.put(item)
            written.append(item)
        box.close(BadInput("the end"))

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.05)
    assert len(written) == 4
    assert [box.take() for _ in range(20)] == [(item, 0) for item in range(20)]
    with pytest.raises(BadInput, match="the end"):
        box.take()
    writer.join()
