"""The sources of frames: cameras, video files, pictures and network streams, by the text that names them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rrr_edge.errors import CannotRunHere, UsageError, choose, redacted, require_text
from rrr_edge.images.names import has_picture_name, shown

Kind = Literal["camera", "file", "pictures", "stream"]

_SCHEMES = ("rtsp", "rtsps", "http", "https")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_KNOWN = (
    "A source is a camera's number (0) or device (/dev/video0), a video file, a picture or a folder of them, "
    "rtsp://HOST/PATH or http://HOST/PATH."
)


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """Where frames come from. `address` may hold a password: `shown` is what people and logs get."""

    kind: Kind
    address: str
    shown: str

    def __repr__(self) -> str:
        return f"Source({self.kind}, {self.shown})"

    @property
    def is_live(self) -> bool:
        """Whether it goes on for ever: its end is a loss."""
        return self.kind in ("camera", "stream")

    @classmethod
    def of(cls, name: "int | str | Path | Source") -> "Source":
        """Find out what `name` means. Raises UsageError (nothing of that kind), CannotRunHere (no such camera)."""
        if isinstance(name, Source):
            return name
        text = str(name)
        if isinstance(name, int) or (isinstance(name, str) and text.isdecimal()):
            return _camera(Path(f"/dev/video{int(text)}"))
        if isinstance(name, str) and (scheme := _ADDRESS.match(text)):
            return _stream(text, scheme[1])
        path = Path(text)
        if text.startswith("/dev/video") or path.is_char_device():
            return _camera(path)
        if text and path.is_dir():
            return cls("pictures", text, shown(text))
        if path.is_file():
            require_text(path)
            return cls("pictures" if has_picture_name(path) else "file", text, shown(text))
        raise UsageError(f"There is no camera, file or folder {shown(text)!r}.", advice=_KNOWN)


def _camera(device: Path) -> Source:
    if not device.exists():
        here = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
        raise CannotRunHere(f"There is no camera {shown(device)}.", advice=f"Cameras of this machine: {here}")
    return Source("camera", str(device), shown(device))


def _stream(address: str, scheme: str) -> Source:
    choose(scheme.lower(), _SCHEMES, "kind of stream")
    plain = hidden(address)
    try:
        parts = urlsplit(address)
        complete = bool(parts.hostname) and parts.port != 0
    except ValueError:
        complete = False
    if not complete or any(character.isspace() for character in address):
        raise UsageError(f"{plain!r} is not the address of a stream.", advice=_KNOWN)
    return Source("stream", address, plain)


def hidden(address: str) -> str:
    """`address` without its login, its query and what follows the first "=", where some cameras want a password."""
    plain = redacted(shown(address)).split("?")[0]
    beginning, equals, _ = plain.partition("=")
    return f"{beginning.rpartition('/')[0]}/***" if equals else plain
