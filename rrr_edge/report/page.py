"""The report of profiles as one self-contained HTML page."""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path

from rrr_edge import __version__
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.profile import Profile
from rrr_edge.bundle.recipe import NetTailor
from rrr_edge.bundle.tailored import TailoredSpec
from rrr_edge.report import appendix, tables
from rrr_edge.report.candidate import Candidate
from rrr_edge.report.confusion import draw_confusion, draw_learning
from rrr_edge.report.document import document, doubts, folded, table
from rrr_edge.report.doubt import doubt_tables
from rrr_edge.report.doubt_figures import draw_reliability, draw_risk
from rrr_edge.report.evaluation import LARGEST_MATRIX, evaluation_of, evaluation_tables
from rrr_edge.report.latency import draw_distribution, draw_latency
from rrr_edge.report.markup import Markup, element
from rrr_edge.report.parts import draw_parts, draw_roofline
from rrr_edge.report.plots import Picture
from rrr_edge.report.reproduce import RECIPE, commands, recipe_file, recipe_toml
from rrr_edge.report.sparsity import sparsity_panels
from rrr_edge.report.tailoring import gain, network_picture
from rrr_edge.report.tradeoff import draw_pareto, draw_spider
from rrr_edge.report.verdict import verdict
from rrr_edge.report.words import count, interval_of, milliseconds, title_of

GENERATOR = "rrr-edge report"
_SHEET = "The most confident mistakes, as the network saw them, numbered as in the table."
_UNSURE_SHEET = "The right answers that are doubted most."

_CAPTIONS = {
    "latency": "A tick is one run, the box the middle half of them, the bar the median.",
    "distribution": "The share of runs that took at most so many times the median. A steep curve is a steady engine; "
    "a long tail means that some images wait.",
    "parts": "Medians, and shares of their sum.{clocked}",
    "roofline": "Multiply-accumulates a second over the most that this machine was seen to reach: {how}.",
    "spider": "Towards the centre is better. Each arm is as long as the larger of the two.",
    "pareto": "Up and to the left is better.",
    "confusion": "A row is a class, a column an answer; the darker, the more of its photos. Wrong ones in colour.",
    "reliability": "A mark is the answers of about one confidence, its bar the 95% interval of what is right.",
    "risk": "Lower is better. The first ten answers are left out.",
    "learning": "Of the training photos as they were augmented, with the weights of that moment.",
}


def page_of(candidates: Sequence[Candidate]) -> str:
    """A complete document; whatever comes from the user is escaped."""
    names = ", ".join(dict.fromkeys(c.profile.bundle for c in candidates))
    header = (
        element("h1", f"{names}, {GENERATOR}"),
        element("p", verdict(candidates), class_="verdict"),
        _tiles(candidates[0]),
        *_warning(candidates),
    )
    main = (*_comparison(candidates), *(_section(c, candidates) for c in candidates), *_proof(candidates))
    return document(f"{names}: {GENERATOR}", GENERATOR, header=header, main=main, footer=_footer())


def _tiles(own: Candidate) -> Markup:
    """The numbers that one remembers."""
    profile, subject = own.profile, own.profile.engine.subject
    found = [
        (
            milliseconds(own.median_ms),
            f"one image, median; 95% within {interval_of(profile.engine.summary.median_interval_ms)} ms",
        )
    ]
    if profile.ratios:
        least = min(profile.ratios, key=lambda r: r.value)
        found.append((f"{least.value:.3g} times", f"as fast as {least.of}, {interval_of(least.interval)}"))
    if profile.accuracy:
        found.append((f"{profile.verification.accuracy:.1%}", f"of {profile.verification.images} test images right"))
    if subject.params:
        megabytes = f", {subject.size_mb:.1f} MB" if subject.size_mb is not None else ""
        macs = f", {count(subject.macs)} MACs" if subject.macs else ""
        found.append((count(subject.params), f"parameters{macs}{megabytes}"))
    return element(
        "dl", *(element("div", element("dt", what), element("dd", value)) for value, what in found), class_="tiles"
    )


def _warning(candidates: Sequence[Candidate]) -> Iterable[Markup]:
    if len({c.profile.environment.machine_id for c in candidates}) > 1:
        yield from doubts(("These times come from different machines; what differs may be the machine.",))


def _comparison(candidates: Sequence[Candidate]) -> Iterable[Markup]:
    if len(candidates) > 1:
        yield element(
            "section",
            element("h2", "Side by side"),
            table(tables.engines(candidates)),
            _figures([draw_pareto(candidates)]),
        )


def _section(own: Candidate, candidates: Sequence[Candidate]) -> Markup:
    profile = own.profile
    spider = draw_spider(own, candidates if own is candidates[0] else (own,))
    times, *others = tables.measured(profile)
    return element(
        "section",
        element("h2", title_of(profile)),
        *doubts((*profile.notes, *own.bundle.manifest.provenance.notes)),
        table(times),
        _figures(
            [
                draw_latency(profile),
                draw_distribution(profile),
                draw_parts(profile),
                draw_roofline(profile),
                spider,
            ],
            profile,
            panels=sparsity_panels(profile),
        ),
        *_tailored(own, candidates),
        *map(table, others),
        *folded("The slowest layers", appendix.slowest_layers(profile)),
        *_evaluated(own.bundle, profile.target.engine_name),
    )


def _tailored(own: Candidate, candidates: Sequence[Candidate]) -> Iterable[Markup]:
    """The drawing of a tailored network, in the first of its bundle's sections."""
    manifest = own.bundle.manifest
    first = next(c for c in candidates if c.bundle.path == own.bundle.path)
    # A fine-tuned ResNet18 has such a spec too, but neither proxies nor anything that it shares.
    if isinstance(manifest.spec, TailoredSpec) and isinstance(manifest.recipe, NetTailor) and own is first:
        picture = network_picture(manifest.spec, manifest.preprocess.image_size)
        caption = element("figcaption", f"{picture.told} {gain(manifest, own.profile)}")
        drawn = element("figure", element("h3", picture.title), picture.inline(), caption)
        yield element("div", drawn, class_="figures")


def _evaluated(bundle: Bundle, engine: str) -> Iterable[Markup]:
    """What `rrr-edge evaluate` found of the engine, of this network otherwise."""
    evaluation = evaluation_of(bundle, engine)
    if evaluation is None:
        return
    yield element("h3", f"What it gets wrong: {evaluation.words}")
    yield from doubts(evaluation.notes)
    first, *others = evaluation_tables(evaluation)
    yield table(first)
    large = len(evaluation.labels) > LARGEST_MATRIX
    yield _figures([draw_confusion(evaluation) if large else None, draw_learning(bundle)])
    for other in others:
        yield from folded(other.caption, other)
    folder = bundle.evaluation_folder(evaluation.what)
    if evaluation.contact_sheet:
        yield _sheet(folder / evaluation.contact_sheet.name, _SHEET)
    if evaluation.doubt:
        yield element("h3", f"When it had better not answer: {evaluation.doubt.words}")
        first, *others = doubt_tables(evaluation)
        yield table(first)
        yield _figures([draw_risk(evaluation), draw_reliability(evaluation)])
        for other in others:
            yield from folded(other.caption, other)
        if evaluation.doubt.unsure_sheet:
            yield _sheet(folder / evaluation.doubt.unsure_sheet.name, _UNSURE_SHEET)


def _sheet(file: Path, caption: str) -> Markup:
    """A contact sheet inside the page."""
    source = f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"
    return element("figure", element("img", src=source, alt=caption), element("figcaption", caption), class_="all")


def _figures(
    found: Sequence[Picture | None], profile: Profile | None = None, *, panels: Sequence[Picture] = ()
) -> Markup:
    drawn = [_figure(picture, profile) for picture in found if picture]
    if panels:
        drawn.insert(0, _figure3(panels))
    return element("div", *drawn, class_="figures") if drawn else Markup()


def _figure(picture: Picture, profile: Profile | None) -> Markup:
    """With a caption of what is in it: of the engine's layers only where they were profiled."""
    how = profile.ceiling.how if profile and profile.ceiling else ""
    clocked = " The backend's own clock tells which layer takes which share of a run."
    said = _CAPTIONS[picture.name].format(how=how, clocked=clocked if profile and profile.layers else "")
    caption = element("figcaption", said)
    heading = element("h3", picture.title.partition(", ")[0])
    return element("figure", heading, picture.inline(), caption)


def _figure3(panels: Sequence[Picture]) -> Markup:
    title = "Time against sparsity"
    drawn = (element("div", element("h4", each.title), each.inline(f"{title}, {each.title}")) for each in panels)
    caption = (
        "Mean of one image with its 95% interval, one panel a runtime. At equal sparsity the lower curve is the "
        "better way to prune."
    )
    return element(
        "figure",
        element("h3", title),
        element("div", *drawn, class_="panels"),
        element("figcaption", caption),
        class_="all",
    )


def _proof(candidates: Sequence[Candidate]) -> Iterable[Markup]:
    bundles = {c.bundle.path: c for c in candidates}
    yield element("h2", "Verification")
    yield table(appendix.verifications([c.bundle for c in bundles.values()]))
    for c in bundles.values():
        yield from folded(f"{c.bundle.manifest.name}: accuracy by class", appendix.per_class(c))
    yield element("h2", "Environment")
    places: dict[tuple[str, ...], Markup] = {}
    for c in candidates:
        found = appendix.environment(c.profile)
        places.setdefault(tuple(value for name, value in found.rows if name != "measured"), table(found, head=False))
    yield from places.values()
    yield element("h2", "How to reproduce")
    yield element("pre", commands(candidates))
    for c in bundles.values():
        origin = c.bundle.manifest.provenance
        for ancestor in c.bundle.manifest.chain:
            right = "" if ancestor.accuracy is None else f", {ancestor.accuracy:.1%} of its test photos right"
            yield element("h3", f"{recipe_file(ancestor.name)} of {ancestor.name}, from which the next was made")
            yield element("pre", recipe_toml(ancestor.recipe))
            yield element("p", f"{count(ancestor.params)} parameters{right}. Weights: {ancestor.weights_sha256}.")
        yield element("h3", f"{RECIPE} of {c.bundle.path.name}")
        yield element("pre", recipe_toml(c.bundle.manifest.recipe))
        yield element("p", f"DATA: {origin.data}, SHA-256 {origin.data_sha256}. Weights: {origin.weights}.")


def _footer() -> str:
    return (
        f"Made by rrr-edge {__version__}. Method: Sun, Guyon, Mohr and Tabia, RRR-Net, 2023. "
        "Intervals are at 95%: of medians and ratios by the bootstrap, of means Student's, of accuracies Wilson's, of "
        "differences of accuracies Tango's for pairs."
    )
