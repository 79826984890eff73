"""The plan of a profile: what it would time, and for how long at least."""

import statistics
from importlib.util import find_spec

from rrr_edge.bundle.baseline import BaselineCard, Point
from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.profile import ENGINE, PHOTO, PREDICT
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.spec import TorchvisionSpec, source_spec
from rrr_edge.bundle.target import Target
from rrr_edge.profile.onnx_baselines import running, targets_beside
from rrr_edge.profile.request import Asked, Extras
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.interleave import TimingSettings, turn

_LOOKS = 10


class Plan(Record):
    """`seconds_at_least` is what the runs take if every network computes as many MACs a second as the engine does.

    Networks that have yet to be made or compiled, cold starts and streams come on top.
    """

    folder: str
    replaces: bool
    runs: int
    measures: tuple[str, ...]
    seconds_at_least: float

    @property
    def words(self) -> str:
        return "\n".join(
            (
                f"would {'replace' if self.replaces else 'write'} {self.folder}",
                f"{self.runs} runs of each, {self.seconds_at_least:,.0f} s at least; what has to be made comes on top",
                *(f"  {what}" for what in self.measures),
            )
        )


def plan_profile(bundle: Bundle, target: Target, asked: Asked, *, timing: TimingSettings, extras: Extras) -> Plan:
    """Time the engine for a moment, and reckon. Raises what a profile would refuse before it measures."""
    bundle.check()
    torch = find_spec("torch") is not None
    if asked.baseline and not torch:
        BaselineCard.read(bundle.baseline)
    with Classifier.open(bundle.path, target, precision=target.precision, threads=target.threads) as classifier:
        run = running(classifier.session, bundle.reference.images)
        own_ms = statistics.median(turn(run, look, timing).ms for look in range(_LOOKS))
    manifest, loads = bundle.manifest, extras.loads
    whole = Point(backbone=manifest.recipe.backbone)
    spec = source_spec(manifest.spec.num_classes, whole.backbone)
    # Of a classifier of torchvision's nothing is made but itself.
    macs = (manifest.cost if isinstance(spec, TorchvisionSpec) else cost(spec, manifest.preprocess.image_size)).macs
    whole_ms = own_ms * macs / manifest.cost.macs
    runtimes = [f"{beside.backend} {beside.precision}" for beside in targets_beside(target)]
    runtimes += ["PyTorch"] if torch else []
    ms = dict.fromkeys((ENGINE, PREDICT, PHOTO), own_ms)
    if asked.baseline:
        ms |= {f"{whole.words}, {runtime}": whole_ms for runtime in runtimes}
    if extras.anatomy:
        ms |= {"the engine's layers, clocked": own_ms, "large convolutions": own_ms}
    ms |= {f"batch of {size}": size * own_ms for size in loads.batches}
    for sparsity in asked.sparsities:
        points = [whole, *(Point(name, sparsity) for name in asked.granularities if sparsity)]
        beside = f"beside {sparsity:g}"
        ms |= {f"{p.words}, {r}, {beside}": whole_ms * (1 - p.sparsity) for r in runtimes for p in points}
    others = [f"{loads.fps:g} frames a second"] if loads.fps else []
    others += ["cold starts"] if loads.cold_starts else []
    others += [f"{count} streams" for count in loads.streams]
    return Plan(
        folder=str(bundle.profile_folder(target.engine_name)),
        replaces=target.engine_name in bundle.profile_names(),
        runs=timing.runs,
        measures=(*ms, *others),
        seconds_at_least=round(sum(_seconds(each, timing) for each in ms.values()), 1),
    )


def _seconds(ms: float, timing: TimingSettings) -> float:
    """Of a candidate whose run takes so many ms: its warm-up, and its rounds with what settles it."""
    warm_up = max(timing.warm_up_ms, 2 * timing.window * ms)
    return (warm_up + timing.runs * (ms + min(timing.settle_runs * ms, timing.settle_ms))) / 1000
