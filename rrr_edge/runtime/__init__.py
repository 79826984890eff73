"""What an app embeds: `Classifier`, and what tells beforehand whether an engine will load."""

from rrr_edge.runtime.classifier import Classifier, Prediction

__all__ = ["Classifier", "Prediction"]
