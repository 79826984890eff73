"""The settings of one profile: bundle, target, subject and timing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rrr_edge.backends import Backend, backend_of
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import Measurement, Subject
from rrr_edge.bundle.target import Target
from rrr_edge.timing.interleave import Interleaved, TimingSettings
from rrr_edge.timing.progress import OnProgress, silent


@dataclass(frozen=True)
class ProfileRun:
    """The engine of `bundle` for `target`, whose `threads` are the number that really runs.

    `subject` describes the engine in its measurements, `timing` is how it is timed.
    """

    bundle: Bundle
    target: Target
    subject: Subject
    timing: TimingSettings
    on_progress: OnProgress = silent

    @property
    def backend(self) -> Backend:
        return backend_of(self.target)

    @property
    def folder(self) -> Path:
        return self.bundle.engine_folder(self.target.engine_name)

    def measurement(
        self, name: str, samples_ms: Sequence[float], note: str, meanwhile: Interleaved | float | None
    ) -> Measurement:
        """With what other programs took `meanwhile`: in each of interleaved rounds, or of the cores' time in all."""
        rounds = meanwhile if isinstance(meanwhile, Interleaved) else None
        return Measurement(
            name=name,
            subject=self.subject.model_copy(update={"note": note}),
            samples_ms=tuple(samples_ms),
            loads=rounds.loads if rounds else (),
            background_load=rounds.background_load if rounds else meanwhile,
        )
