"""What names of sources mean, and that no password is ever shown."""

from pathlib import Path

import pytest
from PIL import Image

from rrr_edge.cli.app import _particulars
from rrr_edge.errors import CannotRunHere, RRREdgeError, UsageError, redacted
from rrr_edge.runtime.streams import Source, open_frames


def test_files_folders_pictures_and_streams_are_told_apart(tmp_path: Path) -> None:
    video, picture = tmp_path / "video.mp4", tmp_path / "photo.png"
    video.write_bytes(b"?")
    Image.new("RGB", (4, 4)).save(picture)
    kinds = {name: Source.of(name).kind for name in (str(video), str(picture), str(tmp_path), "rtsp://cam/1")}
    assert list(kinds.values()) == ["file", "pictures", "pictures", "stream"]
    assert Source.of(video).kind == "file"
    assert [Source.of(name).is_live for name in (video, "http://cam:8080/video")] == [False, True]


@pytest.mark.parametrize("name", [97, "97", "/dev/video97"])
def test_a_camera_that_is_not_there(name: int | str) -> None:
    with pytest.raises(CannotRunHere, match="There is no camera /dev/video97"):
        Source.of(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rtsp:/x", "not the address"),
        ("rtsp://", "not the address"),
        ("rtsp://:554/x", "not the address"),
        ("rtsp://cam:port/x", "not the address"),
        ("http://ca m/x", "not the address"),
        ("rstp://cam/x", "Did you mean 'rtsp'"),
        ("ftp://cam/x", "no kind of stream 'ftp'"),
        ("file:///etc/passwd", "no kind of stream 'file'"),
        ("no/such/file.mp4", "no camera, file or folder"),
        ("", "no camera, file or folder"),
        ("-1", "no camera, file or folder"),
    ],
)
def test_a_misspelt_source_gets_a_sentence(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        open_frames(name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "name",
    [
        "rtsp://admin:S3CRET@cam.local:554/live",
        "rtsp://admin:S3CRET@cam:port/live",
        "rtsp:/admin:S3CRET@cam/live",
        "rstp://admin:S3CRET@cam/live",
        "rtsp://admin:p@S3CRET@cam/live",
        "rtsp://S3CRET@cam/live",
        "http://cam/video?user=admin&pwd=S3CRET",
        "http://cam/video?x=S3CRET",
        "rtsp://cam:554/user=admin_password=S3CRET_channel=1.sdp",
        "admin:S3CRET@10.0.0.5/live",
        "'admin:S3CRET@10.0.0.5'",
        "http://cam/videostream.cgi?loginuse=admin&loginpas=S3CRET",
        *(f"http://cam/video?{key}=S3CRET" for key in ("pw", "p", "key")),
        "cam/video?p=S3CRET",
    ],
)
def test_no_password_is_shown(name: str) -> None:
    try:
        source = Source.of(name)
        said = f"{source} {source!r} {source.shown}"
    except RRREdgeError as error:
        said = f"{error} {error.advice} {error!r}"
    _, asked = _particulars({"source": name, "bundle": Path(name), "token": "correct S3CRET", "batches": (name,)})
    assert "S3CRET" not in f"{said} {asked} {RRREdgeError('no', advice=f'Make one with: make -o {name}').advice}"


def test_texts_without_secrets_stay_as_they_are() -> None:
    for text in ("Run: rrr-edge compile mugs.rrr -t x", "a@b.org", "'rrr-edge[camera] @ https://host/x.whl'", "a: b@c"):
        assert redacted(text) == text
    assert redacted("source=rtsp://a:b@host/x, token=abc") == "source=rtsp://***@host/x, token=***"
    assert redacted("'http://cam/x?p=a,b': lost") == "'http://cam/x?***': lost"
