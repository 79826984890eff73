"""Each layer's loss by quantisation, measured on calibration images and kept in the bundle as it is measured."""

import hashlib
import json
import time
from collections.abc import Sequence

import numpy as np

from rrr_edge.backends import backend_of
from rrr_edge.backends.build import takes_prepared
from rrr_edge.backends.protocols import Quantised
from rrr_edge.backends.tensorrt.prepare import modelopt_version
from rrr_edge.bundle.files import write_file
from rrr_edge.bundle.quantisation import PLAIN, Quantisation
from rrr_edge.bundle.reference import Floats, Images, Outputs
from rrr_edge.bundle.search import LayerLoss, SearchResult, SearchState
from rrr_edge.bundle.target import Lowering
from rrr_edge.compile.request import BuildRequest
from rrr_edge.errors import BadInput
from rrr_edge.timing.progress import Step

# Of the calibration images, spread over all of them. Their spread tells layers apart that differ by a tenth.
_IMAGES = 64
# The smallest probability of a float32 that is not denormal: a network may be that sure of the images it has learnt.
_FLOOR = 1e-37


class Searched:
    """What the search for an engine has measured, read from its bundle and written to it."""

    def __init__(self, request: BuildRequest, lowering: Lowering) -> None:
        self._file = request.bundle.search_state(request.target.engine_name, lowering)
        key = _key(request, lowering)
        self.state = SearchState(key=key)
        try:
            kept = SearchState.from_json_file(self._file) if self._file.is_file() else self.state
        except BadInput:  # it only costs time
            kept = self.state
        if kept.key == key:
            self.state = kept

    def losses(self, quantisation: Quantisation) -> tuple[LayerLoss, ...]:
        return self.state.layers if self.state.quantisation == quantisation else ()

    def result(self, request: BuildRequest) -> SearchResult | None:
        """What a search within the same limits came to, unless its time was up."""
        result, limits = self.state.result, self.state.limits
        same = limits and limits.model_copy(update={"search_minutes": request.limits.search_minutes}) == request.limits
        return result if result and same and result.stopped != "time" else None

    def keep(self, **found: object) -> None:
        self.state = self.state.model_copy(update=found)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_file(self._file, self.state.to_json())


def layer_losses(
    quantised: Quantised,
    quantisation: Quantisation,
    request: BuildRequest,
    searched: Searched,
    *,
    deadline: float = float("inf"),
) -> tuple[LayerLoss, ...]:
    """Each layer's loss where it alone is quantised, the most harmful first; at the `deadline`, those measured so far.

    What was measured before an interruption is taken from `searched`.
    """
    known = {loss.name: loss for loss in searched.losses(quantisation)}
    layers, images = quantised.layers, _spread(request.calibration)
    if all(layer.name in known for layer in layers):
        return _by_noise(list(known.values()))
    total = sum(layer.macs for layer in layers)
    names = [layer.name for layer in layers]
    whole = quantised.run(names, images)
    for number, layer in enumerate(layers):
        request.on_progress(Step("layers", number, len(layers), layer.name))
        if layer.name not in known:
            if time.monotonic() > deadline:
                break
            alone = quantised.run([name for name in names if name != layer.name], images)
            noise, flipped = _loss(whole, alone)
            known[layer.name] = LayerLoss(name=layer.name, macs_share=layer.macs / total, noise=noise, flipped=flipped)
            searched.keep(quantisation=quantisation, layers=tuple(known.values()))
    request.on_progress(Step("layers", len(layers), len(layers)))
    return _by_noise(list(known.values()))


def explain(request: BuildRequest, lowering: Lowering) -> tuple[LayerLoss, ...]:
    """The losses of all layers, quantised as the target asks or plainly. Of what is never quantised there are none."""
    quantiser = request.quantiser
    if quantiser is None:
        return ()
    searched, way = Searched(request, lowering), request.target.quantisation or PLAIN
    way = way.model_copy(update={"float_layers": (), "least_share": None})
    with request.lowered(lowering) as model:
        quantised = quantiser.quantise(model, request.target, request.calibration, way, request.on_progress)
        return layer_losses(quantised, way, request, searched)


def _loss(whole: Outputs, alone: Outputs) -> tuple[float, float]:
    """The root mean square change of the best two classes' log-ratio, and the share whose best class is another."""
    a, b = (_logs(outputs.probabilities) for outputs in (whole, alone))
    best = np.argsort(a, axis=1)[:, -2:]
    margins, after = (np.diff(np.take_along_axis(x, best, 1), axis=1)[:, 0] for x in (a, b))
    return float(np.sqrt(np.mean((after - margins) ** 2))), float((a.argmax(1) != b.argmax(1)).mean())


def _logs(probabilities: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(np.nan_to_num(probabilities.astype(np.float64)), _FLOOR)))


def _by_noise(losses: Sequence[LayerLoss]) -> tuple[LayerLoss, ...]:
    return tuple(sorted(losses, key=lambda loss: -loss.noise))


def _spread(images: Images) -> Images:
    places = np.linspace(0, len(images) - 1, min(_IMAGES, len(images))).round().astype(int)
    return np.asarray(images[places])


def _key(request: BuildRequest, lowering: Lowering) -> str:
    """A digest of all that the measurements follow from."""
    target = request.target
    versions = {} if takes_prepared(target) else backend_of(target).versions()
    follows_from = {
        "model": request.bundle.model_sha256,
        "reference": [file.sha256 for file in request.bundle.manifest.files if file.name == "reference.npz"],
        "target": target.model_dump(mode="json", exclude={"notes", "threads"}),
        "lowering": [lowering, *request.products] if request.products else lowering,
        "calibration": request.calibration_digest,
        "versions": {**versions, "modelopt": modelopt_version()},
    }
    return hashlib.sha256(json.dumps(follows_from, sort_keys=True).encode()).hexdigest()
