"""The build of a serialised engine from prepared.onnx, in the precision that the graph itself prescribes."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rrr_edge.backends.tensorrt.libraries import Libraries
from rrr_edge.backends.tensorrt.log import Log, log_to, without_driver
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere
from rrr_edge.timing.progress import OnProgress, Step


class Built(NamedTuple):
    """A serialised engine, and its layers as the builder lists them where its log is that detailed."""

    plan: bytes
    layers: str


def build(
    libraries: Libraries, model: Path, target: Target, configure: Callable[[Any], None], on_progress: OnProgress
) -> Built:
    """Build the engine of the ONNX file `model`; `configure` sets up the IBuilderConfig, and outlives the build.

    The batch ranges from 1 to the target's largest. Float means float: TensorFloat-32 is off.
    Raises CannotRunHere with every node that the parser cannot take, or with what the builder said last.
    """
    # What TensorRT only points at must live until the engine is built: logger, parser, monitor.
    trt, log = libraries.trt, Log()
    logger = log_to(trt, log)
    builder = trt.Builder(logger)
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    _parse(libraries, parser, model, log)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    configure(config)
    profile = builder.create_optimization_profile()
    image = network.get_input(0)
    side = tuple(image.shape)[1:]
    profile.set_shape(image.name, min=(1, *side), opt=(target.batch, *side), max=(target.largest_batch, *side))
    config.add_optimization_profile(profile)
    progress = BuildProgress(on_progress)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor

    with _signals_kept(progress):
        plan = builder.build_serialized_network(network, config)
    if progress.interruption is not None:
        raise progress.interruption
    if plan is None:
        raise CannotRunHere(f"{libraries.compiler} built no engine from {model}: {log.cause}.", advice=_advice(log))
    return Built(bytes(plan), log.layers)


def _parse(libraries: Libraries, parser: Any, model: Path, log: Log) -> None:
    if parser.parse_from_file(str(model)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = "; ".join(
        f"{error.node_name() or f'node {error.node()}'} ({error.node_operator()}): {without_driver(error.desc())}"
        for error in errors
    )
    raise CannotRunHere(
        f"{libraries.compiler} cannot take {len(errors)} of the nodes in {model}: {told or log.cause}.",
        advice="Report this with the version of the compiler; the other backends can run the bundle.",
    )


def _advice(log: Log) -> str:
    if log.out_of_memory:
        return "Free memory on the GPU (nvidia-smi shows who holds it), or lower `workspace_mb` in the target."
    return "Run it with -v, or report this with the versions of TensorRT and of the driver."


class BuildProgress:
    """Nested phases, each of so many steps, as one percentage of the outermost.

    A phase within another one fills the step that the other one is in. No exception may pass through TensorRT: what is
    raised meanwhile is kept in `interruption`, and the build is asked to stop.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self.interruption: BaseException | None = None
        self._report = on_progress
        self._lock = threading.Lock()
        self._phases: dict[str, list[int]] = {}
        self._percent = 0

    def start(self, phase: str, steps: int) -> None:
        with self._lock:
            self._phases[phase] = [0, max(1, steps)]
            self._tell(phase)

    def step(self, phase: str, step: int) -> bool:
        """Whether to go on."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase][0] = step + 1
            self._tell(phase)
            return self.interruption is None

    def finish(self, phase: str) -> None:
        with self._lock:
            self._phases.pop(phase, None)
            if not self._phases:
                self._percent = 100
            self._tell(phase)

    def _tell(self, phase: str) -> None:
        share, width = 0.0, 1.0
        for done, steps in self._phases.values():
            share += width * min(done, steps) / steps
            width /= steps
        # Phases may begin anew inside a step, but what was told is not taken back.
        self._percent = max(self._percent, min(99, int(100 * share)) if self._phases else 100)
        self.keep(lambda: self._report(Step("build", self._percent, 100, phase)))

    def keep(self, work: Callable[[], object]) -> None:
        """Do `work` and keep what it raises."""
        try:
            work()
        except BaseException as interruption:
            self.interruption = interruption


@contextmanager
def _signals_kept(progress: BuildProgress) -> Iterator[None]:
    """Python acts on a signal where it next runs at all, which during a build is at the head of TensorRT's calls."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    kept = {number: handler for number, handler in handlers.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread():
        kept = {}  # signals come to the main thread only
    for number, handler in kept.items():
        signal.signal(number, lambda *told, handler=handler: progress.keep(lambda: handler(*told)))
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _monitor(trt: Any, progress: BuildProgress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            progress.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
