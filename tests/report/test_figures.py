"""Every picture, judged by reading its axes: what it shows is what the samples say."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from drawing import SPACE, marks, numbers, parsed, scale, texts, with_class
from made_up import MACS, PARTS_MS, RESNET152, RRR_NET, SPARSITIES, TARGET, make_bundle, profile, rewrite
from scipy import stats

from rrr_edge.bundle.bounds import Bound
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import Measurement
from rrr_edge.bundle.profile import PHOTO, PREDICT
from rrr_edge.bundle.recipe import FineTune
from rrr_edge.bundle.spec import source_spec
from rrr_edge.report.candidate import Candidate
from rrr_edge.report.figures import figures_of
from rrr_edge.report.latency import draw_distribution, draw_latency
from rrr_edge.report.parts import draw_parts, draw_roofline
from rrr_edge.report.plots import Picture
from rrr_edge.report.sparsity import sparsity_panels
from rrr_edge.report.tables import tables_of
from rrr_edge.report.tradeoff import criteria, draw_pareto, draw_spider

ATTACK = "<script>alert('&')</script>"


def read(picture: Picture | None) -> ElementTree.Element:
    assert picture
    return parsed(picture.alone())


def mean_and_interval(m: Measurement) -> tuple[float, float, float]:
    low, high = stats.t.interval(0.95, len(m.samples_ms) - 1, np.mean(m.samples_ms), stats.sem(m.samples_ms))
    return float(np.mean(m.samples_ms)), float(low), float(high)


# All of them


def test_every_file_is_xml_with_title_and_description_in_both_modes(full: Candidate) -> None:
    drawn = figures_of(full)
    names = ["latency", "distribution", "figure3", "parts", "roofline", "spider"]
    assert [picture.name for picture in drawn] == names
    for picture in drawn:
        svg = picture.alone()
        root = parsed(svg)
        assert root.get("role") == "img"
        assert root.findtext(f"{SPACE}title") == picture.title
        assert len(root.findtext(f"{SPACE}desc") or "") > 40
        assert "prefers-color-scheme: dark" in svg
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", svg)
        colours = set(re.findall(r"#[0-9a-f]{3,6}\b", svg))
        assert colours == set(re.findall(r"#[0-9a-f]{3,6}\b", root.findtext(f"{SPACE}style") or ""))


def test_names_of_users_stay_words_in_pictures(full: Candidate) -> None:
    attacked = full.profile.model_copy(update={"bundle": ATTACK})
    for picture in figures_of(Candidate(full.bundle, attacked)):
        root = parsed(picture.alone())
        assert not list(root.iter(f"{SPACE}script"))
        assert ATTACK in (root.findtext(f"{SPACE}title") or "")


def test_a_bare_profile_has_the_figures_that_it_has_data_for(full: Candidate) -> None:
    bare = profile(full.bundle, baselines={})
    names = [picture.name for picture in figures_of(Candidate(full.bundle, bare))]
    assert names == ["latency", "distribution", "parts"]


def test_no_text_leaves_the_picture(full: Candidate) -> None:
    """By the width that a character of 12 pixels may take at most, on the average of a line."""
    long = full.profile.model_copy(update={"bundle": "n" * 300})
    for picture in figures_of(Candidate(full.bundle, long)):
        if picture.name == "figure3":
            continue  # its panels are moved
        for text in parsed(picture.alone()).iter(f"{SPACE}text"):
            if text.get("font-size"):
                continue  # the title of the file
            x, length = float(text.get("x", "0")), 6.6 * len("".join(text.itertext()))
            left = x - {"middle": length / 2, "end": length}.get(text.get("text-anchor", ""), 0)
            assert left > -14, picture.name
            assert left + length < picture.width + 28, (picture.name, text.text)


# Latency


def test_boxes_are_the_quartiles_and_bars_the_medians(full: Candidate) -> None:
    root = read(draw_latency(full.profile))
    x = scale(root, "x", logarithmic=True)
    shown = [full.profile.engine, full.profile.measurement(PREDICT), full.profile.measurement(PHOTO)]
    shown += full.profile.baselines
    boxes, bars = with_class(root, "box", "rect"), with_class(root, "median", "path")
    assert len(boxes) == len(bars) == len(shown)
    for m, box, bar in zip(shown, boxes, bars, strict=True):
        q1, median, q3 = np.percentile(m.samples_ms, [25, 50, 75])
        assert float(box.get("x", "")) == pytest.approx(x(q1), abs=0.05)
        assert float(box.get("width", "")) == pytest.approx(max(x(q3) - x(q1), 2), abs=0.05)
        assert numbers(bar.get("d"))[0] == pytest.approx(x(median), abs=0.05)
        assert any(text.startswith(f"{m.name}: {median:.3g} ms") for text in texts(root))
    assert [box.get("class") for box in boxes] == ["box full"] + ["box hollow"] * 4


def test_every_run_is_a_tick(full: Candidate) -> None:
    root = read(draw_latency(full.profile))
    x = scale(root, "x", logarithmic=True)
    ticks = numbers(re.sub(r",[\d.]+v10", " ", with_class(root, "faint", "path")[0].get("d", "")))
    apart = np.abs(np.array(ticks)[:, None] - [x(ms) for ms in full.profile.engine.samples_ms])
    # Ticks stand on half pixels.
    assert apart.min(axis=0).max() < 0.28
    assert apart.min(axis=1).max() < 0.28


def test_the_distribution_is_the_empirical_one_of_scipy(full: Candidate) -> None:
    root = read(draw_distribution(full.profile))
    x, y = scale(root, "x"), scale(root, "y")
    curves = with_class(root, "line", "path")
    engine = next(c for c in curves if "own" in c.get("class", "") and len(c.get("d", "")) > 100)
    corners = np.array(numbers(engine.get("d"))).reshape(-1, 2)
    samples = np.array(full.profile.engine.samples_ms)
    cdf = stats.ecdf(samples / np.median(samples)).cdf
    # A corner's upper end lies on the function.
    upper = corners[2:-1:2]
    assert len(upper) == len(samples)
    np.testing.assert_allclose(upper[:, 0], [x(q) for q in cdf.quantiles], atol=0.06)
    np.testing.assert_allclose(upper[:, 1], [y(100 * p) for p in cdf.probabilities], atol=0.06)


def test_six_candidates_have_six_lines(full: Candidate) -> None:
    baselines = {"ResNet152, openvino int8": 12.0, "ResNet152, openvino fp32": 37.0, "ResNet152, PyTorch": 90.0}
    root = read(draw_distribution(profile(full.bundle, baselines=baselines)))
    looks = {(c.get("class"), c.get("stroke-dasharray")) for c in with_class(root, "line", "path")}
    assert len(looks) == 6


def test_runs_beyond_the_edge_are_counted(full: Candidate) -> None:
    slow = full.profile.engine.model_copy(update={"samples_ms": (*full.profile.engine.samples_ms[3:], 4, 5, 6)})
    changed = full.profile.model_copy(update={"measurements": (slow, *full.profile.measurements[1:])})
    assert "times its own median; 3 runs beyond the edge" in texts(read(draw_distribution(changed)))


# Figure 3


def test_points_are_means_with_t_intervals_at_the_sparsity_reached(full: Candidate) -> None:
    panels = sparsity_panels(full.profile)
    assert [panel.title for panel in panels] == ["pytorch fp32", "openvino fp32", "openvino int8"]
    for panel in panels:
        root = read(panel)
        x, y = scale(root, "x"), scale(root, "y")
        points = [m for m in marks(root) if "removed" in m[0]]
        bars = [numbers(bar.get("d")) for bar in with_class(root, "bar", "path")]
        there = [a.measurement for a in full.profile.alternatives if a.measurement.subject.runtime == panel.title]
        pruned = [m for m in there if m.subject.granularity in ("block", "channel", "element")]
        own = panel.title == "openvino int8"
        assert len(points) == len(bars) == 15 + own
        for m in pruned:
            mean, low, high = mean_and_interval(m)
            sparsity = m.subject.sparsity or 0
            index = next(i for i, p in enumerate(points) if p[0].startswith(f"{m.subject.granularity}, {sparsity:.0%}"))
            assert points[index][1:] == pytest.approx((x(100 * sparsity), y(mean)), abs=0.02)
            assert [bars[index][1], bars[index][5]] == pytest.approx([y(low), y(high)], abs=0.02)


def test_the_candidate_is_marked_at_its_own_share_and_only_in_its_runtime(full: Candidate) -> None:
    *others, own = (read(panel) for panel in sparsity_panels(full.profile))
    tip, left, top = next(mark for mark in marks(own) if mark[0].startswith("mugs"))
    assert left == pytest.approx(scale(own, "x")(100 * (1 - RRR_NET / RESNET152)), abs=0.02)
    # Its round is the one of 86%, and it has 86.2%.
    engine = next(
        a.measurement for a in full.profile.alternatives if a.measurement.name.startswith("engine beside 86 %")
    )
    assert top == pytest.approx(scale(own, "y")(np.mean(engine.samples_ms)), abs=0.02)
    assert f"{1 - RRR_NET / RESNET152:.0%} removed" in tip
    assert not any("mugs" in mark[0] for root in others for mark in marks(root))


def test_the_unpruned_network_is_a_line_and_curves_differ_without_colour(full: Candidate) -> None:
    root = read(sparsity_panels(full.profile)[0])
    x, y = scale(root, "x"), scale(root, "y")
    rounds = [a.measurement for a in full.profile.alternatives if a.measurement.name.startswith("baseline beside")][:5]
    unpruned = next(c for c in with_class(root, "line", "path") if c.get("stroke-dasharray") == "12 4")
    corners = np.array(numbers(unpruned.get("d"))).reshape(-1, 2)
    expected = [(x(100 * s), y(np.mean(m.samples_ms))) for s, m in zip(SPARSITIES, rounds, strict=True)]
    np.testing.assert_allclose(corners[1:-1], expected, atol=0.06)
    assert corners[[0, -1], 0] == pytest.approx([x(0), x(100)], abs=0.06)
    curves = [c for c in with_class(root, "line", "path") if c.get("d", "").count("L") == 4]
    assert len({c.get("stroke-dasharray") for c in curves}) == len(curves) == 3
    shapes = {m.get("d") for m in with_class(root, "mark", "path")}
    assert len(shapes) == 3
    assert not with_class(root, "own")


def test_panels_whose_rounds_were_disturbed_say_so(full: Candidate) -> None:
    alternatives = []
    for alternative in full.profile.alternatives:
        m = alternative.measurement
        busy = m.subject.runtime == "openvino fp32"
        loads = (0.6,) * len(m.samples_ms) if busy else ()
        measured = Measurement(name=m.name, subject=m.subject, samples_ms=m.samples_ms, loads=loads)
        alternatives.append(alternative.model_copy(update={"measurement": measured}))
    panels = sparsity_panels(full.profile.model_copy(update={"alternatives": tuple(alternatives)}))
    assert ["Too busy a machine" in panel.told for panel in panels] == [False, True, False]
    assert ["Too busy a machine: the heights may be far off." in texts(read(p)) for p in panels] == [False, True, False]


def test_figure_3_as_a_file_has_all_panels(full: Candidate) -> None:
    picture = next(p for p in figures_of(full) if p.name == "figure3")
    assert {"pytorch fp32", "openvino fp32", "openvino int8"} <= set(texts(read(picture)))


# Accuracy against time


def rivalling(bundle: Bundle, *pairs: tuple[float, float | None]) -> list[Candidate]:
    return [Candidate(bundle, profile(bundle, ms=ms, accuracy=accuracy)) for ms, accuracy in pairs]


def test_pareto_points_have_wilsons_intervals_and_the_front_joins_the_unbeaten(full: Candidate) -> None:
    found = rivalling(full.bundle, (1.0, 0.9), (3.0, 0.95), (4.0, 0.85), (2.0, None))
    root = read(draw_pareto(found))
    x, y = scale(root, "x", logarithmic=True), scale(root, "y")
    medians = [float(np.median(c.profile.engine.samples_ms)) for c in found[:3]]
    bars = [numbers(bar.get("d")) for bar in with_class(root, "bar", "path")]
    assert len(bars) == 3
    for accuracy, median, bar in zip((0.9, 0.95, 0.85), medians, bars, strict=True):
        low, high = stats.binomtest(round(400 * accuracy), 400).proportion_ci(method="wilson")
        assert [bar[1], bar[5]] == pytest.approx([y(100 * low), y(100 * high)], abs=0.02)
        assert any(m[1:] == pytest.approx((x(median), y(100 * accuracy)), abs=0.02) for m in marks(root))
    front = next(c for c in with_class(root, "line", "path") if c.get("stroke-dasharray"))
    expected = [x(medians[0]), y(90), x(medians[1]), y(95)]
    assert numbers(front.get("d")) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("pairs", [[(1.0, None), (2.0, None)], [(1.0, 0.9), (2.0, None)], [(1.0, 0.9)]])
def test_there_is_no_pareto_picture_of_fewer_than_two_accuracies(
    pairs: list[tuple[float, float | None]], full: Candidate
) -> None:
    assert draw_pareto(rivalling(full.bundle, *pairs)) is None


def test_accuracies_of_another_task_are_in_no_chart_with_ours(full: Candidate, tmp_path: Path) -> None:
    ours = rivalling(full.bundle, (1.0, 0.9), (2.0, 0.8))
    other = make_bundle(tmp_path / "dogs.rrr", name="dogs", labels=("pug", "hound", "poodle"))
    assert draw_pareto([ours[0], *rivalling(other, (3.0, 0.99))]) is None
    mixed, alone = draw_pareto([*ours, *rivalling(other, (3.0, 0.99))]), draw_pareto(ours)
    assert mixed
    assert alone
    assert mixed.alone() == alone.alone()


def test_a_ceiling_is_not_said_to_be_passed_by_so_and_so_much(full: Candidate) -> None:
    low = full.profile.model_copy(update={"ceiling": full.profile.ceiling.model_copy(update={"gmacs_per_s": 1.0})})
    picture = draw_roofline(low)
    assert picture
    assert "more than 100% of the ceiling" in picture.alone()
    assert "> 100%" in {cell for table in tables_of(low) for row in table.rows for cell in row}
    assert "%" not in low.beyond_ceiling


# Figure 9


@pytest.fixture
def whole(full: Candidate, tmp_path) -> Candidate:
    bundle = make_bundle(tmp_path / "whole.rrr", name="whole")
    manifest = bundle.manifest.model_copy(update={"spec": source_spec(3), "recipe": FineTune()})
    bundle = rewrite(bundle, manifest)
    return Candidate(bundle, profile(bundle, ms=12, accuracy=0.96, baselines={}))


def test_a_whole_network_is_told_by_its_backbone_and_compared_with_what_came_from_it(
    full: Candidate, whole: Candidate, tmp_path
) -> None:
    assert whole.is_whole
    for name, spec in {"same": source_spec(3, "resnet50"), "other": source_spec(3)}.items():
        bundle = make_bundle(tmp_path / f"{name}.rrr")
        recipe = FineTune(backbone="resnet50")
        bundle = rewrite(bundle, bundle.manifest.model_copy(update={"spec": spec, "recipe": recipe}))
        candidate = Candidate(bundle, profile(bundle, ms=12, accuracy=0.9, baselines={}))
        assert candidate.is_whole == (name == "same")
        assert criteria(full, [full, candidate])[0].baseline is None


def test_the_spider_compares_what_is_known_of_both_and_says_what_is_not(full: Candidate, whole: Candidate) -> None:
    alone = read(draw_spider(full, [full]))
    assert "Not known of both, so left out: error, GPU ms." in texts(alone)
    both = read(draw_spider(full, [full, whole]))
    assert "Not known of both, so left out: GPU ms." in texts(both)
    found = {c.name: (c.own, c.baseline) for c in criteria(full, [full, whole])}
    int8 = next(m for m in full.profile.baselines if m.name == "ResNet152, openvino int8")
    assert found == {
        "error": (pytest.approx(0.06), pytest.approx(0.04)),
        "parameters": (RRR_NET, RESNET152),
        "MACs": (MACS, 3_758_923_776),
        "CPU ms": (np.median(full.profile.engine.samples_ms), np.median(int8.samples_ms)),
        "GPU ms": (None, None),
    }


def test_what_other_programs_left_no_ratio_of_has_no_arm(full: Candidate, whole: Candidate) -> None:
    bound = Bound(
        of="ResNet152, openvino int8", to="engine", at_least=9.9, at_most=59, disturbed=14, by_cpu=None, favours=""
    )
    busy = Candidate(full.bundle, full.profile.model_copy(update={"ratios": (), "bounds": (bound,)}))
    picture = draw_spider(busy, [busy, whole])
    said = texts(read(picture))
    assert "Too busy a machine to compare, so left out: CPU ms." in said
    assert "Not known of both, so left out: GPU ms." in said
    assert {"error", "parameters", "MACs"} < set(said)
    assert "CPU ms" not in said
    assert picture.told.endswith("so left out: CPU ms.")
    assert draw_spider(busy, [busy]) is None


def test_an_error_of_nothing_is_known(full: Candidate, whole: Candidate) -> None:
    """A baseline without an error has an arm of no length; where both have none, neither has."""
    perfect = Candidate(whole.bundle, profile(whole.bundle, accuracy=1.0))
    for own in (full, Candidate(full.bundle, profile(full.bundle, accuracy=1.0))):
        drawn = read(draw_spider(own, [own, perfect]))
        assert "Not known of both, so left out: GPU ms." in texts(drawn)
        assert any(text.endswith(" of 0.0%") for text in texts(drawn))


def test_arms_are_as_long_as_their_share_of_the_larger(full: Candidate, whole: Candidate) -> None:
    root = read(draw_spider(full, [full, whole]))
    own = np.array([m[1:] for m in marks(root) if "%" in m[0]])
    baseline, candidate = own[:4], own[4:]
    centre = (baseline[1] + baseline[3]) / 2  # parameters and CPU ms lie opposite, both at the full radius
    radius = abs(baseline[1] - centre).max()
    found = {c.name: c for c in criteria(full, [full, whole]) if c.own is not None}
    for side, points in (("own", candidate), ("baseline", baseline)):
        for point, criterion in zip(points, found.values(), strict=True):
            share = getattr(criterion, side) / max(criterion.own or 0, criterion.baseline or 0)
            assert np.hypot(*(point - centre)) == pytest.approx(radius * share, abs=0.05), (side, criterion.name)


def test_a_gpu_has_an_axis_of_its_own(full: Candidate) -> None:
    target = TARGET.model_copy(update={"name": "tensorrt", "device": "GPU"})
    gpu = Candidate(full.bundle, profile(full.bundle, ms=0.4, target=target))
    found = {c.name: c.own for c in criteria(full, [full, gpu])}
    assert found["GPU ms"] == np.median(gpu.profile.engine.samples_ms)
    assert found["CPU ms"] == np.median(full.profile.engine.samples_ms)


def test_two_criteria_are_no_spider(full: Candidate) -> None:
    bare = profile(full.bundle, baselines={})
    assert draw_spider(Candidate(full.bundle, bare), []) is None


# Where the time goes


def segments(root: ElementTree.Element) -> list[tuple[float, float]]:
    """y and width of every bar's part; the swatches of the legend are all 18 wide."""
    found = [(float(r.get("y", "")), float(r.get("width", ""))) for r in with_class(root, "segment", "rect")]
    return [part for part, swatch in zip(found[::2], found[1::2], strict=True) if swatch[1] == 18]


def test_bars_are_as_long_as_the_parts_take(full: Candidate) -> None:
    root = read(draw_parts(full.profile))
    found = segments(root)
    photo, inside = found[:4], found[4:]
    medians = [np.median(full.profile.measurement(f"{PHOTO}: {part}").samples_ms) for part in PARTS_MS]
    width = sum(w for _, w in photo)
    assert [w for _, w in photo] == pytest.approx([width * ms / sum(medians) for ms in medians], abs=0.02)
    layers = full.profile.layers
    parts = ("input", "stump", "conv4", "conv5", "heads", "vote")
    spent = [sum(layer.ms for layer in layers if layer.part == part) for part in parts]
    run = np.median(full.profile.engine.samples_ms)
    spent.append(run - sum(spent))
    assert [w for _, w in inside] == pytest.approx([width * ms / run for ms in spent], abs=0.02)
    assert any(text.startswith("conv4 ") and text.endswith(f"{spent[2] / run:.0%}") for text in texts(root))
    assert any(text.startswith("between layers ") for text in texts(root))


def test_without_layers_the_photo_alone_is_shown(full: Candidate) -> None:
    root = read(draw_parts(profile(full.bundle)))
    assert len(segments(root)) == 4
    assert not any("engine" in text for text in texts(root)[1:])


# The ceiling


def test_rates_are_macs_over_time_and_bars_their_share_of_the_ceiling(full: Candidate) -> None:
    root = read(draw_roofline(full.profile))
    x = scale(root, "x")
    bars = [float(r.get("width", "")) for r in with_class(root, "rate", "rect")]
    layers = full.profile.layers
    whole = sum(layer.macs for layer in layers)
    rates = [whole / (np.median(full.profile.engine.samples_ms) * 1e-3) / 1e9]
    for part in ("stump", "conv4", "conv5", "heads"):
        mine = [layer for layer in layers if layer.part == part]
        rates.append(sum(layer.macs for layer in mine) / (sum(layer.ms for layer in mine) * 1e-3) / 1e9)
    assert bars == pytest.approx([x(100 * rate / 2500) - x(0) for rate in rates], abs=0.03)
    assert f"whole run: {rates[0]:.0f} GMAC/s, {rates[0] / 25:.0f}% of the ceiling" in texts(root)
    (band, *_) = with_class(root, "interval", "rect")
    assert float(band.get("width", "")) == pytest.approx(x(100 * 2525 / 2500) - x(100 * 2475 / 2500), abs=0.02)


@pytest.mark.parametrize("missing", [{"ceiling": None}, {"layers": (), "ceiling": None}])
def test_without_a_ceiling_there_is_no_such_figure(missing: dict[str, object], full: Candidate) -> None:
    assert draw_roofline(full.profile.model_copy(update=missing)) is None


def test_titles_name_bundle_and_engine(full: Candidate) -> None:
    changed = full.profile.model_copy(update={"bundle": "cups"})
    assert all("cups, openvino int8" in p.title for p in (draw_latency(changed), draw_parts(changed)))
