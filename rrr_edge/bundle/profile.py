"""The record of a profile, and its files: profile.json has the summaries, samples.csv every run."""

import math
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field

from rrr_edge.bundle.bounds import Bound
from rrr_edge.bundle.commands import profiling
from rrr_edge.bundle.engine import PairTime
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.evaluation import ReferenceComparison
from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import PROFILE
from rrr_edge.bundle.measurements import (
    Alternative,
    Ceiling,
    LayerTime,
    Load,
    Measurement,
    PartTime,
    Ratio,
    Summary,
    sum_up,
)
from rrr_edge.bundle.record import SCHEMA, SchemaVersion, Sealed, read_json
from rrr_edge.bundle.samples import SAMPLES, read_samples, write_samples
from rrr_edge.bundle.target import Target
from rrr_edge.bundle.verification import Accuracy, Verification
from rrr_edge.errors import BadInput, CorruptArtifact

ENGINE = "engine"
ON_DEVICE = f"{ENGINE}: on the device"
PREDICT = "Classifier.predict"
PHOTO = "photo to answer"
PARTS = ("decode", "resize", "inference", "post")


class Profile(Sealed):
    """How long an engine takes on one machine, and beside what.

    `ratios` are of each baseline to the engine; `bounds` stand in their place where other programs left too few quiet
    rounds for a ratio.

    The measurement "engine" is `Session.run` of one image, and "engine: on the device" the same runs by the device's
    own clock, where it has one; "Classifier.predict" is the same with a ready frame; "photo to answer" starts from a
    JPEG of 1280x720, and its parts are those of the very same runs. `layers` have the shares that the backend clocked
    of the engine's median; `profiling_overhead` (in JSON `clocking`) is how many times as long a run takes meanwhile,
    and `images_computed` how many images a run computes, the given one and those that fill up its batch.
    `pairs` are those of a factored network, as they were clocked when the engine was compiled with lowering = auto.
    `reference` is the bundle's reference network beside this engine, on the same test photos. `engine_sha256` is of the
    engine's card; older profiles do not have it. `samples_sha256` is of samples.csv as it is stored.
    """

    unsealed_before: ClassVar[str | None] = "samples_sha256"
    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge profile"] = "rrr-edge profile"
    bundle: str
    manifest_sha256: str
    engine_sha256: str = ""
    target: Target
    environment: Environment
    precision_found: dict[str, float]
    accuracy: Accuracy | None
    verification: Verification
    reference: ReferenceComparison | None = None
    measurements: tuple[Measurement, ...]
    ratios: tuple[Ratio, ...]
    bounds: tuple[Bound, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    loads: tuple[Load, ...] = ()
    layers: tuple[LayerTime, ...] = ()
    pairs: tuple[PairTime, ...] = ()
    images_computed: int = 1
    profiling_overhead: Ratio | None = Field(default=None, validation_alias="clocking", serialization_alias="clocking")
    ceiling: Ceiling | None = None
    notes: tuple[str, ...]
    created: str
    samples_sha256: str = ""

    @property
    def engine(self) -> Measurement:
        return self.measurement(ENGINE)

    @property
    def baselines(self) -> tuple[Measurement, ...]:
        own = (ENGINE, ON_DEVICE, PREDICT, PHOTO, *map(part_name, PARTS))
        return tuple(m for m in self.measurements if m.name not in own)

    @property
    def everything(self) -> tuple[Measurement, ...]:
        """All that was timed, each under a name of its own."""
        alternatives, loads = (
            (part.measurement for part in self.alternatives),
            (part.measurement for part in self.loads),
        )
        return (*self.measurements, *alternatives, *loads)

    @property
    def parts(self) -> tuple[PartTime, ...]:
        """Where the engine's time goes, and at what share of the ceiling; empty where its layers were not clocked."""
        work = self.images_computed
        layers = [layer.model_copy(update={"macs": layer.macs * work}) for layer in self.layers]
        macs = (self.engine.subject.macs or 0) * work
        return sum_up(layers, self.engine.summary.median_ms, macs, self.ceiling) if layers else ()

    @property
    def beyond_ceiling(self) -> str:
        """The parts that seem to compute faster than the machine does at best."""
        beyond = (part for part in self.parts if part.share is not None and part.share > 1)
        return ", ".join(part.part for part in beyond)

    def measurement(self, name: str) -> Measurement:
        return next(m for m in self.measurements if m.name == name)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Load what `write` wrote, samples included. Raises BadInput or CorruptArtifact."""
        samples = read_samples(folder / SAMPLES)
        try:
            data, text = read_json(folder / PROFILE)
            cls.require_sound(data, text, folder / PROFILE)
            nested = [m["measurement"] for part in ("alternatives", "loads") for m in data.get(part, ())]
            stored = [*data["measurements"], *nested]
            summaries = {m["name"]: m.pop("summary") for m in stored}
            for measurement in stored:
                measurement |= samples.get(measurement["name"], {"samples_ms": ()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadInput(f"{folder / PROFILE} cannot be read: {error}.") from error
        profile = cls.parse(data, str(folder / PROFILE))
        if profile.samples_sha256 and profile.samples_sha256 != sha256(folder / SAMPLES):
            raise CorruptArtifact(
                f"{folder / SAMPLES} has changed since it was written (its SHA-256 differs).",
                advice=f"Run: {profiling(folder.parent.parent, profile.target)}",
            )
        profile._require_ratios(folder / PROFILE)
        for measurement in profile.everything:
            # Not the bootstrap: another NumPy may draw differently.
            where = f"The summary of {measurement.name!r} in {folder / PROFILE}"
            found, said = measurement.summary, Summary.parse(summaries[measurement.name], where)
            if (found.runs, found.median_ms, found.min_ms) != (said.runs, said.median_ms, said.min_ms):
                raise CorruptArtifact(
                    f"The samples of {measurement.name!r} in {folder / SAMPLES} are not those that {PROFILE} sums up.",
                    advice=f"Run: {profiling(folder.parent.parent, profile.target)}",
                )
        return profile

    def write(self, folder: Path) -> Self:
        """Store what `read` reads; returns the profile as it is stored."""
        write_samples(folder / SAMPLES, self.everything)
        stored = self.model_copy(update={"samples_sha256": sha256(folder / SAMPLES)})
        (folder / PROFILE).write_text(stored.to_json(), "utf-8")
        return stored

    def _require_ratios(self, where: Path) -> None:
        """Raise CorruptArtifact where a ratio or a bound is not that of the samples which it names."""
        found_by = {m.name: m for m in self.everything}
        medians = {name: m.summary.median_ms for name, m in found_by.items()}
        for found in (*self.ratios, *(alternative.ratio for alternative in self.alternatives)):
            if {found.of, found.to} <= medians.keys():
                expected = medians[found.of] / medians[found.to]
                if not math.isclose(found.value, expected, rel_tol=1e-6):
                    raise CorruptArtifact(
                        f"{where} says that {found.of!r} takes {found.value:g} times as long as {found.to!r}; "
                        f"the samples say {expected:g}.",
                        advice=f"Run: {profiling(where.parent.parent.parent, self.target)}",
                    )
        for bound in self.bounds:
            if {bound.of, bound.to} <= medians.keys():
                a, b = found_by[bound.of], found_by[bound.to]
                if not any(bound.agrees_with(Bound.between(a, b, shared_cores=shared)) for shared in (False, True)):
                    raise CorruptArtifact(
                        f"{where} bounds how many times as long {bound.of!r} takes as {bound.to!r} otherwise than the "
                        "samples do.",
                        advice=f"Run: {profiling(where.parent.parent.parent, self.target)}",
                    )


def part_name(part: str) -> str:
    return f"{PHOTO}: {part}"
