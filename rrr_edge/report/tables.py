"""The tables of a profile: headers and rows of words, for the terminal, HTML and Markdown alike."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.evaluation import ReferenceComparison
from rrr_edge.bundle.measurements import Alternative, Load, Measurement, PartTime, Subject
from rrr_edge.bundle.profile import ENGINE, PHOTO, Profile
from rrr_edge.report.candidate import Candidate
from rrr_edge.report.words import title_of
from rrr_edge.timing.statistics import Interval


class Table(NamedTuple):
    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def tables_of(profile: Profile) -> Iterator[Table]:
    """A table for each thing that was asked; the first is `times` and has no caption."""
    yield times(profile)
    yield networks(profile)
    if profile.parts:
        best = f", of {profile.ceiling.gmacs_per_s:,.0f} GMAC/s that this machine reaches" if profile.ceiling else ""
        rows = [_part_row(part, profile.engine.summary.median_ms) for part in profile.parts]
        header = ("", "ms", "of the run", "MACs", "GMAC/s", "of the ceiling")
        yield Table(f"Where the engine's time goes{best}", header, rows)
    if profile.pairs:
        yield _pairs(profile)
    if profile.loads:
        columns = ("", "median ms", "p95 ms", "max ms", "images/s", "late", "dropped", "what is timed")
        caption = "Under load, each on its own after the rounds above"
        yield Table(caption, columns, [_load_row(load) for load in profile.loads])
    if profile.alternatives:
        yield _sweep(profile)


def _pairs(profile: Profile) -> Table:
    """What each pair of convolutions gains over its product; those that gain nothing may be written as one."""
    rows = [
        (pair.name, f"{pair.pair_ms:.4f}", f"{pair.product_ms:.4f}", f"{pair.gain_ms:+.4f}") for pair in profile.pairs
    ]
    total = sum(max(0.0, pair.gain_ms) for pair in profile.pairs)
    beside = "" if all(pair.quiet for pair in profile.pairs) else " beside other programs, which may be far off"
    caption = (
        f"Pairs of convolutions beside their products, when the engine was compiled{beside}: {total:.3f} ms gained at "
        "best"
    )
    return Table(caption, ("convolution", "pair, ms", "as one, ms", "gain, ms"), rows)


def times(profile: Profile) -> Table:
    """The times of each measurement; a tilde marks what was unstable, parts are indented.

    Where the machine was too busy for a ratio there is what is known of it, or a question mark.
    """
    ratios = {r.of: f"{_short(r.value, 3)}  {_span(r.interval, 3)}" for r in profile.ratios}
    ratios |= {b.of: b.words.removesuffix(" times") or "?" for b in profile.bounds}
    rows = [
        (
            _row_name(m),
            f"{_doubt(m)}{m.summary.median_ms:.3f}",
            _span(m.summary.median_interval_ms, 4),
            ratios.get(m.name, ""),
        )
        for m in profile.measurements
    ]
    return Table("", ("", "median ms", "95% interval", "times the engine's"), rows)


def networks(profile: Profile) -> Table:
    """What is known of the engine and of each network beside it.

    The others have random weights; the accuracy of a reference network stands where it is the same network in FP32, or
    else in a row of its own, with the paired difference of the engine's accuracy to it.
    """
    accuracy = f"{profile.verification.accuracy:.1%}" if profile.accuracy else ""
    reference = profile.reference
    compared = (f"{reference.accuracy:.1%}", reference.paired.short) if reference else ("", "")
    rows, placed = [], False
    for m in (profile.engine, *profile.baselines):
        subject = m.subject
        same = reference is not None and m.name != ENGINE and is_network_of(subject, reference)
        placed |= same
        judged = compared if same else (accuracy if m.name == ENGINE else "", "")
        size = "" if subject.size_mb is None else f"{subject.size_mb:.1f}"
        params = "" if subject.params is None else f"{subject.params / 1e6:.2f} M"
        macs = "" if subject.macs is None else f"{subject.macs / 1e6:,.0f} M"
        rows.append((_row_name(m), size, params, macs, *judged))
    if reference and not placed:
        params, macs = f"{reference.params / 1e6:.2f} M", f"{reference.macs / 1e6:,.0f} M"
        rows.append((f"{reference.name}, {reference.network}", "", params, macs, *compared))
    header = ("", "MB", "params", "MACs", "accuracy", "engine's is, in points (95%)")
    caption = f"What was run; the reference's accuracy is that of {reference.name}" if reference else "What was run"
    return Table(caption, header, rows) if reference else Table(caption, header[:-1], [row[:-1] for row in rows])


def is_network_of(subject: Subject, reference: ReferenceComparison) -> bool:
    """Whether what was timed, with random weights, is the reference's network in the type in which that was judged."""
    return (subject.params, subject.macs, subject.precision) == (reference.params, reference.macs, "fp32")


def _sweep(profile: Profile) -> Table:
    """A row for each granularity and sparsity, with its times in each runtime over the unpruned's.

    The first row has the unpruned network's own median in ms; a tilde marks what was unstable.
    """
    runtimes = list(dict.fromkeys(a.measurement.subject.runtime for a in profile.alternatives))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for alternative in profile.alternatives:
        subject = alternative.measurement.subject
        gone = f"{subject.sparsity:.1%}" if subject.sparsity else ""
        # The unpruned network and the engine are in several rounds; the first is shown.
        cells.setdefault((subject.granularity or ENGINE, gone), {}).setdefault(subject.runtime, _cell(alternative))
    order = ("baseline", ENGINE, "element", "channel", "block")
    rows = [
        (name, gone, *(found.get(runtime, "") for runtime in runtimes))
        for (name, gone), found in sorted(cells.items(), key=lambda row: order.index(row[0][0]))
    ]
    return Table("Pruned networks, times the unpruned one's", ("", "parameters gone", *runtimes), rows)


def measured(profile: Profile) -> list[Table]:
    """The profile's own tables for a page: the first has the times of all candidates."""
    first = (
        f"{profile.engine.summary.runs} interleaved runs of each, in an order drawn anew each time and each after "
        "untimed ones of the same; ~ marks what was unstable"
    )
    of_times, *others = (table._replace(header=("measured", *table.header[1:])) for table in tables_of(profile))
    on_cores = ("ms of all cores", *(_cpu_ms(m) for m in profile.measurements))
    header, *rows = ((*row, ms) for row, ms in zip((of_times.header, *of_times.rows), on_cores, strict=True))
    return list(map(_without_empty_columns, (Table(first, header, rows), *others)))


def _without_empty_columns(table: Table) -> Table:
    kept = [index for index, column in enumerate(zip(*table.rows, strict=True)) if any(column)]
    header, *rows = (tuple(row[index] for index in kept) for row in (table.header, *table.rows))
    return table._replace(header=header, rows=rows)


def engines(candidates: Sequence[Candidate]) -> Table:
    """The engines' rows of all profiles, with the machine where there are several."""
    several = len({c.profile.environment.machine_id for c in candidates}) > 1
    referred = any(c.profile.reference for c in candidates)
    rows = []
    for candidate in candidates:
        own, network = times(candidate.profile).rows[0], networks(candidate.profile).rows[0]
        machine = (machine_words(candidate.profile.environment),) if several else ()
        beside = candidate.profile.reference
        compared = (f"{beside.paired.short} than {beside.name}" if beside else "",) if referred else ()
        rows.append((title_of(candidate.profile), *own[1:3], *network[1:5], *compared, *machine))
    of_times, of_network = times(candidates[0].profile).header, networks(candidates[0].profile).header
    added = (*(("in points (95%)",) if referred else ()), *(("machine",) if several else ()))
    names = ("engine", *of_times[1:3], *of_network[1:5], *added)
    return Table("Every engine that was profiled", names, rows)


def machine_words(here: Environment) -> str:
    gpus = "".join(f", {gpu.name}" for gpu in here.gpus)
    return f"{here.cpu}{gpus} ({here.machine_id})"


def _row_name(measurement: Measurement) -> str:
    if measurement.name == ENGINE:
        return f"{ENGINE}, {measurement.subject.runtime}"
    return measurement.name.replace(f"{PHOTO}: ", "  ")


def _cpu_ms(measurement: Measurement) -> str:
    return "" if measurement.summary.cpu_ms is None else f"{measurement.summary.cpu_ms:.3f}"


def _doubt(measurement: Measurement) -> str:
    return "~" if measurement.summary.unstable else ""


def _span(interval: Interval, digits: int) -> str:
    low, high = interval
    return f"{_short(low, digits)} to {_short(high, digits)}"


def _short(value: float, digits: int) -> str:
    """So many digits, where some are left of the point."""
    return f"{value:,.{max(0, digits - len(str(int(value))))}f}"


def _part_row(part: PartTime, run_ms: float) -> tuple[str, ...]:
    computes = bool(part.macs and part.ms)
    return (
        part.part,
        f"{part.ms:.3f}",
        f"{part.ms / run_ms:.1%}",
        f"{part.macs / 1e6:,.1f} M" if computes else "",
        f"{part.macs / part.ms / 1e6:,.1f}" if computes else "",
        "" if part.share is None else f"{part.share:.1%}" if part.share <= 1 else "> 100%",
    )


def _load_row(load: Load) -> tuple[str, ...]:
    summary = load.measurement.summary
    ms = (summary.median_ms, summary.p95_ms, max(load.measurement.samples_ms))
    unmet = (str(load.late), str(load.dropped)) if load.kind == "paced" else ("", "")
    words = (*(f"{each:.3f}" for each in ms), f"{load.images_per_second:,.1f}", *unmet)
    return (load.measurement.name, f"{_doubt(load.measurement)}{words[0]}", *words[1:], load.measurement.subject.note)


def _cell(alternative: Alternative) -> str:
    summary, ratio = alternative.measurement.summary, alternative.ratio
    doubt = _doubt(alternative.measurement)
    if ratio.of == ratio.to:
        return f"{doubt}{summary.median_ms:.2f} ms"
    if not alternative.measurement.is_quiet:
        return f"~{ratio.value:.2f}  too busy a machine"
    return f"{doubt}{ratio.value:.2f}  {ratio.interval[0]:.2f} to {ratio.interval[1]:.2f}"
