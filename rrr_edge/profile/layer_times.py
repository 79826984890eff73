"""Where an engine's time goes, and how near it comes to the best that this machine reaches in the same precision."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from rrr_edge.backends import Backend, ProfiledSession
from rrr_edge.backends.protocols import Baseline
from rrr_edge.bundle.measurements import Ceiling, LayerTime, Measurement, Subject
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.bundle.target import Target
from rrr_edge.errors import MissingLibrary
from rrr_edge.profile.ceiling import convolution_shapes, measure_ceiling, noise_images
from rrr_edge.timing.progress import OnProgress

LAYERS = "engine, its layers clocked"
CEILING = "large convolutions"


class LayerTimes:
    """Rivals to be timed beside the engine, and what they tell once that is over."""

    def __init__(
        self, engine: ProfiledSession, ceiling: ProfiledSession | None, target: Target, note: str = ""
    ) -> None:
        self.notes = (note,) if note else ()
        self.images_computed = engine.images_computed
        self._target = target
        self._engine = _Profiled(engine)
        self._ceiling = _Profiled(ceiling, noise_images(target)) if ceiling else None
        subject = Subject(backend=target.backend, precision=target.precision, threads=target.threads)
        sessions = {LAYERS: self._engine, CEILING: self._ceiling}
        self.baselines = tuple(Baseline(name, session, subject) for name, session in sessions.items() if session)

    def layers(self, run_ms: float) -> tuple[LayerTime, ...]:
        """The engine's layers, each with its share of the runs in which they were clocked, times `run_ms`.

        So what clocking adds to a run is taken off all alike, and what is missing from `run_ms` lies between layers.
        """
        return self._engine.layers(run_ms)

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
            for layer in self._ceiling.layers(median)
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


class _Profiled:
    """A session that remembers how long all its runs took together, timed or not, as the layers' clocks do.

    With `images` of its own it takes those, whatever it is given.
    """

    def __init__(self, session: ProfiledSession, images: Images | None = None) -> None:
        self._session, self._images = session, images
        self._runs = self._spent_ns = 0

    def run(self, images: Images) -> Outputs:
        start = time.perf_counter_ns()
        outputs = self._session.run(images if self._images is None else self._images)
        self._spent_ns += time.perf_counter_ns() - start
        self._runs += 1
        return outputs

    def precision_found(self) -> dict[str, float]:
        return self._session.precision_found()

    def close(self) -> None:
        self._session.close()

    def layers(self, run_ms: float) -> tuple[LayerTime, ...]:
        scale = run_ms / (self._spent_ns / self._runs / 1e6)
        return tuple(layer.model_copy(update={"ms": layer.ms * scale}) for layer in self._session.layers())
