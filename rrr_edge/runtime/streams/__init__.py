"""Streams of frames from cameras, files, folders and networks."""

from rrr_edge.runtime.streams.frames import Frame, Frames, open_frames
from rrr_edge.runtime.streams.source import Source

__all__ = ["Frame", "Frames", "Source", "open_frames"]
