"""The embedding runtime: `Classifier`, frames from cameras, and checks that tell whether an engine will load."""

from rrr_edge.runtime.classifier import Answer, Classifier, Prediction
from rrr_edge.runtime.streams import Frame, Frames, open_frames

__all__ = ["Answer", "Classifier", "Frame", "Frames", "Prediction", "open_frames"]
