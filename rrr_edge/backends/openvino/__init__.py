"""OpenVINO: engines for CPUs. INT8 by NNCF; the precision that runs is read from the compiled graph."""

import logging
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rrr_edge.backends.cache import cache_folder, forget_changed, forget_oldest, keep_hashes
from rrr_edge.backends.graph.parts import convolution_macs, part_of_node, product_macs
from rrr_edge.backends.openvino.rewrites import (
    CONVOLUTIONS,
    fold_constants,
    fuse_residual_add,
    shape_of,
    unit_quantisation_steps,
    use_fast_kernels,
)
from rrr_edge.backends.protocols import Signature, require_not_older, require_ports
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.external_data import require_self_contained
from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import ENGINE
from rrr_edge.bundle.measurements import LayerTime
from rrr_edge.bundle.reference import Images, Outputs, in_batches
from rrr_edge.bundle.target import Precision, Target
from rrr_edge.errors import CannotRunHere, CorruptArtifact, MissingLibrary, is_lack_of_memory
from rrr_edge.timing.machine import cpu_info, threads_to_use
from rrr_edge.timing.progress import OnProgress, Step, quiet

GRAPH = "model.xml"
WEIGHTS = "model.bin"
# What the layers that are not quantised run in; unset, OpenVINO chooses bf16 by itself where the CPU has it.
_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
_CAPABILITIES: dict[Precision, str] = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
_NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_PRODUCTS = ("FullyConnected", "MatMul")
# OpenVINO cuts each run's time, and the mean of them, to whole microseconds.
_CUT_MS = 0.001


class OpenVINO:
    files = (GRAPH, WEIGHTS)
    caches = True

    def preparation(self, target: Target) -> None:
        """It takes the bundle's own graph."""

    def versions(self) -> dict[str, str]:
        return {"openvino": _openvino().__version__}

    def check(self, target: Target) -> None:
        core = _openvino().Core()
        if target.device not in core.available_devices:
            raise CannotRunHere(
                f"OpenVINO sees no device {target.device!r} here; it sees {', '.join(core.available_devices)}.",
                advice=f"Change `device` in the target {target.name!r}.",
            )
        able = core.get_property(target.device, "OPTIMIZATION_CAPABILITIES")
        if _CAPABILITIES.get(target.precision) not in able:
            have = [name for name, word in _CAPABILITIES.items() if word in able]
            raise CannotRunHere(
                f"This {target.device} ({cpu_info()[0]}) has no {target.precision} arithmetic.",
                advice=f"Choose what it has with --precision: {', '.join(have)}.",
            )

    def require_fit(self, engine: Engine, *, repair: str) -> None:
        require_not_older(engine, self.versions(), repair=repair)

    def compile(self, model: Path, target: Target, calibration: Images, out: Path, on_progress: OnProgress) -> None:
        openvino = _openvino()
        require_self_contained(model)
        try:
            graph = openvino.Core().read_model(model)
        except RuntimeError as error:
            raise CorruptArtifact(
                f"OpenVINO {openvino.__version__} cannot read {model}: {_last_line(error)}.",
                advice="Compress again, and leave the graph as it is written.",
            ) from error
        require_ports(model, *([port.any_name for port in ports] for ports in (graph.inputs, graph.outputs)))
        graph.reshape({0: [target.batch, *list(graph.input(0).partial_shape)[1:]]})
        on_cpu = target.device == "CPU"
        if on_cpu:
            use_fast_kernels(graph)
        if target.precision == "int8":
            # NNCF scales grouped kernels that are still a Reshape by column too; OpenVINO would run those in fp32.
            fold_constants(graph)
            if on_cpu:
                fuse_residual_add(graph)
            graph = _quantise(graph, calibration, target.batch, on_progress)
            if on_cpu:
                unit_quantisation_steps(graph)
        try:
            openvino.save_model(graph, out / GRAPH, compress_to_fp16=False)
        except RuntimeError as error:
            raise CannotRunHere(
                f"OpenVINO cannot write {out / GRAPH}: {_last_line(error)}.",
                advice="See that the disk has room and the folder may be written, and run again.",
            ) from error

    def open(self, folder: Path, target: Target) -> "OpenVINOSession":
        return OpenVINOSession(folder / GRAPH, target)

    def open_profiled(self, folder: Path, target: Target) -> "OpenVINOSession":
        return OpenVINOSession(folder / GRAPH, target, profiled=True)


class OpenVINOSession:
    """One inference request, one stream: the latency of a single camera."""

    def __init__(self, graph: Path, target: Target, *, profiled: bool = False) -> None:
        openvino = _openvino()
        self._batch = self.images_computed = target.batch
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": threads_to_use(target.threads),
            # Pinned, two sessions of one thread each would share the first core, and threads wait for whatever else
            # runs on theirs. On a quiet machine of two cores both ways are equally fast.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": _HINTS[target.precision],
            "PERF_COUNT": profiled,
        }
        try:
            compiled = _compile(openvino, graph, target.device, config)
        except (RuntimeError, OSError) as error:
            if is_lack_of_memory(error):
                raise
            raise CorruptArtifact(
                f"OpenVINO {openvino.__version__} cannot load {graph}: {_last_line(error)}",
                advice="Compile the engine again with this OpenVINO.",
            ) from error
        require_ports(graph, *([port.any_name for port in ports] for ports in (compiled.inputs, compiled.outputs)))
        self.signature = Signature(*(_shape(port) for port in (*compiled.inputs, *compiled.outputs)))
        if self.signature.images[0] != self._batch:
            raise CorruptArtifact(
                f"{graph} is for batches of {self.signature.images[0]}, not of {self._batch} as its card says.",
                advice="Compile the engine again.",
            )
        request = compiled.create_infer_request()
        answers = tuple(request.get_output_tensor(i).data for i in range(2))
        self._loaded: _Loaded | None = _Loaded(compiled, request, request.get_input_tensor(0).data, answers)

    def run(self, images: Images) -> Outputs:
        if len(images) == self._batch:
            return self._infer(images)
        found = in_batches(lambda chunk: self._infer(_filled_up(chunk, self._batch)), images, self._batch)
        return Outputs(*(part[: len(images)] for part in found))

    def precision_found(self) -> dict[str, float]:
        macs: Counter[str] = Counter()
        for layer in self._open.compiled.get_runtime_model().get_ops():
            macs[_precision(layer)] += _macs(layer)
        return {precision: count / macs.total() for precision, count in macs.items() if count}

    def layers(self) -> tuple[LayerTime, ...]:
        profiled = {i.node_name: i.real_time.total_seconds() * 1000 for i in self._open.request.get_profiling_info()}
        found: list[LayerTime] = []
        for layer in self._open.compiled.get_runtime_model().get_ordered_ops():
            name, info = layer.get_friendly_name(), layer.get_rt_info()
            if ms := profiled.get(name, 0.0):
                origin = info["originalLayersNames"].astype(str)
                found.append(
                    LayerTime(
                        name=origin.partition(",")[0] or name,
                        kind=info["layerType"].astype(str),
                        part=part_of_node(origin, found[-1].part if found else "input"),
                        precision=_precision(layer),
                        ms=ms + _CUT_MS,
                        macs=_macs(layer),
                    )
                )
        return tuple(found)

    def close(self) -> None:
        self._loaded = None

    @property
    def _open(self) -> "_Loaded":
        if self._loaded is None:
            raise RuntimeError("the session is closed")
        return self._loaded

    def _infer(self, images: Images) -> Outputs:
        loaded = self._open
        loaded.images[:] = images
        loaded.request.infer()
        return Outputs(*loaded.answers)


class _Loaded(NamedTuple):
    """`images` and `answers` are the memory of the request's own tensors."""

    compiled: Any
    request: Any
    images: Any
    answers: tuple[Any, ...]


def _compile(openvino: Any, graph: Path, device: str, config: dict[str, Any]) -> Any:
    """The engine, from the cache where there is one that works: what is damaged or full only costs time."""
    core, cache = openvino.Core(), cache_folder("openvino")
    if cache is not None:
        with suppress(RuntimeError, OSError, CannotRunHere):
            folder = cache / _content(graph)
            forget_changed(folder)
            compiled = core.compile_model(str(graph), device, {**config, "CACHE_DIR": str(folder)})
            keep_hashes(folder)
            forget_oldest(cache.glob("*/*.blob"))
            return compiled
    return core.compile_model(str(graph), device, config)


def _content(graph: Path) -> str:
    """A name for what is in the engine, of whose weights OpenVINO's own key says nothing.

    Its card, which was checked, has the hashes of its files; an engine without one is for this process only.
    """
    card = graph.with_name(ENGINE)
    return sha256(card) if card.is_file() else sha256(graph)[:32] + sha256(graph.with_name(WEIGHTS))[:32]


def _quantise(graph: Any, calibration: Images, batch: int, on_progress: OnProgress) -> Any:
    nncf = _nncf()
    samples = [np.repeat(image[None], batch, 0) for image in calibration]
    seen = 0

    def feed(sample: Images) -> Images:
        nonlocal seen
        seen += 1
        on_progress(Step("calibrate", min(seen, len(samples)), len(samples)))
        return sample

    # 256 steps of a probability are too few to say how sure an answer is.
    vote = [result.input_value(0).get_node().get_friendly_name() for result in graph.get_results()]
    with quiet():
        return nncf.quantize(
            graph, nncf.Dataset(samples, feed), subset_size=len(samples), ignored_scope=nncf.IgnoredScope(names=vote)
        )


def _nncf() -> Any:
    """NNCF, which tells of errors only."""
    # Where torch is installed NNCF loads it, and torch would report on a CUDA that nobody asked for.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        with quiet():
            import nncf
    except ImportError as error:
        raise MissingLibrary("nncf", extra="quantize", purpose="INT8 for OpenVINO") from error
    nncf.set_log_level(logging.ERROR)
    return nncf


def _filled_up(images: Images, batch: int) -> Images:
    """To a whole batch, with the last image."""
    lacking = batch - len(images)
    return np.concatenate([images, np.repeat(images[-1:], lacking, 0)]) if lacking else images


def _shape(port: Any) -> tuple[int | None, ...]:
    return tuple(side.get_length() if side.is_static else None for side in port.partial_shape)


def _precision(layer: Any) -> str:
    word: str = layer.get_rt_info()["runtimePrecision"].astype(str)
    return _NAMES.get(word, word)


def _macs(layer: Any) -> int:
    """Multiply-accumulates of one image; 0 for layers that have none."""
    kind = layer.get_rt_info()["layerType"].astype(str)
    if kind in CONVOLUTIONS:
        return convolution_macs(shape_of(layer.output(0)), shape_of(layer.input(1)))
    return product_macs(shape_of(layer.output(0)), shape_of(layer.input(0))) if kind in _PRODUCTS else 0


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].rstrip(".")


def _openvino() -> Any:
    # Both OpenVINO and NNCF load Intel's telemetry when they are imported; where its import fails they do without.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise MissingLibrary("openvino", extra="openvino", purpose="The openvino backend") from error
    return openvino
