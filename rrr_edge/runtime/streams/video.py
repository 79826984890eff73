"""Video files, cameras and network streams as sources of frames, read with PyAV."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from rrr_edge.errors import BadInput, MissingLibrary
from rrr_edge.images.decode import Pixels, clause
from rrr_edge.runtime.streams.shots import Lost, Shot, Timeouts
from rrr_edge.runtime.streams.source import Kind, Source

# What FFmpeg is told beside the address. Protocols are named so that neither a playlist nor a redirection leads from
# the network to local files, or from a file to the network.
_OPTIONS: dict[Kind, dict[str, str]] = {
    "file": {"protocol_whitelist": "file"},
    "camera": {},
    "stream": {
        "protocol_whitelist": "rtsp,rtsps,rtp,srtp,tcp,udp,tls,http,https",
        "rtsp_flags": "prefer_tcp",
        # Streams are not analysed for seconds. Not "nobuffer": it throws the first key frame away.
        "analyzeduration": "1",
        "probesize": "32768",
        "fpsprobesize": "0",
    },
}
# Demuxers that make up their time stamps.
_UNSTAMPED = ("mpjpeg", "mjpeg", "jpeg_pipe", "image2pipe")
# A stream that cannot be decoded for so long, which is more than one key frame to the next takes, is as good as lost.
_UNDECODED_S = 30.0


def require_av() -> Any:
    """PyAV. Raises MissingLibrary."""
    try:
        import av
    except ImportError as error:
        raise MissingLibrary("PyAV", extra="camera", purpose="Reading videos and cameras") from error
    return av


@contextmanager
def open_video(source: Source, timeouts: Timeouts) -> Iterator[Iterator[Shot]]:
    """The frames of `source`. They end where it ends, or raise Lost; of a file that cannot be opened too.

    No error has an error of PyAV's as its cause, for those have the address with its password in them.
    """
    av = require_av()
    address = f"file:{source.address}" if source.kind == "file" else source.address
    try:
        container = av.open(
            address,
            format="v4l2" if source.kind == "camera" else None,
            options=_OPTIONS[source.kind],
            timeout=(timeouts.open_s, timeouts.read_s),
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise Lost(_reason(av, error, timeouts.open_s)) from None
    with container:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise Lost("there is no video in it that can be decoded")
        if source.is_live:
            stream.codec_context.flags |= av.codec.context.Flags.low_delay.value
        else:
            stream.thread_type = "AUTO"
        yield _shots(av, container, stream, timeouts.read_s if source.is_live else None)


def _shots(av: Any, container: Any, stream: Any, patience_s: float | None) -> Iterator[Shot]:
    """Of a live source there must be a video packet every `patience_s`, whatever else comes."""
    is_jpeg, is_stamped = stream.codec_context.name == "mjpeg", container.format.name not in _UNSTAMPED
    packets = container.demux()
    came = decoded = time.monotonic()
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            raise Lost(_reason(av, error, patience_s or 0)) from None
        if packet is None:
            return
        now = time.monotonic()
        if packet.stream_index == stream.index:
            came = now
            found = [_jpeg(packet, now)] if is_jpeg and packet.size else list(_decoded(av, packet, now))
            decoded = now if found else decoded
            yield from found if is_stamped else (shot._replace(stamp_s=None) for shot in found)
        elif patience_s is not None and now - came > patience_s:
            raise Lost(f"no picture came for {patience_s:g} s")
        if patience_s is not None and now - decoded > _UNDECODED_S:
            raise Lost(f"no picture could be decoded for {_UNDECODED_S:g} s")


def _jpeg(packet: Any, arrival_s: float) -> Shot:
    """The file as it is: it is decoded like every other picture, and as small as the network allows."""
    stamp = None if packet.pts is None else float(packet.pts * packet.time_base)
    return Shot(bytes(packet), arrival_s, stamp)


def _decoded(av: Any, packet: Any, arrival_s: float) -> Iterator[Shot]:
    """The frames that `packet` completes; one that is damaged has no picture."""
    try:
        frames = packet.decode()
    except av.FFmpegError:
        yield Shot(None, arrival_s)
        return
    for frame in frames:
        yield Shot(None if frame.is_corrupt else partial(_rgb, frame), arrival_s, frame.time)


def _rgb(frame: Any) -> Pixels:
    """Pixels [H, W, 3] of a frame of PyAV's, turned upright. Raises BadInput."""
    try:
        pixels: Pixels = frame.to_ndarray(format="rgb24")
    except (OSError, ValueError) as error:
        raise BadInput(f"A frame cannot be converted to RGB: {clause(error)}.") from error
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _reason(av: Any, error: Exception, timeout_s: float) -> str:
    if isinstance(error, av.ExitError):
        return f"there was no answer for {timeout_s:g} s"
    return clause(OSError(0, str(getattr(error, "strerror", None) or type(error).__name__)))
