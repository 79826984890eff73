"""Votes, the lines on a stream, unsure frames, and the live page."""

import io
import json
import re
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
from fake_bundle import write_bundle
from PIL import Image

from rrr_edge.backends.fake import Fake
from rrr_edge.bundle.doubt import Doubt
from rrr_edge.bundle.reference import Outputs
from rrr_edge.errors import CannotRunHere, MissingLibrary, UsageError
from rrr_edge.runtime.classifier import Answer, Classifier, Prediction
from rrr_edge.runtime.streams import Frame, open_frames
from rrr_edge.runtime.watch import LivePage, StreamResult, Summary, UnsureFrames, Votes, watch
from rrr_edge.runtime.watch.unsure import as_jpeg

LABELS = ("dark", "middle", "bright")
FOR_LABEL = np.eye(3, dtype=np.float32) * 0.7 + 0.1


def prediction(index: int, uncertainty: float = 0.5, *, threshold: float = 1.0) -> Prediction:
    row = FOR_LABEL[index]
    doubt = Doubt(threshold=threshold)
    return Prediction(LABELS[index], index, float(row[index]), uncertainty, row, row[None], doubt)


def frame(number: int = 0, *, time_s: float = 0.0, encoded: bytes | None = None) -> Frame:
    pixels = np.full((6, 8, 3), number % 256, np.uint8)
    return Frame(number, time_s, time.monotonic(), pixels, 0, encoded)


def seen(
    number: int = 0, *, uncertainty: float = 0.9, time_s: float = 0.0, encoded: bytes | None = None
) -> StreamResult:
    answer = Answer(frame(number, time_s=time_s, encoded=encoded), prediction(0, uncertainty), 1.0, 20.0)
    return StreamResult(answer, "dark", 0.8, uncertainty, 25.0)


def labels_of(votes: Votes, indices: list[int]) -> str:
    return "".join(votes.add(prediction(index))[0][0] for index in indices)


def test_a_label_stays_until_another_has_two_thirds_of_the_votes() -> None:
    assert labels_of(Votes(1, LABELS), [0, 2, 0, 1]) == "dbdm"
    assert labels_of(Votes(5, LABELS), [0, 0, 2, 0, 2, 2, 2, 2, 2]) == "ddddddbbb"
    for frames in (2, 3, 5, 8):
        assert set(labels_of(Votes(frames, LABELS), [0, 2] * 20)) == {"d"}  # two that take turns
        assert labels_of(Votes(frames, LABELS), [0] * 9 + [2] * frames)[-1] == "b"


def test_votes_give_means_over_the_window() -> None:
    votes = Votes(2, LABELS)
    votes.add(prediction(2, 0.9))
    votes.add(prediction(0, 0.2))
    assert votes.add(prediction(2, 0.4)) == ("bright", pytest.approx(0.45), pytest.approx(0.3), True)


def test_a_label_is_the_answer_by_the_votes_for_it_alone() -> None:
    votes = Votes(5, LABELS)
    for index, threshold in ((0, 0.1), (0, 0.1), (2, 0.5), (2, 0.5)):
        votes.add(prediction(index, threshold=threshold))
    shown = votes.add(prediction(2, threshold=0.5))
    assert (shown.label, shown.answered) == ("dark", False)
    assert votes.add(prediction(2, threshold=0.5)) == ("bright", pytest.approx(0.66), pytest.approx(0.5), True)


@pytest.fixture
def classifier(tmp_path: Path) -> Classifier:
    """A network that tells how bright a picture is."""

    def answer(images: np.ndarray) -> Outputs:
        rows = FOR_LABEL[np.clip(images.mean(axis=(1, 2, 3)) // 85, 0, 2).astype(int)]
        return Outputs(rows, rows[:, None])

    return Classifier(Fake(answer), write_bundle(tmp_path / "fakes.rrr").manifest, channels="bgr")


def test_cameras_share_a_classifier(classifier: Classifier, tmp_path: Path) -> None:
    """Each in a thread of its own gets the answers to its own frames."""
    for index, label in enumerate(LABELS):
        (tmp_path / label).mkdir()
        for number in range(20):
            Image.new("RGB", (20, 20), (40 + 90 * index,) * 3).save(tmp_path / label / f"{number}.png")

    def work(label: str) -> set[str]:
        with open_frames(tmp_path / label) as frames:
            return {answer.prediction.label for answer in classifier.stream(frames)}

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, LABELS)) == [{label} for label in LABELS]


def test_a_folder_is_watched_in_order(classifier: Classifier, tmp_path: Path) -> None:
    for number, value in enumerate((10, 100, 200, 20)):
        Image.new("RGB", (40, 30), (value,) * 3).save(tmp_path / f"{number}.png")
    summary = Summary()
    time.sleep(0.3)  # loading takes its time
    with open_frames(tmp_path) as frames:
        found = list(watch(classifier.stream(frames), classifier.labels))
        for one in found:
            summary(one)
        text = summary.text(frames)
    assert [(one.record()["frame"], one.label) for one in found] == list(
        enumerate(("dark", "middle", "bright", "dark"))
    )
    own = {"label", "answered", "probability", "uncertainty", "confidence", "doubt"}
    assert set(found[0].record()) == {"frame", "time_s", "age_ms", "dropped", *own}
    # With votes the frame's are apart.
    smoothed = list(watch([one.answer for one in found], classifier.labels, smooth=4))[-1].record()
    assert set(smoothed) == {"frame", "time_s", "age_ms", "dropped", "own"} | own - {"confidence", "doubt"}
    assert smoothed["own"] == {name: found[-1].record()[name] for name in own}
    assert smoothed["probability"] != smoothed["own"]["probability"]
    assert (told := re.match(r"4 frames answered in (\d+\.\d) s, ([\d.]+) a second", text))
    assert float(told[1]) < 0.3
    assert float(told[2]) > 4 / 0.3
    assert "0 dropped" in text
    assert "dark 50%" in text


def test_unsure_frames_are_kept_within_the_limit_and_apart(tmp_path: Path) -> None:
    folder = tmp_path / "unsure"
    keep = UnsureFrames(folder, limit=3, above=0.5)
    for number in range(100):
        keep(seen(number, uncertainty=0.4 if number < 50 else 0.6, time_s=number / 25))
    kept = sorted(folder.iterdir())
    assert [int(file.stem.split("-")[2]) for file in kept] == [50, 75]
    with Image.open(kept[0]) as picture:
        assert abs(int(np.asarray(picture).mean()) - 50) < 3

    keep = UnsureFrames(folder, limit=3, above=0.5, apart_s=0)
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "JPEG")
    for number in range(5):
        keep(seen(number, encoded=buffer.getvalue()))
    assert len(list(folder.iterdir())) == 3
    assert max(folder.iterdir()).read_bytes() == buffer.getvalue()  # the camera's own file
    with pytest.raises(UsageError, match="keeps none"):
        UnsureFrames(folder, limit=0, above=0.5)


def get(url: str, **headers: str) -> tuple[int, Message, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_the_page_has_the_newest_picture_with_its_answer() -> None:
    with LivePage("127.0.0.1:0", lost=lambda: "gone") as page:
        status, headers, body = get(page.url)
        assert status == 200
        assert b"<script>" in body
        assert "sha256-" in headers["content-security-policy"]
        assert get(f"{page.url}picture")[0] == 204
        page(seen(7))
        status, headers, body = get(f"{page.url}picture")
        answer = json.loads(headers["answer"])
        assert (status, headers["content-type"]) == (200, "image/jpeg")
        assert (answer["frame"], answer["label"], answer["lost"]) == (7, "dark", "gone")
        with Image.open(io.BytesIO(body)) as picture:
            assert picture.size == (8, 6)
        assert get(f"{page.url}picture?after=7")[0] == 204
        page(seen(8))
        assert get(f"{page.url}picture?after=7")[0] == 200
        assert json.loads(get(f"{page.url}answer")[2])["frame"] == 8
        with pytest.raises(CannotRunHere, match="cannot be served"):
            LivePage(page.url.removeprefix("http://").rstrip("/"))
        port = page.url.rstrip("/").rpartition(":")[2]
    with pytest.raises(urllib.error.URLError):
        get(f"http://127.0.0.1:{port}/")


def test_an_answer_is_never_over_another_picture() -> None:
    with LivePage("0") as page:
        page.lost = lambda: page(seen(2)) or ""  # type: ignore[func-returns-value]
        page(seen(1))
        _, headers, body = get(f"{page.url}picture")
        with Image.open(io.BytesIO(body)) as picture:
            drawn = round(float(np.asarray(picture).mean()))
        assert json.loads(headers["answer"])["frame"] == drawn == 1


def test_a_photo_is_shown_small_and_without_its_place(tmp_path: Path) -> None:
    def jpeg(width: int, **options: object) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (width, 4)).save(buffer, "JPEG", **options)
        return buffer.getvalue()

    exif = Image.Exif()
    exif[0x010E] = "S3CRET"
    for photo, is_kept in ((jpeg(8), True), (jpeg(8, exif=exif), False), (jpeg(2000), False)):
        shown = Frame(0, 0.0, 0.0, np.asarray(Image.open(io.BytesIO(photo))), 0, photo)
        file = as_jpeg(shown, quality=80, longest=1280)
        assert (file == photo) == is_kept
        assert b"S3CRET" not in file
        with Image.open(io.BytesIO(file)) as picture:
            assert max(picture.size) <= 1280
        assert as_jpeg(shown, quality=95) == photo


def test_a_page_without_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingLibrary, match="uvicorn") as caught:
        LivePage("0")
    assert caught.value.exit_code == 6


def test_a_name_that_was_pointed_at_this_machine_does_not_see_the_page() -> None:
    with LivePage("0") as page:
        assert page.url.startswith("http://127.0.0.1:")
        assert get(page.url, Host="evil.example")[0] == 403
        assert get(page.url, Host="localhost:8080")[0] == 200


def test_whoever_comes_from_elsewhere_needs_the_token() -> None:
    with LivePage("0.0.0.0:0") as page:
        address, token = page.url.split("?token=")
        local = f"http://127.0.0.1:{address.rstrip('/').rpartition(':')[2]}/"
        assert len(token) >= 32
        for path in ("", "picture", "answer", "nothing"):
            assert get(f"{local}{path}")[0] == get(f"{local}{path}?token=wrong")[0] == 403
        assert get(f"{local}?token={token}")[0] == get(local, Authorization=f"Bearer {token}")[0] == 200
    for given in ("short", ""):
        with pytest.raises(UsageError, match="less than 16"):
            LivePage("0", token=given)
    with LivePage("0", token="0123456789+&#=ä%") as page:
        assert get(page.url.split("?")[0])[0] == 403
        assert get(page.url)[0] == 200


@pytest.mark.parametrize("address", ["", "x", "127.0.0.1", "example.org:80", "127.0.0.1:65536", "127.0.0.1:-1"])
def test_no_address_to_serve_at(address: str) -> None:
    with pytest.raises(UsageError, match="no address to serve"):
        LivePage(address)
