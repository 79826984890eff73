"""A backend without an engine, for tests of apps that embed a Classifier, and for our own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from rrr_edge.backends.protocols import require_not_older
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.measurements import LayerTime
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CorruptArtifact
from rrr_edge.timing.progress import OnProgress

ENGINE_FILE = "fake.txt"


@dataclass
class Fake:
    """Answers with what `answer(images)` returns: a Backend, and the Session that it opens.

        classifier = Classifier(Fake.always([0.1, 0.9]), manifest)

    `precision` is what the session claims to run in, `clocked` what its layers are said to take. Every session counts
    the images it has seen in `seen`.
    """

    files: ClassVar[tuple[str, ...]] = ()
    caches: ClassVar[bool] = False
    answer: Callable[[Images], Outputs]
    precision: Mapping[str, float] = field(default_factory=lambda: {"fp32": 1.0})
    profiled: tuple[LayerTime, ...] = ()
    images_computed: int = 1
    seen: int = field(default=0, init=False)
    closed: bool = field(default=False, init=False)

    @classmethod
    def always(cls, probabilities: Sequence[float]) -> "Fake":
        """A network of one branch that gives every image the same `probabilities` [K]."""
        row = np.asarray(probabilities, np.float32)

        def answer(images: Images) -> Outputs:
            rows = np.tile(row, (len(images), 1))
            return Outputs(rows, rows[:, None])

        return cls(answer)

    def preparation(self, target: Target) -> None:
        """It takes the bundle's own graph."""

    def versions(self) -> dict[str, str]:
        return {"fake": "1"}

    def check(self, target: Target) -> None:
        """A fake runs everywhere."""

    def require_fit(self, engine: Engine, *, repair: str) -> None:
        require_not_older(engine, self.versions(), repair=repair)

    def compile(self, model: Path, target: Target, calibration: Images, out: Path, on_progress: OnProgress) -> None:
        (out / ENGINE_FILE).write_text(f"{target.name} {target.precision} {sha256(model)}\n")

    def open(self, folder: Path, target: Target) -> "Fake":
        """A session of its own. Raises CorruptArtifact where `compile` has not been."""
        if not (folder / ENGINE_FILE).is_file():
            raise CorruptArtifact(f"{folder} holds no fake engine.", advice="Compile it first.")
        return replace(self)

    def open_profiled(self, folder: Path, target: Target) -> "Fake":
        return self.open(folder, target)

    def run(self, images: Images) -> Outputs:
        """Raises what a real engine would: on a closed session, and on anything but uint8 [N, H, W, 3]."""
        if self.closed:
            raise RuntimeError("the session is closed")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"an engine takes uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
        self.seen += len(images)
        return self.answer(images)

    def precision_found(self) -> dict[str, float]:
        return dict(self.precision)

    def layers(self) -> tuple[LayerTime, ...]:
        return self.profiled

    def close(self) -> None:
        self.closed = True
