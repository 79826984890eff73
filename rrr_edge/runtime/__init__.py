"""The embedding runtime: `Classifier`, and checks that tell beforehand whether an engine will load."""

from rrr_edge.runtime.classifier import Classifier, Prediction

__all__ = ["Classifier", "Prediction"]
