"""OpenVINO: engines for CPUs. INT8 by NNCF; the precision that runs is read from the compiled graph."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rrr_edge.backends.cache import cache_folder, forget_changed, forget_oldest, keep_hashes
from rrr_edge.backends.graph.parts import convolution_macs, part_of_node, product_macs
from rrr_edge.backends.openvino.library import last_line, load_openvino, settings
from rrr_edge.backends.openvino.quantised import GRAPH, VARIANTS, OpenVINOQuantised, write_graph
from rrr_edge.backends.openvino.rewrites import CONVOLUTIONS, shape_of, use_fast_kernels
from rrr_edge.backends.protocols import Signature, require_not_older, require_ports
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.external_data import require_self_contained
from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import ENGINE
from rrr_edge.bundle.measurements import LayerTime
from rrr_edge.bundle.quantisation import PLAIN, Quantisation
from rrr_edge.bundle.reference import Images, Outputs, in_batches
from rrr_edge.bundle.target import Precision, Target
from rrr_edge.errors import CannotRunHere, CorruptArtifact, is_lack_of_memory
from rrr_edge.timing.machine import cpu_info
from rrr_edge.timing.progress import OnProgress

WEIGHTS = "model.bin"
_CAPABILITIES: dict[Precision, str] = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
_NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_PRODUCTS = ("FullyConnected", "MatMul")
# OpenVINO cuts each run's time, and the mean of them, to whole microseconds.
_CUT_MS = 0.001


class OpenVINO:
    files = (GRAPH, WEIGHTS)
    caches = True
    variants = VARIANTS

    def preparation(self, target: Target) -> None:
        """It takes the bundle's own graph."""

    def versions(self) -> dict[str, str]:
        return {"openvino": load_openvino().__version__}

    def check(self, target: Target) -> None:
        core = load_openvino().Core()
        # To ask which devices there are takes four times as long as all else here.
        if target.device != "CPU" and target.device not in core.available_devices:
            raise CannotRunHere(
                f"OpenVINO sees no device {target.device!r} here; it sees {', '.join(core.available_devices)}.",
                advice=f"Change `device` in the target {target.name!r}.",
            )
        able = core.get_property(target.device, "OPTIMIZATION_CAPABILITIES")
        beside = target.quantisation if target.precision == "int8" else None
        for precision in (target.precision, *([beside.float_precision] if beside else [])):
            if _CAPABILITIES.get(precision) not in able:
                have = [name for name, word in _CAPABILITIES.items() if word in able]
                raise CannotRunHere(
                    f"This {target.device} ({cpu_info()[0]}) has no {precision} arithmetic.",
                    advice=f"Choose what it has with --precision: {', '.join(have)}.",
                )

    def require_fit(self, engine: Engine, *, repair: str) -> None:
        require_not_older(engine, self.versions(), repair=repair)

    def compile(self, model: Path, target: Target, calibration: Images, out: Path, on_progress: OnProgress) -> None:
        if target.precision == "int8":
            way = target.quantisation or PLAIN
            quantised = self.quantise(model, target, calibration, way, on_progress)
            quantised.write(way.float_layers, out)
        else:
            write_graph(_read(model, target), out / GRAPH)

    def quantise(
        self, model: Path, target: Target, calibration: Images, quantisation: Quantisation, on_progress: OnProgress
    ) -> OpenVINOQuantised:
        return OpenVINOQuantised(_read(model, target), target, calibration, quantisation, on_progress)

    def open(self, folder: Path, target: Target) -> "OpenVINOSession":
        return OpenVINOSession(folder / GRAPH, target)

    def open_profiled(self, folder: Path, target: Target) -> "OpenVINOSession":
        return OpenVINOSession(folder / GRAPH, target, profiled=True)


def _read(model: Path, target: Target) -> Any:
    """The graph in the file `model`, for batches as `target` says, in the layers that its device runs fastest."""
    openvino = load_openvino()
    require_self_contained(model)
    try:
        graph = openvino.Core().read_model(model)
    except RuntimeError as error:
        raise CorruptArtifact(
            f"OpenVINO {openvino.__version__} cannot read {model}: {last_line(error)}.",
            advice="Compress again, and leave the graph as it is written.",
        ) from error
    require_ports(model, *([port.any_name for port in ports] for ports in (graph.inputs, graph.outputs)))
    graph.reshape({0: [target.batch, *list(graph.input(0).partial_shape)[1:]]})
    if target.device == "CPU":
        use_fast_kernels(graph)
    return graph


class OpenVINOSession:
    """One inference request, one stream: the latency of a single camera."""

    def __init__(self, graph: Path, target: Target, *, profiled: bool = False) -> None:
        openvino = load_openvino()
        self._batch = self.images_computed = target.batch
        config = settings(target, profiled=profiled)
        try:
            compiled = _compile(openvino, graph, target.device, config)
        except (RuntimeError, OSError) as error:
            if is_lack_of_memory(error):
                raise
            raise CorruptArtifact(
                f"OpenVINO {openvino.__version__} cannot load {graph}: {last_line(error)}",
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
