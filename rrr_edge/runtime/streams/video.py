"""Video files, cameras and network streams as sources of frames, read with PyAV."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from rrr_edge.errors import BadInput, MissingLibrary, UsageError
from rrr_edge.images.decode import Pixels, clause
from rrr_edge.runtime.streams.reader import RawFrame, SourceLost, Timeouts
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
_DOWNLOAD = "Download it, and give the file."


def require_av() -> Any:
    """PyAV. Raises MissingLibrary."""
    try:
        import av
    except ImportError as error:
        raise MissingLibrary("PyAV", extra="camera", purpose="Reading videos and cameras") from error
    return av


@contextmanager
def open_video(source: Source, timeouts: Timeouts) -> Iterator[Iterator[RawFrame]]:
    """The frames of `source`. They end where it ends, or raise SourceLost; of a file that cannot be opened too.

    Raises UsageError for a video or a picture on a server: it would be replayed for ever.
    No error has an error of PyAV's as its cause, for those have the address with its password in them.
    """
    av = require_av()
    address = f"file:{source.address}" if source.kind == "file" else source.address
    try:
        container = av.open(
            address,
            format="v4l2" if source.kind == "camera" else None,
            options=_OPTIONS[source.kind],
            timeout=(timeouts.open_s, timeouts.read_s) if source.is_live else None,
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise SourceLost(_reason(av, error, timeouts.open_s)) from None
    with container:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise SourceLost("there is no video in it that can be decoded")
        if source.kind == "stream" and container.duration and container.duration > 0:
            lasts_s = container.duration / av.time_base
            raise UsageError(f"{source.shown} is a video of {lasts_s:.1f} s, not a live stream.", advice=_DOWNLOAD)
        if source.is_live:
            stream.codec_context.flags |= av.codec.context.Flags.low_delay.value
        else:
            stream.thread_type = "AUTO"
        raw_frames = _raw_frames(av, container, stream, timeouts if source.is_live else None)
        is_pictures = container.format.name.endswith("pipe")
        yield _more_than_one(raw_frames, source) if is_pictures and source.is_live else raw_frames


def _more_than_one(raw_frames: Iterator[RawFrame], source: Source) -> Iterator[RawFrame]:
    """Files of pictures that come one after the other. Raises UsageError where the first is the last."""
    count = 0
    for raw in raw_frames:
        count += 1
        yield raw
    if count == 1:
        raise UsageError(f"{source.shown} is one picture, not a live stream.", advice=_DOWNLOAD)


def _raw_frames(av: Any, container: Any, stream: Any, limits: Timeouts | None) -> Iterator[RawFrame]:
    """Of a live source there must be a video packet every `limits.read_s`, whatever else comes.

    The time that is spent with the frames does not count.
    """
    is_jpeg, is_stamped = stream.codec_context.name == "mjpeg", container.format.name not in _UNSTAMPED
    packets = container.demux()
    came = decoded = time.monotonic()
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            raise SourceLost(_reason(av, error, limits.read_s if limits else 0)) from None
        if packet is None:
            return
        now = time.monotonic()
        if packet.stream_index == stream.index:
            found = [_jpeg(packet, now)] if is_jpeg and packet.size else list(_decoded(av, packet, now))
            yield from found if is_stamped else (raw._replace(stamp_s=None) for raw in found)
            came = time.monotonic()
            if any(raw.picture is not None for raw in found):
                decoded = came
        elif limits is not None and now - came > limits.read_s:
            raise SourceLost(f"no picture came for {limits.read_s:g} s")
        if limits is not None and now - decoded > limits.undecoded_s:
            raise SourceLost(f"no picture could be decoded for {limits.undecoded_s:g} s")


def _jpeg(packet: Any, arrival_s: float) -> RawFrame:
    """The file as it is: it is decoded like every other picture, and as small as the network allows."""
    stamp = None if packet.pts is None else float(packet.pts * packet.time_base)
    return RawFrame(bytes(packet), arrival_s, stamp)


def _decoded(av: Any, packet: Any, arrival_s: float) -> Iterator[RawFrame]:
    """The frames that `packet` completes; one that is damaged has no picture."""
    try:
        frames = packet.decode()
    except av.FFmpegError:
        yield RawFrame(None, arrival_s)
        return
    for frame in frames:
        yield RawFrame(None if frame.is_corrupt else partial(_rgb, frame), arrival_s, frame.time)


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
