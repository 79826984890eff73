"""The answer to each frame of a stream, and the summary of all of them at its end."""

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rrr_edge.runtime.classifier import Answer
from rrr_edge.runtime.streams import Frames
from rrr_edge.runtime.watch.votes import Votes

# Frames a second, and medians, are over so many.
_RECENT = 50
_SAMPLED = 1000


@dataclass(frozen=True, slots=True)
class StreamResult:
    """The answer to a frame, with the label, probability and uncertainty that the votes gave it, and the pace.

    `answered` is false where doubt is too large for the label to be the answer. `smoothed`: these are the votes'.
    """

    answer: Answer
    label: str
    probability: float
    uncertainty: float
    fps: float
    answered: bool = True
    smoothed: bool = False

    @property
    def shown(self) -> str:
        return self.label if self.answered else "unsure"

    def record(self) -> dict[str, Any]:
        """Its line of JSON."""
        frame, prediction = self.answer.frame, self.answer.prediction
        own = prediction.record()
        numbers = _numbers(prediction.label, prediction.probability, prediction.uncertainty)
        return {
            "frame": frame.number,
            "time_s": round(frame.time_s, 3),
            "age_ms": round(self.answer.age_ms, 1),
            **_numbers(self.label, self.probability, self.uncertainty),
            **({"own": numbers | own} if self.smoothed else own),
            "answered": self.answered,
            "dropped": frame.dropped,
        }


def _numbers(label: str, probability: float, uncertainty: float) -> dict[str, Any]:
    return {"label": label, "probability": round(probability, 6), "uncertainty": round(uncertainty, 6)}


def watch(answers: Iterable[Answer], labels: tuple[str, ...], *, smooth: int = 1) -> Iterator[StreamResult]:
    """`answers` as they come, with votes over the last `smooth`."""
    votes = Votes(smooth, labels)
    times: deque[float] = deque(maxlen=_RECENT)
    for answer in answers:
        times.append(time.monotonic())
        lasted = times[-1] - times[0]
        fps = (len(times) - 1) / lasted if lasted else 0.0
        vote = votes.add(answer.prediction)
        yield StreamResult(answer, vote.label, vote.probability, vote.uncertainty, fps, vote.answered, smooth > 1)


class Summary:
    """Counts over all frames from the first answer on, and medians over the last thousand."""

    def __init__(self) -> None:
        self.frames = self.unsure = 0
        self._begun_s = 0.0
        self._labels: Counter[str] = Counter()
        self._ages_ms: deque[float] = deque(maxlen=_SAMPLED)
        self._predict_ms: deque[float] = deque(maxlen=_SAMPLED)

    def __call__(self, result: StreamResult) -> None:
        if not self.frames:
            self._begun_s = time.monotonic()
        self.frames += 1
        self.unsure += not result.answered
        if result.answered:
            self._labels[result.label] += 1
        self._ages_ms.append(result.answer.age_ms)
        self._predict_ms.append(result.answer.predict_ms)

    def text(self, frames: Frames) -> str:
        """A line on the stream, and one on what was seen in it."""
        lasted = time.monotonic() - self._begun_s if self.frames else 0.0
        unsure = f", {self.unsure} of them unsure," if self.unsure else ""
        counts = [f"{self.frames} frames{unsure} answered in {lasted:.1f} s"]
        if self.frames > 1:
            counts += [f"{(self.frames - 1) / lasted:.1f} a second"]
        if self.frames:
            counts += [f"median {np.median(self._predict_ms):.1f} ms, age {np.median(self._ages_ms):.0f} ms"]
        found = {"dropped": frames.dropped, "damaged": frames.damaged, "losses": frames.losses}
        counts += [f"{count} {name}" for name, count in found.items() if count or name == "dropped"]
        labels = ", ".join(f"{label} {count / self.frames:.0%}" for label, count in self._labels.most_common(10))
        return ", ".join(counts) + (f"\n{labels}" if labels else "")
