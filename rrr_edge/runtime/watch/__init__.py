"""The watching of a stream: votes over frames, what is said of each, unsure frames, and the live page."""

from rrr_edge.runtime.watch.page import LivePage
from rrr_edge.runtime.watch.results import StreamResult, Summary, watch
from rrr_edge.runtime.watch.unsure import UnsureFrames
from rrr_edge.runtime.watch.votes import Votes

__all__ = ["LivePage", "StreamResult", "Summary", "UnsureFrames", "Votes", "watch"]
