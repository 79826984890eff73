"""Picture files as a source of frames, in the order of their names."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rrr_edge.images.layouts import image_files
from rrr_edge.images.names import shown
from rrr_edge.runtime.streams.shots import Lost, Shot, Timeouts
from rrr_edge.runtime.streams.source import Source


@contextmanager
def open_pictures(source: Source, timeouts: Timeouts) -> Iterator[Iterator[Shot]]:
    """The picture `source`, or those in the folder and below. Raises Lost where there is none."""
    path = Path(source.address)
    files = image_files(path) if path.is_dir() else [path]
    if not files:
        raise Lost("there is no picture in it")
    yield map(_shot, files)


def _shot(file: Path) -> Shot:
    try:
        data = file.read_bytes()
    except OSError:
        data = None
    return Shot(data, time.monotonic(), name=shown(file))
