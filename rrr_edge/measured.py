"""What a profile found on one machine, and its files: profile.json has the summaries, samples.csv every run."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from rrr_edge.anatomy import Alternative, Ceiling, LayerTime, Load, PartTime, sum_up
from rrr_edge.bundle import PROFILE, SCHEMA, Accuracy, Verification
from rrr_edge.errors import BadInput, CorruptArtifact
from rrr_edge.measurement import Environment, Measurement, Ratio
from rrr_edge.record import Record
from rrr_edge.target import Target

SAMPLES = "samples.csv"

ENGINE = "engine"
PREDICT = "Classifier.predict"
PHOTO = "photo to answer"
PARTS = ("decode", "resize", "inference", "post")


class Profile(Record):
    """How long an engine takes on one machine, and beside what; `ratios` are of each baseline to the engine.

    The measurement "engine" is `Session.run` of one image; "Classifier.predict" the same with a ready frame; "photo
    to answer" starts from a JPEG of 1280x720, and its parts are those of the very same runs. `layers` have the shares
    that the backend clocked of the engine's median; `clocking` is how many times as long a run takes meanwhile.
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
    clocking: Ratio | None = None
    ceiling: Ceiling | None = None
    notes: tuple[str, ...]
    created: str

    @property
    def engine(self) -> Measurement:
        return self.measurement(ENGINE)

    @property
    def baselines(self) -> tuple[Measurement, ...]:
        return tuple(m for m in self.measurements if m.name not in (ENGINE, PREDICT, PHOTO, *map(part_name, PARTS)))

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
        work = self.target.batch
        layers = [layer.model_copy(update={"macs": layer.macs * work}) for layer in self.layers]
        return sum_up(layers, self.engine.summary.median_ms, self.ceiling) if layers else ()

    def measurement(self, name: str) -> Measurement:
        return next(m for m in self.measurements if m.name == name)

    def table(self) -> tuple[tuple[str, ...], ...]:
        """A header and a row for each measurement, as words to be printed."""
        ratios = {r.of: f"{r.value:.1f}  {r.interval[0]:.1f} to {r.interval[1]:.1f}" for r in self.ratios}
        accuracy = f"{self.verification.accuracy:.1%}" if self.accuracy else ""
        return (
            _HEADER,
            *(_row(m, ratios.get(m.name, ""), accuracy if m.name == ENGINE else "") for m in self.measurements),
        )

    def tables(self) -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
        """A title and a table for each thing that was asked; the first is `table` and has no title."""
        yield "", self.table()
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
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{folder / PROFILE} cannot be read: {error}.") from error
        profile = cls.parse(data, str(folder / PROFILE))
        for measurement in profile.everything:
            # Not the bootstrap: another NumPy may draw differently.
            found, said = measurement.summary, summaries[measurement.name]
            if (found.runs, found.median_ms, found.min_ms) != (said["runs"], said["median_ms"], said["min_ms"]):
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


_HEADER = ("", "median ms", "95 % interval", "times the engine's", "photos/s", "MB", "params", "MACs", "accuracy")


def _row(measurement: Measurement, times: str, accuracy: str) -> tuple[str, ...]:
    """Parts are indented and have times alone; a tilde marks what was unstable."""
    subject, summary = measurement.subject, measurement.summary
    low, high = summary.median_interval_ms
    median = f"{'~' if summary.unstable else ''}{summary.median_ms:.3f}"
    interval = f"{low:.3f} to {high:.3f}"
    if measurement.name in map(part_name, PARTS):
        return (f"  {measurement.name.removeprefix(PHOTO + ': ')}", median, interval, *("",) * 6)
    return (
        f"{ENGINE}, {subject.backend} {subject.precision}" if measurement.name == ENGINE else measurement.name,
        median,
        interval,
        times,
        f"{measurement.images_per_second:,.0f}",
        f"{subject.size_mb:.1f}" if subject.size_mb is not None else "",
        f"{subject.params / 1e6:.2f} M" if subject.params is not None else "",
        f"{subject.macs / 1e6:,.0f} M" if subject.macs is not None else "",
        accuracy,
    )


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
