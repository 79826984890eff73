"""The figures of tailored networks: the network that was left, and the search that found it."""

from collections.abc import Sequence

from rrr_edge.bundle.manifest import Manifest
from rrr_edge.bundle.measurements import quiet_ratio
from rrr_edge.bundle.profile import Profile
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.tailored import STEM, TailoredNode, TailoredSpec
from rrr_edge.bundle.tailored_structure import Path, node_shapes, paths, tailored_cost
from rrr_edge.bundle.tailoring import TailoringRow
from rrr_edge.errors import counted
from rrr_edge.report.markup import Markup, element, together
from rrr_edge.report.plots import BOTTOM, LEFT, LOOKS, OWN, PLOT, RIGHT, TOP, Axis, Picture, beside, frame, mark, text
from rrr_edge.report.words import count, milliseconds

_ROW, _NODE, _NUMBERS = 24, 96, 196
# The width of a line whose path has all of the attention.
_THICKEST = 9.0


def draw_network(spec: TailoredSpec, image_size: int) -> str:
    """An SVG of the network alone."""
    return network_picture(spec, image_size).alone()


def network_picture(spec: TailoredSpec, image_size: int) -> Picture:
    """The nodes from top to bottom: blocks as straight lines, proxies as arcs, as wide as their attention."""
    every = list(paths(spec, image_size))
    existing, shapes = spec.existing, node_shapes(spec.backbone)
    drawn = [_node(STEM, "stem", exists=True), text("paths, parameters, MACs", _NUMBERS, 12, look="soft")]
    for own, node in enumerate(spec.nodes, start=1):
        into = [path for path in every if path.node == own]
        drawn += [_line(path, _weight(node, path)) for path in into]
        phase, _, block = shapes[own].name.removeprefix("layer").partition(".")
        drawn.append(_node(own, f"conv{int(phase) + 1}_{int(block) + 1}", exists=own in existing))
        drawn.append(text(_numbers(into), _NUMBERS, _y(own) + 4, look="soft"))
    total = tailored_cost(spec, image_size)
    told = (
        f"{spec.blocks} of {len(spec.nodes)} blocks of {SOURCES[spec.backbone].name} (lines) and "
        f"{sum(len(node.proxies) for node in spec.nodes)} proxies (arcs), as wide as their attention; "
        f"{count(total.params)} parameters, of which {count(total.shared_params)} are those of the source network, "
        f"shared with other tasks; {count(total.macs)} MACs."
    )
    bottom = _y(len(spec.nodes)) + _ROW
    drawn += [text(line, 0, bottom + 16 * i, look="soft") for i, line in enumerate(told.split("; "))]
    return Picture("network", "The tailored network", told, together(drawn), bottom + 48)


def gain(manifest: Manifest, profile: Profile) -> str:
    """The MACs and the time of a tailored network beside its source's in the same runtime; "" where there is none."""
    spec, engine = manifest.spec, profile.engine
    if not isinstance(spec, TailoredSpec):
        return ""
    source, runtime = SOURCES[spec.backbone].name, f"{engine.subject.backend} {engine.subject.precision}"
    whole = next((m for m in profile.baselines if m.name == f"{source}, {runtime}"), None)
    if whole is None or not whole.subject.macs:
        return ""
    macs = f"The tailored network has {manifest.cost.macs / whole.subject.macs:.0%} of {source}'s MACs"
    share = quiet_ratio(engine, whole)
    if share is None:
        return f"{macs}; what that is in time cannot be said, as {engine.disturbed}."
    low, high = share.interval
    return (
        f"{macs} and takes {share.value:.1%} ({low:.1%} to {high:.1%}) of its time in {runtime}: "
        f"{milliseconds(engine.summary.median_ms)} instead of {milliseconds(whole.summary.median_ms)}."
    )


def draw_tailoring(rows: Sequence[TailoringRow], *, chosen: int) -> str:
    """An SVG of the accuracy of each tuned network against its blocks, and against its MACs."""
    of_blocks = _search(rows, [row.blocks for row in rows], "universal blocks", chosen)
    of_macs = _search(rows, [row.macs / 1e6 for row in rows], "million MACs", chosen)
    return beside((of_blocks, of_macs), name="tailoring", title="Accuracy of tailored networks").alone()


def _search(rows: Sequence[TailoringRow], values: Sequence[float], label: str, chosen: int) -> Picture:
    accuracies = [100 * row.accuracy for row in rows]
    least = 100 * rows[0].least
    x = Axis.straight(values, LEFT, RIGHT)
    y = Axis.straight((*accuracies, least), TOP + PLOT, TOP)
    limit = element("path", class_="faint", d=f"M{LEFT},{y(least):.1f}H{RIGHT}", stroke_dasharray="4 3")
    marks = [
        mark(
            x(value),
            y(accuracy),
            OWN if row.dropped == chosen else LOOKS[0],
            tip=f"{counted(row.dropped, 'block')} dropped, {row.blocks} left, {row.proxies} proxies: {accuracy:.1f}%",
        )
        for row, value, accuracy in zip(rows, values, accuracies, strict=True)
    ]
    told = "; ".join(f"{value:g}: {accuracy:.1f}%" for value, accuracy in zip(values, accuracies, strict=True))
    return Picture(
        "search",
        f"Against {label}",
        f"{told}. The least that is allowed: {least:.1f}%.",
        together((frame(x, y, x_label=label, y_label="accuracy on the deciding photos, %"), limit, *marks)),
        TOP + PLOT + BOTTOM,
    )


def _y(node: int) -> float:
    return 30 + _ROW * node


def _node(number: int, words: str, *, exists: bool) -> Markup:
    circle = element("circle", class_="full" if exists else "faint", cx=_NODE, cy=_y(number), r=4)
    return together((circle, text(words, 0, _y(number) + 4, look=None if exists else "soft")))


def _line(path: Path, weight: float) -> Markup:
    """Straight down for a block; for a proxy an arc that bulges the more, the more it skips."""
    start, end = _y(path.source), _y(path.node)
    bulge = 0 if path.universal else 16 + 14 * min(path.node - path.source, 5)
    kind = "block" if path.universal else f"proxy from node {path.source}"
    return element(
        "path",
        element("title", f"{kind}: attention {weight:.3f}, {count(path.params)} parameters, {count(path.macs)} MACs"),
        class_="own" if path.universal else None,
        fill="none",
        stroke="currentColor",
        stroke_width=max(0.6, _THICKEST * weight),
        stroke_opacity=0.85 if path.universal else 0.6,
        d=f"M{_NODE},{start:g}C{_NODE + bulge},{start:g} {_NODE + bulge},{end:g} {_NODE},{end:g}",
    )


def _weight(node: TailoredNode, path: Path) -> float:
    """The path's attention; an equal share as long as none is recorded."""
    if not node.attention:
        return 1 / node.paths
    if path.universal:
        return node.attention[0]
    return node.attention[node.block + node.proxies.index(path.source)]


def _numbers(into: Sequence[Path]) -> str:
    if not into:
        return "removed"
    proxies = sum(not path.universal for path in into)
    kinds = ["block"] * (len(into) > proxies) + [f"{proxies} prox{'y' if proxies == 1 else 'ies'}"] * (proxies > 0)
    return f"{' + '.join(kinds)}, {count(sum(p.params for p in into))}, {count(sum(p.macs for p in into))}"
