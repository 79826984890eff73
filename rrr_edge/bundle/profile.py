"""What a profile found on one machine, and its files: profile.json has the summaries, samples.csv every run."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from rrr_edge.bundle.environment import Environment
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
from rrr_edge.bundle.record import SCHEMA, Record
from rrr_edge.bundle.target import Target
from rrr_edge.bundle.verification import Accuracy, Verification
from rrr_edge.errors import BadInput, CorruptArtifact
from rrr_edge.timing.statistics import Interval

SAMPLES = "samples.csv"

ENGINE = "engine"
ON_DEVICE = f"{ENGINE}: on the device"
PREDICT = "Classifier.predict"
PHOTO = "photo to answer"
PARTS = ("decode", "resize", "inference", "post")


class Profile(Record):
    """How long an engine takes on one machine, and beside what; `ratios` are of each baseline to the engine.

    The measurement "engine" is `Session.run` of one image, and "engine: on the device" the same runs by the device's
    own clock, where it has one; "Classifier.predict" is the same with a ready frame; "photo to answer" starts from a
    JPEG of 1280x720, and its parts are those of the very same runs. `layers` have the shares that the backend clocked
    of the engine's median; `profiling_overhead` (in JSON `clocking`) is how many times as long a run takes meanwhile,
    and `images_computed` how many images a run computes, the given one and those that fill up its batch.
    """

    schema_version: int = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge profile"] = "rrr-edge profile"
    bundle: str
    manifest_sha256: str
    target: Target
    environment: Environment
    precision_found: dict[str, float]
    accuracy: Accuracy | None
    verification: Verification
    measurements: tuple[Measurement, ...]
    ratios: tuple[Ratio, ...]
    alternatives: tuple[Alternative, ...] = ()
    loads: tuple[Load, ...] = ()
    layers: tuple[LayerTime, ...] = ()
    images_computed: int = 1
    profiling_overhead: Ratio | None = Field(default=None, validation_alias="clocking", serialization_alias="clocking")
    ceiling: Ceiling | None = None
    notes: tuple[str, ...]
    created: str

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
        """The parts that seem to compute faster than the machine does at best, with their shares of that."""
        beyond = (part for part in self.parts if part.share is not None and part.share > 1)
        return ", ".join(f"{part.part} {part.share:.0%}" for part in beyond)

    def measurement(self, name: str) -> Measurement:
        return next(m for m in self.measurements if m.name == name)

    def tables(self) -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
        """A title and a table for each thing that was asked; the first is `table` and has no title."""
        yield "", self.table()
        yield "What was run", self.networks()
        if self.parts:
            best = f", of {self.ceiling.gmacs_per_s:,.0f} GMAC/s that this machine reaches" if self.ceiling else ""
            rows = (_part_row(part, self.engine.summary.median_ms) for part in self.parts)
            yield f"Where the engine's time goes{best}", (_PARTS_HEADER, *rows)
        if self.loads:
            yield "Under load", (_LOADS_HEADER, *map(_load_row, self.loads))
        if self.alternatives:
            yield "ResNet152 pruned, times the unpruned network's", self._sweep_table()

    def _sweep_table(self) -> tuple[tuple[str, ...], ...]:
        """A header and a row for each granularity and sparsity, with its times in each runtime over the unpruned's.

        The first row has the unpruned network's own median in ms; a tilde marks what was unstable.
        """
        runtimes = list(dict.fromkeys(a.measurement.subject.runtime for a in self.alternatives))
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for alternative in self.alternatives:
            subject = alternative.measurement.subject
            gone = f"{subject.sparsity:.1%}" if subject.sparsity else ""
            # The unpruned network and the engine are in several rounds; the first is shown.
            rows.setdefault((subject.granularity or ENGINE, gone), {}).setdefault(subject.runtime, _cell(alternative))
        order = ("baseline", ENGINE, "element", "channel", "block")
        return (
            ("", "parameters gone", *runtimes),
            *(
                (name, gone, *(cells.get(runtime, "") for runtime in runtimes))
                for (name, gone), cells in sorted(rows.items(), key=lambda row: order.index(row[0][0]))
            ),
        )

    def table(self) -> tuple[tuple[str, ...], ...]:
        """A header and the times of each measurement; a tilde marks what was unstable, parts are indented."""
        ratios = {r.of: f"{_short(r.value, 3)}  {_span(r.interval, 3)}" for r in self.ratios}
        return (
            ("", "median ms", "95 % interval", "times the engine's"),
            *(
                (
                    _row_name(m),
                    f"{'~' if m.summary.unstable else ''}{m.summary.median_ms:.3f}",
                    _span(m.summary.median_interval_ms, 4),
                    ratios.get(m.name, ""),
                )
                for m in self.measurements
            ),
        )

    def networks(self) -> tuple[tuple[str, ...], ...]:
        """A header and what is known of the engine and of each network beside it."""
        accuracy = f"{self.verification.accuracy:.1%}" if self.accuracy else ""
        return (
            ("", "MB", "params", "MACs", "accuracy"),
            *(
                (
                    _row_name(m),
                    "" if m.subject.size_mb is None else f"{m.subject.size_mb:.1f}",
                    "" if m.subject.params is None else f"{m.subject.params / 1e6:.2f} M",
                    "" if m.subject.macs is None else f"{m.subject.macs / 1e6:,.0f} M",
                    accuracy if m.name == ENGINE else "",
                )
                for m in (self.engine, *self.baselines)
            ),
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Load what `write` wrote, samples included. Raises BadInput or CorruptArtifact."""
        samples = _read_samples(folder / SAMPLES)
        try:
            data = json.loads((folder / PROFILE).read_text("utf-8"))
            nested = [m["measurement"] for part in ("alternatives", "loads") for m in data.get(part, ())]
            stored = [*data["measurements"], *nested]
            summaries = {m["name"]: m.pop("summary") for m in stored}
            for measurement in stored:
                measurement["samples_ms"] = samples.get(measurement["name"], ())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{folder / PROFILE} cannot be read: {error}.") from error
        profile = cls.parse(data, str(folder / PROFILE))
        for measurement in profile.everything:
            # Not the bootstrap: another NumPy may draw differently.
            where = f"The summary of {measurement.name!r} in {folder / PROFILE}"
            found, said = measurement.summary, Summary.parse(summaries[measurement.name], where)
            if (found.runs, found.median_ms, found.min_ms) != (said.runs, said.median_ms, said.min_ms):
                raise CorruptArtifact(
                    f"The samples of {measurement.name!r} in {folder / SAMPLES} are not those that {PROFILE} sums up.",
                    advice="Run rrr-edge profile again.",
                )
        return profile

    def write(self, folder: Path) -> None:
        """What `read` reads."""
        with (folder / SAMPLES).open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("candidate", "round", "ms"))
            for m in self.everything:
                rows.writerows((m.name, round_, repr(ms)) for round_, ms in enumerate(m.samples_ms))
        (folder / PROFILE).write_text(self.to_json(), "utf-8")


def part_name(part: str) -> str:
    return f"{PHOTO}: {part}"


def _row_name(measurement: Measurement) -> str:
    if measurement.name == ENGINE:
        return f"{ENGINE}, {measurement.subject.runtime}"
    return measurement.name.replace(f"{PHOTO}: ", "  ")


def _span(interval: Interval, digits: int) -> str:
    low, high = interval
    return f"{_short(low, digits)} to {_short(high, digits)}"


def _short(value: float, digits: int) -> str:
    """So many digits, where some are left of the point."""
    return f"{value:,.{max(0, digits - len(str(int(value))))}f}"


_PARTS_HEADER = ("", "ms", "of the run", "MACs", "GMAC/s", "of the ceiling")


def _part_row(part: PartTime, run_ms: float) -> tuple[str, ...]:
    computes = bool(part.macs and part.ms)
    return (
        part.part,
        f"{part.ms:.3f}",
        f"{part.ms / run_ms:.1%}",
        f"{part.macs / 1e6:,.1f} M" if computes else "",
        f"{part.macs / part.ms / 1e6:,.1f}" if computes else "",
        f"{part.share:.1%}" if part.share is not None else "",
    )


_LOADS_HEADER = ("", "median ms", "p95 ms", "max ms", "images/s", "late", "dropped", "what is timed")


def _load_row(load: Load) -> tuple[str, ...]:
    summary = load.measurement.summary
    times = (summary.median_ms, summary.p95_ms, max(load.measurement.samples_ms))
    unmet = (str(load.late), str(load.dropped)) if load.kind == "paced" else ("", "")
    words = (*(f"{ms:.3f}" for ms in times), f"{load.images_per_second:,.1f}", *unmet, load.measurement.subject.note)
    return (load.measurement.name, *words)


def _cell(alternative: Alternative) -> str:
    summary, ratio = alternative.measurement.summary, alternative.ratio
    doubt = "~" if summary.unstable else ""
    if ratio.of == ratio.to:
        return f"{doubt}{summary.median_ms:.2f} ms"
    return f"{doubt}{ratio.value:.2f}  {ratio.interval[0]:.2f} to {ratio.interval[1]:.2f}"


def _read_samples(path: Path) -> dict[str, tuple[float, ...]]:
    samples: dict[str, list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                samples.setdefault(row["candidate"], []).append(float(row["ms"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error
    return {name: tuple(values) for name, values in samples.items()}
