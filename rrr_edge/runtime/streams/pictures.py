"""Picture files as a source of frames, in the order of their names."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rrr_edge.images.layouts import image_files
from rrr_edge.images.names import shown
from rrr_edge.runtime.streams.reader import RawFrame, SourceLost, Timeouts
from rrr_edge.runtime.streams.source import Source


@contextmanager
def open_pictures(source: Source, timeouts: Timeouts) -> Iterator[Iterator[RawFrame]]:
    """The picture `source`, or those in the folder and below. Raises SourceLost where there is none."""
    path = Path(source.address)
    files = image_files(path) if path.is_dir() else [path]
    if not files:
        raise SourceLost("there is no picture in it")
    yield map(_raw_frame, files)


def _raw_frame(file: Path) -> RawFrame:
    try:
        data = file.read_bytes()
    except OSError:
        data = None
    return RawFrame(data, time.monotonic(), name=shown(file))
