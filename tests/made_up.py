"""Profiles that nobody measured: every field filled, times drawn around what is asked."""

from pathlib import Path

import numpy as np
from fake_bundle import write_bundle, write_engine

from rrr_edge.bundle.baseline import percent
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import MANIFEST, Bundle
from rrr_edge.bundle.manifest import Manifest
from rrr_edge.bundle.measurements import (
    Alternative,
    Ceiling,
    Granularity,
    LayerTime,
    Load,
    Measurement,
    Ratio,
    Subject,
    ratio,
)
from rrr_edge.bundle.profile import ENGINE, PARTS, PHOTO, PREDICT, Profile, part_name
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.bundle.target import Target
from rrr_edge.bundle.verification import Accuracy, Verification
from rrr_edge.report.candidate import Candidate
from rrr_edge.timing.statistics import wilson_interval

RESNET152 = 58_184_788
RRR_NET = 8_034_120
MACS = 546_056_192
MS = 0.84
RUNS = 60
SPARSITIES = (0.1, 0.3, 0.5, 0.7, 0.86)
TARGET = Target(name="openvino", backend="openvino", precision="int8", threads=2)
HERE = Environment(
    machine_id="0123abcd",
    cpu="Imaginary 9000",
    isa=("avx2", "avx512_vnni"),
    governor="performance",
    quota=None,
    cores=2,
    threads=2,
    gpus=(),
    os="Linux",
    python="3.12.3",
    versions={"openvino": "2026.4.1"},
)
PARTS_MS = {"decode": 1.2, "resize": 0.5, "inference": 0.85, "post": 0.01}
# ms of a runtime's unpruned ResNet152, and how much of it pruning away everything would save.
RUNTIMES = {"pytorch fp32": 90.0, "openvino fp32": 37.0, "openvino int8": 12.0}
SAVED: dict[Granularity, float] = {"block": 0.99, "channel": 0.6, "element": 0.0}


def samples(ms: float, *, runs: int = RUNS, spread: float = 0.02, seed: int = 0) -> tuple[float, ...]:
    rng = np.random.default_rng([seed, round(ms * 1e6)])
    return tuple((ms * (1 + spread * (rng.gamma(4, 0.25, runs) - 1))).tolist())


def measurement(name: str, ms: float, *, spread: float = 0.02, runs: int = RUNS, **subject: object) -> Measurement:
    about = Subject.model_validate({"backend": "openvino", "precision": "int8", "threads": 2, **subject})
    return Measurement(name=name, subject=about, samples_ms=samples(ms, spread=spread, runs=runs))


def alternatives(own_ms: float) -> tuple[Alternative, ...]:
    """Rounds as `profile` makes them: one sparsity in one runtime, each a little slower than the one before it."""
    found = []
    for runtime, ms in RUNTIMES.items():
        backend, precision = runtime.split()
        for number, sparsity in enumerate(SPARSITIES):
            drift = 1 + 0.02 * number

            def timed(who: str, ms: float, **about: object) -> Measurement:
                subject = {"backend": backend, "precision": precision} | about  # noqa: B023
                return measurement(f"{who}, {runtime}", ms * drift, **subject)  # noqa: B023

            beside = f"beside {percent(sparsity)} %"
            whole = timed(f"baseline {beside}", ms, params=RESNET152, granularity="baseline", sparsity=0)
            pruned = [
                timed(
                    f"{name} {percent(sparsity)} %",
                    ms * (1 - saved * sparsity) * 1.01,
                    granularity=name,
                    sparsity=sparsity,
                    sparsity_asked=sparsity,
                )
                for name, saved in SAVED.items()
            ]
            if runtime == "openvino int8":
                pruned.append(timed(f"engine {beside}", own_ms, params=RRR_NET, sparsity=1 - RRR_NET / RESNET152))
            found += [Alternative(measurement=m, ratio=ratio(m, whole)) for m in (whole, *pruned)]
    return tuple(found)


def layers() -> tuple[LayerTime, ...]:
    shares = (("input", 0.02, 0), ("stump", 0.34, 4), ("conv4", 0.35, 6), ("conv5", 0.24, 5), ("heads", 0.02, 1))
    made = [
        LayerTime(
            name=f"{part}/conv{i}",
            kind="Convolution" if macs else "Convert",
            part=part,  # type: ignore[arg-type]
            precision="int8",
            ms=MS * 0.9 * share / 3,
            macs=macs * MACS // 48,
        )
        for part, share, macs in shares
        for i in range(3)
    ]
    return (*made, LayerTime(name="vote/mean", kind="Reduce", part="vote", precision="fp32", ms=0.003, macs=0))


def loads() -> tuple[Load, ...]:
    kinds = (
        ("paced", 25, 1.1, 25.0),
        ("cold start", 0, 180.0, 5.6),
        ("batch", 8, 5.2, 1540.0),
        ("streams", 2, 1.3, 1500.0),
    )
    return tuple(
        Load(kind=kind, setting=setting, measurement=measurement(f"{kind} {setting}", ms), images_per_second=rate)  # type: ignore[arg-type]
        for kind, setting, ms, rate in kinds
    )


def verification(accuracy: float, images: int) -> Verification:
    return Verification(
        against="torch",
        images=images,
        max_abs_diff=0.012,
        top1_agreement=0.995,
        log_cosine=0.9997,
        accuracy_reference=accuracy,
        accuracy=accuracy,
        passed=True,
    )


def profile(
    bundle: Bundle,
    *,
    ms: float = MS,
    accuracy: float | None = 0.94,
    spread: float = 0.02,
    baselines: dict[str, float] | None = None,
    target: Target = TARGET,
    **changes: object,
) -> Profile:
    """Of an engine that takes `ms`, beside ResNet152 as an INT8 engine and in PyTorch unless `baselines` are given."""
    images = 400
    own = {"params": RRR_NET, "macs": MACS, "size_mb": 8.3, "precision": target.precision}
    engine = measurement(ENGINE, ms, spread=spread, **own)
    whole = {"params": RESNET152, "macs": 3_758_923_776}
    named = {"ResNet152, openvino int8": 12.0, "ResNet152, PyTorch": 90.0} if baselines is None else baselines
    beside = [
        measurement(name, rival_ms, **{"backend": "pytorch", "precision": "fp32"} if "PyTorch" in name else {}, **whole)
        for name, rival_ms in named.items()
    ]
    ratios: tuple[Ratio, ...] = tuple(ratio(m, engine) for m in beside)
    right = round((accuracy or 0) * images)
    judged = Accuracy(
        images=images,
        correct=right,
        accuracy=right / images,
        interval=wilson_interval(right, images),
        calibration_error=0.03,
        per_class=dict.fromkeys(bundle.manifest.labels, right / images),
    )
    fields: dict[str, object] = {
        "bundle": bundle.manifest.name,
        "manifest_sha256": sha256(bundle.path / MANIFEST),
        "target": target,
        "environment": HERE,
        "precision_found": {"int8": 0.998, "fp32": 0.002},
        "accuracy": judged if accuracy is not None else None,
        "verification": verification(accuracy or 0, images),
        "measurements": (
            engine,
            measurement(PREDICT, ms + 0.01, **own),
            measurement(PHOTO, sum(PARTS_MS.values()) + 0.02, **own),
            *(measurement(part_name(part), PARTS_MS[part], **own) for part in PARTS),
            *beside,
        ),
        "ratios": ratios,
        "notes": (),
        "created": "2026-01-02T03:04:05Z",
    }
    return Profile.model_validate(fields | changes)


def full_profile(bundle: Bundle, *, ms: float = MS, **changes: object) -> Profile:
    """With everything that a profile can hold."""
    ceiling = Ceiling(precision="int8", gmacs_per_s=2500, interval=(2475, 2525), how="a large 1x1 convolution")
    everything = {"alternatives": alternatives(ms), "layers": layers(), "loads": loads(), "ceiling": ceiling}
    return profile(bundle, ms=ms, **everything | changes)  # type: ignore[arg-type]


def make_bundle(folder: Path, *, name: str = "mugs", labels: tuple[str, ...] = ("cup", "mug", "jug")) -> Bundle:
    bundle = write_bundle(folder)
    manifest = bundle.manifest.model_copy(update={"name": name, "labels": labels})
    manifest = manifest.model_copy(update={"spec": ResNetSpec(depths=(1, 1, 1, 1), num_classes=len(labels))})
    return rewrite(bundle, manifest)


def rewrite(bundle: Bundle, manifest: Manifest) -> Bundle:
    (bundle.path / MANIFEST).write_text(manifest.to_json())
    return Bundle.open(bundle.path)


def store(bundle: Bundle, profile: Profile) -> Candidate:
    """The engine's card and its profile on disk, as `profile_bundle` leaves them."""
    if profile.target.engine_name not in bundle.engine_names():
        write_engine(bundle, profile.target, ("model.xml", b"x"))
    folder = bundle.profile_folder(profile.target.engine_name)
    folder.mkdir(parents=True)
    profile = profile.write(folder)
    return Candidate(bundle, profile)
