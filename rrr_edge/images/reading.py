"""Many files to one array, in threads; a large one lies on disk."""

import math
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rrr_edge.bundle.files import writing_to
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.images.decode import Pixels, Undecodable
from rrr_edge.images.names import shown
from rrr_edge.images.picture import without_warnings
from rrr_edge.images.preprocess import Preprocessor
from rrr_edge.timing.machine import usable_cores
from rrr_edge.timing.progress import OnProgress, Step

IN_MEMORY_BYTES = 1_000_000_000


@dataclass(frozen=True)
class BadFile:
    path: str
    reason: str


def allowing(bad: int, of: int) -> str:
    """The advice to skip so many."""
    return f"allow a larger share with --max-bad {math.ceil(1000 * bad / of) / 1000:g}"


def read_pictures(
    folder: Path, files: Sequence[str], preprocess: Preprocess, on_progress: OnProgress
) -> tuple[Pixels, list[str], tuple[BadFile, ...], str]:
    """Decode `files` in threads: the good ones' pixels in order, each file's SHA-256 ("" if bad), the bad files.

    And a sentence on those with a remark, or "".
    """
    images = _allocate((len(files), preprocess.image_size, preprocess.image_size, 3))
    preprocessor = Preprocessor(preprocess)
    bad, remarks = [], []

    def read(index: int) -> tuple[str, str]:
        """The digest and a remark, or none and what is wrong."""
        try:
            images[index], digest, remark = preprocessor.read_file(folder / files[index])
        except Undecodable as error:
            return "", str(error)
        return digest, remark

    digests = []
    pool = ThreadPoolExecutor(usable_cores())
    try:
        with without_warnings():
            for file, (digest, reason) in zip(files, pool.map(read, range(len(files))), strict=True):
                digests.append(digest)
                if not digest:
                    bad.append(BadFile(shown(file), reason))
                elif reason:
                    remarks.append(f"{shown(file)} {reason}")
                on_progress(Step("scan", len(digests), len(files), f"{len(bad)} unreadable" if bad else ""))
    finally:
        pool.shutdown(cancel_futures=True)

    good = [index for index, digest in enumerate(digests) if digest]
    if bad:
        for row, index in enumerate(good):
            images[row] = images[index]
    remark = f"{len(remarks)} of the pictures should be looked at: {remarks[0]}." if remarks else ""
    return images[: len(good)], digests, tuple(bad), remark


def _allocate(shape: tuple[int, ...]) -> Pixels:
    size = int(np.prod(shape, dtype=np.int64))
    if size <= IN_MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    with writing_to(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        # Reserved now, so that a full disk is an error here and not a bus error in the middle.
        os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.uint8, "r+", shape=shape)
