"""Calibration: what an engine's probabilities are worth, and when it had better not answer."""
