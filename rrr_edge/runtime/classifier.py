"""The `Classifier` that a camera app embeds: open a bundle, predict. No torch, no network access.

with Classifier.open("mugs.rrr", target="openvino", precision="int8") as classifier:
    prediction = classifier.predict(frame)
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from rrr_edge.backends import Session, backend_of
from rrr_edge.bundle.calibration import Calibration
from rrr_edge.bundle.doubt import MEASURES, UNCALIBRATED, Doubt, Measure, tempered
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Manifest
from rrr_edge.bundle.reference import Floats, Images
from rrr_edge.bundle.target import Precision, Target
from rrr_edge.errors import GateFailed, UsageError, choose
from rrr_edge.images.fit import Region
from rrr_edge.images.preprocess import CHANNELS, Channels, Preprocessor, is_single
from rrr_edge.runtime.opening import open_engine
from rrr_edge.runtime.streams import Frame, Frames
from rrr_edge.runtime.verify import is_verified_here, verify_session
from rrr_edge.timing.progress import OnProgress, silent


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one picture.

    `uncertainty` is the entropy of `probabilities` [K] over its largest value log K: 0 is sure, 1 knows nothing.
    `branch_probabilities` [B, K] are the branches' own answers, of which `probabilities` is the mean. `doubt` is by
    what the answer is judged, as the engine was calibrated. What follows from these is computed when it is asked for.
    """

    label: str
    index: int
    probability: float
    uncertainty: float
    probabilities: Floats
    branch_probabilities: Floats
    doubt: Doubt = field(default=UNCALIBRATED, repr=False, compare=False)

    @property
    def answered(self) -> bool:
        """Whether the label is the answer: its doubt is at most the threshold, if `rrr-edge calibrate` found one."""
        return bool(self.doubt.answers(self.probabilities, self.branch_probabilities))

    @property
    def confidence(self) -> float:
        """The label's probability with the temperature: as large as such answers are often right."""
        return float(tempered(self.probabilities, self.doubt.temperature)[self.index])

    @property
    def measures(self) -> dict[Measure, float]:
        """All measures of doubt, from 0 (none) to 1."""
        found = self.probabilities, self.branch_probabilities
        return {name: float(measure(*found)) for name, measure in MEASURES.items()}

    @property
    def candidates(self) -> tuple[int, ...] | None:
        """The indices of the labels of which one is right with the probability of `calibrate --sets`, likeliest first.

        The label itself is always among them. None without --sets.
        """
        if self.doubt.levels is None:
            return None
        chosen = self.probabilities >= np.array(self.doubt.levels)
        chosen[self.index] = True
        return tuple(index for index in np.argsort(-self.probabilities, kind="stable").tolist() if chosen[index])

    def record(self) -> dict[str, Any]:
        """What JSON says of the doubt about it."""
        measures = {name: round(value, 6) for name, value in self.measures.items()}
        sets = {} if (found := self.candidates) is None else {"candidates": list(found)}
        return {"answered": self.answered, "confidence": round(self.confidence, 6), "doubt": measures, **sets}


class Answer(NamedTuple):
    """The prediction for a frame of a stream, what it took, and how old the frame was then."""

    frame: Frame
    prediction: Prediction
    predict_ms: float
    age_ms: float


class Classifier:
    """An engine with its labels and its preprocessing.

    Threads may share it: pictures are read and fitted side by side, and the engine answers one call after the other.
    `close` waits for the call that is being answered; later ones raise UsageError.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        *,
        batch: int = 1,
        roi: Region | None = None,
        channels: Channels = "rgb",
        engine_name: str = "",
        doubt: Doubt = UNCALIBRATED,
    ) -> None:
        self.engine_name = engine_name
        self.doubt = doubt
        self.session = session
        self.labels = manifest.labels
        self.preprocess = Preprocessor(manifest.preprocess, roi, channels)
        self.batch = batch
        self._nats = float(np.log(len(manifest.labels)))
        self._closed = False
        self._lock = Lock()

    @classmethod
    def open(
        cls,
        path: str | Path,
        target: str | Target = "openvino",
        *,
        precision: Precision | None = None,
        threads: int = 0,
        roi: Region | tuple[float, float, float, float] | None = None,
        channels: Channels = "rgb",
        verify: bool = True,
        unsure: bool = True,
        on_progress: OnProgress = silent,
    ) -> "Classifier":
        """Load the engine of the bundle `path` for `target`, at the target's own precision unless another is given.

        Where only its name is given and there is no such engine, it is the one that is there: `engine_name` tells.

        `threads` 0 uses the target's number, or else all cores that affinity and the container's quota allow; there are
        never more than those.
        An engine that has not run on such a GPU yet is verified first, unless `verify` is false.
        `roi` (x, y, width, height) in shares of the frame is the part of each that is looked at.
        `channels` is the order in arrays: OpenCV's are "bgr".
        With `unsure` false its calibration is left aside: `Prediction.answered` is always true.
        Raises UsageError (not compiled, no such region or order), CorruptArtifact, CannotRunHere, MissingLibrary,
        GateFailed (it answers differently here).
        """
        region = roi if roi is None or isinstance(roi, Region) else Region(*roi)
        choose(channels, CHANNELS, "order of channels")
        bundle = Bundle.open(path)
        chosen = Target.resolve(target, precision)
        if isinstance(target, str) and precision is None:
            chosen = bundle.available(chosen)
        engine = bundle.engine(chosen)
        calibration = Calibration.of(bundle, engine) if unsure else None
        # What an engine may do here is for the caller's target to say, not for the bundle's.
        asked = {"threads": threads or engine.target.threads, "portability": chosen.portability}
        stored = engine.target.model_copy(update=asked)
        session = open_engine(bundle, engine, stored, on_progress)
        try:
            if verify and not is_verified_here(bundle, engine, backend_of(stored)):
                verify_session(bundle, engine, session, on_progress=on_progress)
        except BaseException:
            session.close()
            raise
        return cls(
            session,
            bundle.manifest,
            batch=stored.batch,
            roi=region,
            channels=channels,
            engine_name=engine.name,
            doubt=calibration.doubt if calibration else UNCALIBRATED,
        )

    def predict(self, frame: Any, *, channels: Channels | None = None) -> Prediction:
        """Classify a picture: a path, an open binary file or its bytes, a PIL image, or a uint8 array.

        Arrays are RGB [H, W, 3], RGBA [H, W, 4] or gray [H, W]; with `channels` (or at `open`) "bgr", BGR and BGRA.
        Raises BadInput for what is no picture, and GateFailed where the engine answers with NaN or infinity.
        """
        return self._predict([frame], channels)[0]

    def predict_many(self, frames: Iterable[Any], *, channels: Channels | None = None) -> Iterator[Prediction]:
        """Classify any number of frames, in the engine's batches, as they are asked for.

        Raises UsageError for a single path, picture or array instead of several.
        """
        if is_single(frames):
            raise UsageError(
                f"predict_many takes several pictures, not one {type(frames).__name__}.",
                advice="Put it into a list, or call predict.",
            )
        return self._predict_batches(iter(frames), channels)

    def stream(self, frames: Frames) -> Iterator[Answer]:
        """Classify frames as they come, each as soon as the one before it is answered.

        Several cameras share one classifier: each has a thread with a stream of its own. Frames that arrive as JPEGs
        are decoded as small as the network allows, as in training; damaged ones are counted by `frames`.
        """
        for frame in frames.decoded(self.preprocess.load):
            begin = time.monotonic()
            prediction = self.predict(frame.pixels, channels="rgb")
            yield Answer(frame, prediction, (time.monotonic() - begin) * 1e3, frame.age_ms)

    def _predict_batches(self, remaining: Iterator[Any], channels: Channels | None) -> Iterator[Prediction]:
        while batch := list(islice(remaining, self.batch)):
            yield from self._predict(batch, channels)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self.session.close()

    def __enter__(self) -> "Classifier":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _predict(self, frames: list[Any], channels: Channels | None) -> list[Prediction]:
        self._require_open()
        preprocess = self.preprocess if channels is None else replace(self.preprocess, channels=channels)
        fitted = [preprocess(frame) for frame in frames]
        images: Images = fitted[0][None] if len(fitted) == 1 else np.stack(fitted)
        with self._lock:
            self._require_open()
            answers = [part.copy() for part in self.session.run(images)]  # the engine's own memory
        return [self._answer(p, b) for p, b in zip(*answers, strict=True)]

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError("This classifier is closed.", advice="Predict before close(), or inside the with block.")

    def _answer(self, probabilities: Floats, branch_probabilities: Floats) -> Prediction:
        index = int(probabilities.argmax())
        probability = float(probabilities[index])
        if not math.isfinite(probability):
            raise GateFailed(
                f"The engine answers a picture with {probability}, which is no probability.",
                advice="Compile it with another precision, such as --precision fp32.",
            )
        entropy = -float(probabilities @ np.log(np.maximum(probabilities, 1e-12)))
        uncertainty = min(1.0, max(0.0, entropy / self._nats))
        found = probabilities, branch_probabilities
        return Prediction(self.labels[index], index, probability, uncertainty, *found, self.doubt)
