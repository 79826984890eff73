"""The times of an engine's layers, and the best rate of this machine in the same precision."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from rrr_edge.backends import Backend, ProfiledSession
from rrr_edge.backends.protocols import Baseline
from rrr_edge.bundle.measurements import Ceiling, LayerTime, Measurement, Subject
from rrr_edge.bundle.target import Target
from rrr_edge.errors import MissingLibrary
from rrr_edge.profile.ceiling import convolution_shapes, measure_ceiling, noise_images
from rrr_edge.profile.timed import TimedSession
from rrr_edge.timing.progress import OnProgress

LAYERS = "engine, its layers clocked"
CEILING = "large convolutions"


class LayerTimes:
    """Profiled sessions that are timed beside the engine, and the layers' times that follow from their runs."""

    def __init__(
        self, engine: ProfiledSession, ceiling: ProfiledSession | None, target: Target, note: str = ""
    ) -> None:
        self.notes = (note,) if note else ()
        self.images_computed = engine.images_computed
        self._target = target
        self._engine = TimedSession(engine)
        self._ceiling = TimedSession(ceiling, images=noise_images(target)) if ceiling else None
        subject = Subject(backend=target.backend, precision=target.precision, threads=target.threads)
        sessions = {LAYERS: self._engine, CEILING: self._ceiling}
        self.baselines = tuple(Baseline(name, session, subject) for name, session in sessions.items() if session)

    def layers(self, run_ms: float) -> tuple[LayerTime, ...]:
        """The engine's layers, each with its share of the runs in which they were clocked, times `run_ms`.

        So what clocking adds to a run is taken off all alike, and what is missing from `run_ms` lies between layers.
        """
        return _scaled(self._engine, run_ms)

    def ceiling(self, convolutions: Measurement | None) -> Ceiling | None:
        """From the timed runs of the large convolutions; the interval is that of their median.

        None where they could not be built, or the backend clocked none of them in the target's precision.
        """
        if self._ceiling is None or convolutions is None:
            return None
        median = convolutions.summary.median_ms
        low, high = convolutions.summary.median_interval_ms
        rates = {
            layer.macs / layer.ms / 1e6: layer.name
            for layer in _scaled(self._ceiling, median)
            if layer.macs and layer.precision == self._target.precision
        }
        if not rates:
            return None
        best = max(rates)
        shapes = [shape.name for shape in convolution_shapes(self._target)]
        shape = next((shape for shape in shapes if shape in rates[best]), rates[best])
        return Ceiling(
            precision=self._target.precision,
            gmacs_per_s=best,
            interval=(best * median / high, best * median / low),
            how=f"1x1 convolution, {shape}: the best of {len(shapes)} shapes, by the backend's own clock",
        )


@contextmanager
def profiling_layers(backend: Backend, folder: Path, target: Target, on_progress: OnProgress) -> Iterator[LayerTimes]:
    """Open the engine in `folder` and, where it can be built, one of large convolutions, with their layers clocked.

    Raises GateFailed where the large convolutions do not run in the target's precision.
    """
    with ExitStack() as stack:
        engine = stack.enter_context(closing(backend.open_profiled(folder, target)))
        ceiling, note = None, ""
        try:
            ceiling = stack.enter_context(measure_ceiling(backend, target, on_progress))
        except MissingLibrary as missing:
            note = f"What this machine does at best was not measured: {missing} {missing.advice}"
        yield LayerTimes(engine, ceiling, target, note)


def _scaled(timed: TimedSession[ProfiledSession], run_ms: float) -> tuple[LayerTime, ...]:
    """The layers' shares of all the session's runs, times `run_ms`."""
    scale = run_ms / timed.mean_ms
    return tuple(layer.model_copy(update={"ms": layer.ms * scale}) for layer in timed.session.layers())
