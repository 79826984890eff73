"""A loaded engine: pinned buffers, one CUDA graph for each number of images, and no torch."""

from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rrr_edge.backends.graph.parts import part_of_node
from rrr_edge.backends.tensorrt.cuda import Buffer, Stream
from rrr_edge.backends.tensorrt.layers import Layer, Products, Work, precision_shares, share_out
from rrr_edge.backends.tensorrt.libraries import Libraries
from rrr_edge.backends.tensorrt.log import Log, log_to
from rrr_edge.bundle.measurements import LayerTime
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.errors import CannotRunHere, CorruptArtifact

ENGINE_FILE = "model.engine"
PRODUCTS_FILE = "products.json"


class Loading(Protocol):
    """What is particular to one of the compilers when an engine of its is loaded."""

    def load(self, runtime: Any, plan: bytes) -> Any:
        """The engine `plan`, or None where `runtime` cannot load it. Raises CannotRunHere: another one was asked."""

    def context(self, engine: Any) -> Any:
        """An execution context, or None where there is no room for it."""

    def ready(self) -> None:
        """Told after the first run for each number of images, whose kernels are compiled by then."""

    def layers(self, information: str) -> list[Layer]:
        """The engine's layers in the inspector's JSON."""


class TensorRTSession:
    """One engine on one stream.

    `device_ms` is what the last run took on the device, uploads and downloads included; a caller's clock adds Python,
    the driver and the copy into pinned memory. A `clocked` session lets TensorRT time its layers, which graphs hide.
    """

    images_computed = 1

    def __init__(self, libraries: Libraries, folder: Path, loading: Loading, *, repair: str, profiled: bool) -> None:
        self.device_ms = 0.0
        self._libraries, self._loading = libraries, loading
        self._trt = trt = libraries.trt
        self._plan, self._repair = folder / ENGINE_FILE, repair
        self._products = Products.from_json_file(folder / PRODUCTS_FILE).products
        self._log = Log()
        self._logger = log_to(trt, self._log)
        self._clock = _LayerClock(trt) if profiled else None
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._load()
        self._names = self._tensor_names()
        _, _, largest = self._engine.get_tensor_profile_shape(self._names[0], 0)
        self._shape = tuple(largest)
        self._contexts = {self._shape[0]: self._context_for(self._shape[0])}
        self._work: dict[int, Callable[[], None]] = {}
        self._graphs: list[Any] = []
        self._buffers: dict[str, Buffer] = {}
        self._stream = Stream(libraries.cudart)
        self._until_closed = ExitStack()
        self._until_closed.callback(self._free)
        try:
            self._allocate()
        except CannotRunHere:
            self.close()
            raise

    def run(self, images: Images) -> Outputs:
        largest = self._shape[0]
        if len(images) <= largest:
            return self._answer(images)
        starts = range(0, len(images), largest)
        parts = [[part.copy() for part in self._answer(images[start : start + largest])] for start in starts]
        return Outputs(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def precision_found(self) -> dict[str, float]:
        return precision_shares(self._inspect())

    def layers(self) -> tuple[LayerTime, ...]:
        assert self._clock is not None
        found: list[LayerTime] = []
        for work in self._inspect():
            if ms := self._clock.mean_ms(work.layer.name):
                named = " ".join((work.layer.name, *work.layer.nodes))
                found.append(
                    LayerTime(
                        name=work.layer.name,
                        kind=work.layer.kind,
                        part=part_of_node(named, found[-1].part if found else "input"),
                        precision=work.precision,
                        ms=ms,
                        macs=work.macs,
                    )
                )
        return tuple(found)

    def close(self) -> None:
        self._until_closed.close()

    def _free(self) -> None:
        for graph in self._graphs:
            self._stream.forget(graph)
        for buffer in self._buffers.values():
            buffer.free()
        self._stream.free()
        self._work.clear()
        self._contexts.clear()
        del self._engine, self._runtime

    def _load(self) -> Any:
        engine = self._loading.load(self._runtime, self._plan.read_bytes())
        if engine is None:
            raise CannotRunHere(
                f"{self._libraries.compiler} cannot load {self._plan}: {self._log.cause}.",
                advice=f"Run: {self._repair}",
            )
        return engine

    def _tensor_names(self) -> tuple[str, ...]:
        """The input, then the outputs in our order. Raises CorruptArtifact where these are not a bundle's."""
        trt, engine = self._trt, self._engine
        types = {
            (name := engine.get_tensor_name(index)): engine.get_tensor_dtype(name)
            for index in range(engine.num_io_tensors)
        }
        inputs = [name for name in types if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        names = (*inputs[:1], *Outputs._fields)
        if types != dict(zip(names, (trt.DataType.UINT8, trt.DataType.FLOAT, trt.DataType.FLOAT), strict=False)):
            told = ", ".join(f"{name} {kind.name}" for name, kind in types.items())
            raise CorruptArtifact(
                f"{self._plan} is no engine of a bundle: its tensors are {told}.", advice=f"Run: {self._repair}"
            )
        return names

    def _context_for(self, count: int) -> Any:
        """A context with the shapes of `count` images."""
        context = self._loading.context(self._engine)
        if context is None:
            raise CannotRunHere(
                f"{self._libraries.compiler} cannot make room to run {self._plan}: {self._log.cause}.",
                advice="Free memory on the GPU: nvidia-smi shows who holds it.",
            )
        if self._clock is not None:
            context.profiler = self._clock.profiler
        if not context.set_input_shape(self._names[0], (count, *self._shape[1:])):
            raise CannotRunHere(f"{self._plan} takes no {count} images: {self._log.cause}.")
        return context

    def _allocate(self) -> None:
        for name in self._names:
            shape = tuple(self._contexts[self._shape[0]].get_tensor_shape(name))
            self._buffers[name] = Buffer(
                self._libraries.cudart, shape, np.uint8 if name == self._names[0] else np.float32
            )

    def _answer(self, images: Images) -> Outputs:
        count = len(images)
        if count not in self._work:
            self._work[count] = self._make_ready(count)
        image, *answers = (self._buffers[name].array[:count] for name in self._names)
        image[:] = images
        self.device_ms = self._stream.time_ms(self._work[count])
        return Outputs(*answers)

    def _make_ready(self, count: int) -> Callable[[], None]:
        """What a run of `count` images does. Each count has a context of its own: one with a graph must not change."""
        if count not in self._contexts:
            self._contexts[count] = self._context_for(count)
        context = self._contexts[count]
        for name, buffer in self._buffers.items():
            context.set_tensor_address(name, buffer.address)
        stream = self._stream
        image, *answers = (self._buffers[name] for name in self._names)

        def enqueue() -> None:
            if not context.execute_async_v3(int(stream.handle)):
                raise CannotRunHere(f"{self._libraries.compiler} cannot run {self._plan}: {self._log.cause}.")

        def work() -> None:
            image.upload(count, stream.handle)
            enqueue()
            for answer in answers:
                answer.download(count, stream.handle)

        if self._clock is not None:
            return work
        # The first run for a shape still makes room, which no graph can hold.
        enqueue()
        stream.wait()
        self._loading.ready()
        graph = stream.capture(work)
        self._graphs.append(graph)
        return lambda: stream.launch(graph)

    def _inspect(self) -> list[Work]:
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._contexts[self._shape[0]]  # types are told for a shape only
        information = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return share_out(self._products, self._loading.layers(information))


class _LayerClock:
    """The layers' times as TensorRT reports them after each run."""

    def __init__(self, trt: Any) -> None:
        self._total_ms: defaultdict[str, float] = defaultdict(float)
        self._runs: Counter[str] = Counter()
        clock = self

        class Profiler(trt.IProfiler):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                clock._total_ms[layer_name] += ms
                clock._runs[layer_name] += 1

        self.profiler = Profiler()

    def mean_ms(self, layer: str) -> float:
        return self._total_ms[layer] / max(1, self._runs[layer])
