"""The page against the records: figures' numbers, tables, the verdict, choices, and what is said of doubts."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from drawing import marks, parsed, scale, texts
from made_up import HERE
from made_up_study import TARGET, make_plan, make_record, make_timing, write_data, write_study
from scipy import stats

from rrr_edge.bundle.measurements import quiet_ratio
from rrr_edge.errors import BadInput
from rrr_edge.study import tables
from rrr_edge.study.charts import draw_boxes, draw_data_sets, draw_pareto
from rrr_edge.study.choices import pick_each, pick_one
from rrr_edge.study.comparisons import draw_criteria, draw_curves, draw_heat_map
from rrr_edge.study.document import results_document
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.page import page_of, write_study_report
from rrr_edge.study.plan import Method, Plan
from rrr_edge.study.presets import paper_mean, read_preset
from rrr_edge.study.results import Results
from rrr_edge.study.verdict import verdict

ERRORS = {"finetune": 0.25, "rrr": 0.27, "linear-probe": 0.4}
MS = {"finetune": 9.0, "rrr": 1.0, "linear-probe": 9.5}
WORDS = ",".join(ERRORS)
NAMES = ("mugs", "cups", "bolts", "nuts", "leaves", "birds", "<b>cats")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = tmp_path_factory.mktemp("made-up")
    plan = make_plan(write_data(folder / "data", *NAMES), WORDS, seeds=(0, 1, 2), target=TARGET, pick=True)
    made = StudyFolder(folder / "study")
    made.path.mkdir()
    write_study(made, plan, ERRORS, MS)
    return made


@pytest.fixture(scope="module")
def results(study: StudyFolder) -> Results:
    return Results.read(study)


def errors_of(results: Results, method: str) -> list[float]:
    """By the records alone."""
    tested = [r for r in results.records if r.cell.purpose == "test" and r.cell.method == method]
    return [fmean(1 - r.accuracy.accuracy for r in tested if r.cell.data.name == name) for name in sorted(NAMES)]


def test_means_are_those_of_the_records(results: Results) -> None:
    for method in ERRORS:
        found = errors_of(results, method)
        assert results.overall(method).mean == pytest.approx(np.mean(found))
        interval = stats.t.interval(0.95, len(NAMES) - 1, np.mean(found), stats.sem(found))
        assert results.overall(method).interval == pytest.approx(np.clip(interval, 0, 1))
    assert results.best == "finetune"
    assert results.pareto == ("finetune", "rrr")
    assert results.timed[0] == "rrr"
    value, (low, high), _ = results.times_faster("rrr", "finetune")
    assert low <= value <= high
    pairs = [(t.measurements["finetune"], t.measurements["rrr"]) for t in results.timings]
    assert value == pytest.approx(np.exp(np.mean([np.log(quiet_ratio(*pair).value) for pair in pairs])))
    assert value == pytest.approx(9, rel=0.05)
    claim = next(pair for pair in results.pairs if (pair.better, pair.worse) == ("finetune", "linear-probe"))
    assert (claim.wins, claim.p) == (7, 2.0**-7)
    assert claim.corrected == pytest.approx(6 * 2.0**-7)


def test_marks_lie_where_the_axes_say(results: Results) -> None:
    picture = draw_pareto(results)
    assert picture
    root = parsed(picture.alone())
    x, y = scale(root, "x", logarithmic=True), scale(root, "y")
    found = {tip: at for tip, *at in marks(root) if ": " in tip}
    for tip, at in list(found.items()):
        method = tip.split()[1].removesuffix(":")
        if at[1] < 260:  # else of the legend
            assert at == pytest.approx(
                [x(results.latency_ms(method).mean), y(100 * results.overall(method).mean)],  # type: ignore[union-attr]
                abs=0.6,
            )
    root = parsed(draw_data_sets(results).alone())
    x = scale(root, "x")
    drawn = {tip: at for tip, *at in marks(root) if ", " in tip}
    assert len(drawn) == len(NAMES) * len(ERRORS)
    for name in NAMES:
        for method in ERRORS:
            mean = results.error(method, name)
            assert mean
            tip = f"{name}, {method}: {100 * mean.mean:.1f}%, 3 seeds"
            assert drawn[tip][0] == pytest.approx(x(100 * mean.mean), abs=0.6)


def test_the_heat_map_has_the_differences_to_the_best(results: Results) -> None:
    picture = draw_heat_map(results)
    assert picture
    tips = re.findall(r"<title>(.*?), ([\w-]+): ([\d.]+) points", picture.body)
    assert len(tips) == len(NAMES) * len(ERRORS)
    for name, method, points in tips:
        row = [results.error(m, html.unescape(name)).mean for m in ERRORS]  # type: ignore[union-attr]
        own = results.error(method, html.unescape(name))
        assert own
        assert float(points) == pytest.approx(100 * (own.mean - min(row)), abs=0.051)


def test_boxes_criteria_and_curves_say_their_numbers(results: Results) -> None:
    boxes, criteria, curves = draw_boxes(results), draw_criteria(results), draw_curves(results)
    assert boxes
    assert criteria
    assert curves
    median = 100 * np.median(errors_of(results, "rrr"))
    assert f"rrr: median {median:.1f}%" in boxes.told
    assert "core hours 0.050" in criteria.told  # 90 s on 2 threads for a cell
    # The records' curve is 1 - 0.9/epoch up to epoch 8.
    assert re.search(r"rrr: 90.0% to 11.[23]%", curves.told)
    assert "100" in texts(parsed(curves.alone()))


def test_the_page_is_whole_safe_and_small(study: StudyFolder, results: Results) -> None:
    page, _ = write_study_report(study)
    text = page.read_text()
    assert "<b>cats" not in text
    assert "&lt;b&gt;cats" in text
    assert len(text) < 1_000_000
    assert html.escape(verdict(results)) in text
    for heading in ("Methods", "A fair choice", "Data sets", "Which differences are sure", "How it was made"):
        assert f"<h2>{heading}</h2>" in text
    assert page_of(results) == text
    said = verdict(results)
    assert said.startswith("On your 7 data sets finetune errs least")
    points = 100 * (results.overall("rrr").mean - results.overall("finetune").mean)
    times = results.times_faster("rrr", "finetune").mean
    assert f"rrr errs {points:.1f} points more and is {times:.3g} times faster (" in said
    assert said.count(". ") == 2


def test_disturbed_groups_say_nothing_of_speed(results: Results) -> None:
    busy = [timing.model_copy(update={"loads": (0.6,) * 200}) for timing in results.timings]
    never = replace(results, timings=tuple(busy))
    assert never.times_faster("rrr", "finetune") is None
    assert "times faster" not in verdict(never)
    busy_words = "other programs ran whenever finetune was timed beside rrr and linear-probe"
    assert f"Whether another method is faster is not known ({busy_words})." in verdict(never)
    # Neither does the tile, and the times have a tilde everywhere.
    assert ", the fastest</dt>" in page_of(results)
    page = page_of(never)
    assert "one image by rrr, the least time, but not surely the fastest</dt><dd>~" in page
    quiet_time, busy_time = tables.time_of(results, "rrr"), tables.time_of(never, "rrr")
    assert (quiet_time[0] == "~", busy_time[0] == "~") == (False, True)
    assert [row[2] for row in tables.summary(never).rows if row[0] == "rrr"] == [busy_time]
    assert [row[1] for row in tables.costs(never).rows if row[0] == "rrr"] == [busy_time.removesuffix(" ms")]
    assert draw_pareto(never).told.count("~") == len(ERRORS)  # type: ignore[union-attr]
    once = replace(results, timings=(busy[0], results.timings[1], *busy[2:]))
    alone = replace(results, timings=results.timings[1:2])
    assert once.times_faster("rrr", "finetune") == alone.times_faster("rrr", "finetune")
    costs = tables.costs(once)
    place = costs.header.index("times faster than finetune")
    quiet = {row[0]: row[place : place + 3] for row in costs.rows}
    value, (low, high), _ = once.times_faster("rrr", "finetune")
    assert quiet["rrr"] == (f"{value:.3g}", f"{low:.3g} to {high:.3g}", f"1 of {len(busy)}")
    assert quiet["finetune"] == ("", "", "")
    assert "times faster than finetune" not in tables.costs(never).header
    untimed = tables.costs(replace(results, timings=()))
    assert untimed.header[:2] == ("method", "points gained by the engine")
    assert all(len(row) == len(untimed.header) for row in untimed.rows)


def test_a_choice_sees_validation_photos_only(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", "mugs")
    plan = make_plan(data, "rrr,finetune", pick=True)
    study = StudyFolder(tmp_path / "study")
    study.write_plan(plan)
    # By the validation photos rrr is better, by the test photos finetune is.
    for cell in plan.cells:
        by_validation = {"rrr": 0.1, "finetune": 0.2}
        by_test = {"rrr": 0.3, "finetune": 0.25}
        error = (by_validation if cell.purpose == "validation" else by_test)[cell.method]
        study.write_record(make_record(cell, error))
    results = Results.read(study)
    (pick,) = pick_each(results)
    assert (pick.method, pick.best) == ("rrr", "finetune")
    assert (pick.validation_error, pick.test_error, pick.best_error) == pytest.approx((0.1, 0.3, 0.25))
    assert tables.picks(results).rows[0][-1] == "5.0"
    assert "One data set tells nothing of others" in verdict(results)
    # One method for all is chosen in the same way, not by the test.
    assert pick_one(results) == ("rrr", pytest.approx(0.3))
    assert "MACs" in verdict(results)


def test_unfinished_and_disturbed_studies_say_so(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs", "cups"), "rrr,finetune", target=TARGET)
    study = StudyFolder(tmp_path / "study")
    study.write_plan(plan)
    with pytest.raises(BadInput, match="No cell"):
        Results.read(study)
    first, second, third, _ = plan.cells
    for cell, changes in ((first, {}), (second, {}), (third, {"engine": None, "refused": "It answers differently."})):
        study.write_record(make_record(cell, 0.3, **changes))
    study.write_timing(make_timing(plan, first.data.name, 0, {"rrr": 1.0, "finetune": 2.0}, background_load=0.4))
    page = page_of(Results.read(study))
    for words in ("1 cell not finished", "not every method has results there: mugs.", "It answers differently."):
        assert words in page
    assert "Other programs ran while engines were timed, in every group;" in page
    assert Results.read(study).common == ("cups",)
    # What was recorded for other photos is of another study.
    other = make_record(first.model_copy(update={"data": first.data.model_copy(update={"listing": "x"})}), 0.1)
    study.write_record(other)
    assert len(Results.read(study).records) == 2


def test_one_is_no_plural(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs"), "rrr", target=TARGET)
    study = recorded(tmp_path / "study", plan, {("mugs", "rrr"): 0.1}, rrr={"threads": 1})
    environment = HERE.model_copy(update={"threads": 1})
    study.write_timing(make_timing(plan, "mugs", 0, {"rrr": 1.0}, environment=environment, background_load=0.4))
    page = page_of(Results.read(study))
    for words in ("1 method, 1 seed", "1 thread a cell", "Imaginary 9000, 1 thread, ", "%, 1 seed<"):
        assert words in page
    nouns = "thread|core|seed|cell|group|data set|method|image|photo|engine|pair"
    assert re.findall(rf"\b1 (?:{nouns})s\b", page) == []


def recorded(
    folder: Path, plan: Plan, errors: dict[tuple[str, str], float], **changes: dict[str, object]
) -> StudyFolder:
    """A study with networks' errors by data set and method; `changes` of the records by method."""
    study = StudyFolder(folder)
    study.write_plan(plan)
    for cell in plan.cells:
        if (error := errors.get((cell.data.name, cell.method))) is not None:
            study.write_record(make_record(cell, error, **changes.get(cell.method, {})))
    return study


def wilson(error: float, photos: int = 400) -> tuple[float, float]:
    """In percent, by scipy."""
    found = stats.binomtest(round(error * photos), photos).proportion_ci(method="wilson")
    return 100 * found.low, 100 * found.high


def test_methods_are_judged_by_their_engines_where_there_are_engines(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs", "cups"), "rrr,finetune,linear-probe", target=TARGET)
    errors = {(d, m): e for d in ("mugs", "cups") for m, e in (("rrr", 0.2), ("finetune", 0.1), ("linear-probe", 0.3))}
    study = recorded(tmp_path / "study", plan, errors)
    for cell in plan.cells:  # rounding costs finetune half of its answers
        record = study.record(cell)
        assert record
        assert record.engine
        if cell.method == "finetune":
            lossy = record.engine.model_copy(update={"accuracy": 0.4})
            study.write_record(record.model_copy(update={"engine": lossy}))
        if (cell.method, cell.data.name) == ("linear-probe", "mugs"):
            study.write_record(record.model_copy(update={"engine": None, "refused": "It answers differently."}))
    ms = {"rrr": 2.0, "finetune": 1.0, "linear-probe": 3.0}
    for data in ("mugs", "cups"):
        timing = make_timing(plan, data, 0, ms)
        engines = tuple(e for e in timing.engines if (e.method, data) != ("linear-probe", "mugs"))
        study.write_timing(timing.model_copy(update={"engines": engines}))
    results = Results.read(study)
    assert (results.best, results.common) == ("rrr", ("cups",))
    assert results.mean_error("finetune") == pytest.approx(0.6)
    assert results.pareto == ("rrr", "finetune")
    where = "On cups, the only one of 2 data sets that all methods have,"
    low, high = wilson(0.2)
    least = f"{where} rrr errs least, 20.0% (95% interval {low:.1f} to {high:.1f})"
    assert verdict(results).startswith(f"{least}. finetune errs 40.0 points more and is 2")
    row = dict(zip(tables.errors(results).header, tables.errors(results).rows[-1], strict=True))
    assert (row["method"], row["mean error, %"], row["its networks', %"]) == ("finetune", "60.0", "10.0")
    assert results.pairs == ()
    # A refused engine costs its method that group's time, and nobody else anything.
    assert set(results.timed) == set(ms)
    assert results.latency_ms("linear-probe").n == 1
    assert "linear-probe has times in 1 of 2 groups" in page_of(results)


def test_who_is_judged_by_fewer_seeds_is_named(tmp_path: Path) -> None:
    """Of three seeds the worst of one method was refused, another has only two where nobody has more."""
    plan = make_plan(write_data(tmp_path / "data", "mugs", "cups"), "rrr,finetune", seeds=(0, 1, 2), target=TARGET)
    study = StudyFolder(tmp_path / "study")
    study.write_plan(plan)
    for cell in plan.cells:
        if (cell.data.name, cell.seed) != ("cups", 2):
            study.write_record(make_record(cell, 0.1))
    whole = page_of(Results.read(study))
    assert "fewer seeds" not in whole
    worst = next(c for c in plan.cells if (c.data.name, c.method, c.seed) == ("mugs", "finetune", 1))
    study.write_record(make_record(worst, 0.5, engine=None, refused="It answers differently."))
    results = Results.read(study)
    assert results.fewer_seeds == {"finetune": ("mugs",)}
    assert "finetune is judged by fewer seeds than other methods on mugs: refused or not finished." in page_of(results)
    # As many seeds, but others.
    other = next(c for c in plan.cells if (c.data.name, c.method, c.seed) == ("mugs", "rrr", 0))
    study.write_record(make_record(other, 0.5, engine=None, refused="It answers differently."))
    assert Results.read(study).fewer_seeds == {"rrr": ("mugs",), "finetune": ("mugs",)}


@pytest.mark.parametrize(("methods", "least"), [(2, 6), (3, 7), (5, 9)])
def test_too_few_data_sets_for_so_many_claims_are_called_so(tmp_path: Path, methods: int, least: int) -> None:
    """Where every data set has the methods in the same order, no p can be smaller: scipy's times the claims."""
    names = ("rrr", "finetune", "linear-probe", "resnet18", "resnet34")[:methods]
    data = [f"data{number}" for number in range(least)]
    plan = make_plan(write_data(tmp_path / "data", *data), ",".join(names))
    errors = {(d, m): 0.1 * (1 + i) + 0.01 * j for i, m in enumerate(names) for j, d in enumerate(data)}
    results = Results.read(recorded(tmp_path / "study", plan, errors))
    fewer = replace(results, records=tuple(r for r in results.records if r.cell.data.name != "data0"))
    for found, number, significant in ((results, least, True), (fewer, least - 1, False)):
        p = stats.wilcoxon(-np.arange(1.0, number + 1), alternative="less", method="exact").pvalue
        smallest = methods * (methods - 1) * p
        assert found.pairs[0].corrected == pytest.approx(smallest)
        assert (smallest < 0.05) == significant
        assert ("no difference can be significant" in page_of(found)) != significant


def test_every_claim_is_over_the_data_sets_that_all_methods_have(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", *NAMES[:6]), "rrr,finetune,linear-probe")
    errors = {(d, m): 0.1 + 0.1 * i + 0.01 * j for i, m in enumerate(("rrr", "finetune")) for j, d in enumerate(NAMES)}
    errors |= {(d, "linear-probe"): 0.3 for d in ("mugs", "cups")}
    results = Results.read(recorded(tmp_path / "study", plan, errors))
    assert {pair.difference.n for pair in results.pairs} == {2}
    said = verdict(results)
    assert said.startswith("On the 2 of 6 data sets that all methods have, rrr errs least")
    assert "significant" not in said


def test_fewer_methods_keep_their_times_and_only_engines_of_others_go(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", "mugs")
    plan = make_plan(data, "rrr,finetune,linear-probe", target=TARGET)
    study = StudyFolder(tmp_path / "study")
    write_study(study, plan, ERRORS, MS)
    fewer = make_plan(data, "rrr,finetune", target=TARGET)
    study.write_plan(fewer)
    assert set(Results.read(study).timed) == {"rrr", "finetune"}
    record = study.record(fewer.cells[0])
    assert record
    assert record.engine
    study.write_record(record.model_copy(update={"engine": record.engine.model_copy(update={"card_sha256": "new"})}))
    assert Results.read(study).timed == ("finetune",)


def test_the_papers_means_stand_beside_its_own_recipes_alone(tmp_path: Path) -> None:
    methods = tuple(Method(name=name, recipes=recipes) for name, recipes in read_preset("paper", {}).methods)
    assert [paper_mean(method) for method in methods] == ["35.8", "36.0", "40.3", "39.9", "35.5"]
    quick = (Method(name=name, recipes=recipes) for name, recipes in read_preset("paper", {"epochs": 3}).methods)
    assert {paper_mean(method) for method in quick} == {""}
    mine = make_plan(write_data(tmp_path / "data", "mugs"), "rrr").methods[0].model_copy(update={"name": "A"})
    assert paper_mean(mine) == ""


def test_programs_get_the_numbers(results: Results) -> None:
    found = json.loads(json.dumps(results_document(results)))
    assert (found["errors_of"], found["best"], found["pareto"]) == ("engines", "finetune", ["finetune", "rrr"])
    rrr = next(method for method in found["methods"] if method["method"] == "rrr")
    assert rrr["error"]["mean"] == pytest.approx(np.mean(errors_of(results, "rrr")))
    assert rrr["ms"]["n"] == rrr["times_faster_than_best"]["n"] == 3 * len(NAMES)
    assert len(found["data_sets"]) == len(found["picks"]) == len(NAMES)
    assert len(found["pairs"]) == len(results.pairs)


def test_no_verdict_without_a_common_data_set(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs", "cups"), "rrr,finetune")
    results = Results.read(recorded(tmp_path / "study", plan, {("mugs", "rrr"): 0.1, ("cups", "finetune"): 0.3}))
    assert (results.best, results.pareto) == (None, ())
    said = verdict(results)
    assert "rrr lacks cups; finetune lacks mugs" in said
    assert "least" not in said
    assert "No data set is common" in page_of(results)
    words = "rrr,finetune,linear-probe,resnet18,resnet34"
    plan = make_plan(tmp_path / "data", words)
    apart = {("cups" if m == "rrr" else "mugs", m): 0.1 for m in words.split(",")}
    said = verdict(Results.read(recorded(tmp_path / "more", plan, apart)))
    assert said.endswith("rrr lacks mugs; finetune lacks cups; linear-probe lacks cups; 2 more methods likewise.")
    assert tables.summary(results).rows[0][1] == ""


def test_what_is_equal_is_called_so(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs", "cups"), "rrr,finetune")
    errors = {(d, m): 0.25 for d in ("mugs", "cups") for m in ("rrr", "finetune")}
    results = Results.read(recorded(tmp_path / "study", plan, errors))
    said = verdict(results)
    assert "rrr and finetune err alike and least, 25.0%" in said
    assert "No other method has at least 1% fewer MACs." in said
    assert "significant" not in said
    assert len(tables.pairs(results).rows) == 1


def test_of_many_faster_methods_the_nearest_and_the_fastest_are_named(tmp_path: Path) -> None:
    errors = {"finetune": 0.1, "rrr": 0.2, "linear-probe": 0.25, "resnet18": 0.3, "resnet34": 0.4}
    data = write_data(tmp_path / "data", "mugs", "cups")
    plan = make_plan(data, ",".join(errors), target=TARGET)
    found = {(d, m): e for d in ("mugs", "cups") for m, e in errors.items()}
    study = recorded(tmp_path / "study", plan, found)
    said = {}
    for rrr in (9.0, 3.0):
        ms = {"finetune": 9.0, "rrr": rrr, "linear-probe": 2.0, "resnet18": 1.0, "resnet34": 0.5}
        for name in ("mugs", "cups"):
            study.write_timing(make_timing(plan, name, 0, ms))
        said[rrr] = verdict(Results.read(study))
    assert re.findall(r"([\w-]+) errs (\d+).0 points more", said[9.0]) == [("linear-probe", "15"), ("resnet34", "30")]
    assert re.findall(r"([\w-]+) errs (\d+).0 points more", said[3.0]) == [("rrr", "10"), ("resnet34", "30")]
    assert "finetune is not surely better than rrr, linear-probe, resnet18 and 1 more (Wilcoxon, Holm)." in said[3.0]
    assert all(words.count(". ") == 2 and len(words) < 400 for words in said.values())


def test_the_nearest_is_sought_among_all_that_are_surely_faster(tmp_path: Path) -> None:
    """rrr errs less than linear-probe and is faster than it in each group, but by two ratios it is not surely so."""
    plan = make_plan(write_data(tmp_path / "data", "mugs", "cups"), "finetune,rrr,linear-probe,resnet18", target=TARGET)
    means = {"finetune": 0.1, "rrr": 0.2, "linear-probe": 0.3, "resnet18": 0.3}
    study = recorded(tmp_path / "study", plan, {(d, m): e for d in ("mugs", "cups") for m, e in means.items()})
    for name, times in (("mugs", 2.0), ("cups", 2.6)):
        ms = {"finetune": 9.0, "rrr": 9.0 / times, "linear-probe": 9.0 / 1.6, "resnet18": 9.5}
        timing = make_timing(plan, name, 0, ms)
        engines = timing.engines if name == "mugs" else tuple(e for e in timing.engines if e.method != "linear-probe")
        study.write_timing(timing.model_copy(update={"engines": engines}))
    results = Results.read(study)
    logs = np.log([t.median_ms("finetune") / t.median_ms("rrr") for t in results.timings])
    low, high = np.exp(stats.t.interval(0.95, 1, logs.mean(), stats.sem(logs)))
    assert results.times_faster("rrr", "finetune").interval == pytest.approx((low, high))
    assert low < 1 < high
    assert results.pareto == ("finetune", "rrr")
    costs = verdict(results).split(". ")[1]
    assert re.fullmatch(
        r"linear-probe errs 20.0 points more and is 1.6\d? times faster \(1.[56]\d* to 1.[67]\d*\)", costs
    )
    slow = tuple(t.model_copy(update={"engines": t.engines[:2]}) for t in results.timings[:1])
    assert "linear-probe has times in 0 of 1 group" in page_of(replace(results, timings=slow))


def test_who_was_never_timed_beside_the_best_is_named(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs", "cups"), "finetune,rrr,linear-probe", target=TARGET)
    means = {"finetune": 0.1, "rrr": 0.2, "linear-probe": 0.3}
    study = recorded(tmp_path / "study", plan, {(d, m): e for d in ("mugs", "cups") for m, e in means.items()})
    timing = make_timing(plan, "mugs", 0, {"finetune": 9.0, "rrr": 9.0, "linear-probe": 9.0})
    study.write_timing(timing)
    whole = Results.read(study)

    def costs(*together: tuple[str, ...]) -> str:
        engines = [tuple(e for e in timing.engines if e.method in names) for names in together]
        timings = tuple(timing.model_copy(update={"engines": each}) for each in engines)
        return verdict(replace(whole, timings=timings)).split(". ")[1]

    known = "No other method is surely at least 1% faster"
    assert costs(("finetune", "rrr", "linear-probe")) == known
    assert costs(("finetune", "rrr"), ("linear-probe",)) == f"{known} (never timed beside finetune: linear-probe)"
    unknown = "Whether another method is faster is not known"
    assert costs(("finetune",)) == f"{unknown} (never timed beside finetune: rrr and linear-probe)"
    # The larger gain is the fastest's, though the two were never timed together.
    timing = make_timing(plan, "mugs", 0, {"finetune": 9.0, "rrr": 3.0, "linear-probe": 6.0})
    apart = costs(("finetune", "rrr"), ("finetune", "linear-probe"))
    assert apart.startswith("rrr errs 10.0 points more and is 3 times faster (")
    assert "linear-probe" not in apart


def test_equal_means_have_no_interval_of_one_and_no_claim_among_themselves(tmp_path: Path) -> None:
    """rrr errs 10 or 50%, finetune 30% everywhere; that is guessing for one of them at most."""
    plan = make_plan(write_data(tmp_path / "data", *NAMES[:6]), "rrr,finetune,linear-probe")
    errors = {(d, "rrr"): 0.1 if i % 2 else 0.5 for i, d in enumerate(NAMES[:6])}
    errors |= {(d, "finetune"): 0.3 for d in NAMES} | {(d, "linear-probe"): 0.6 for d in NAMES}
    unequal = Results.read(recorded(tmp_path / "study", plan, errors))
    # Six equal errors, or six equal differences, have no interval.
    assert unequal.overall("finetune") == (pytest.approx(0.3), None, 6)
    row = {row[0]: row[1:3] for row in tables.errors(unequal).rows}
    assert row["finetune"] == ("30.0", "")
    assert row["rrr"][1]
    spans = {(p.better, p.worse): p.difference.interval is not None for p in unequal.pairs}
    assert (spans["finetune", "linear-probe"], spans["rrr", "linear-probe"]) == (False, True)
    said = verdict(unequal)
    assert said.startswith("On your 6 data sets rrr and finetune err alike and least, 30.0%. ")
    both = Results.read(recorded(tmp_path / "study", plan, dict.fromkeys(errors, 0.5)))
    assert "linear-probe err alike and least, 50.0%, but that is not surely better than guessing" in verdict(both)
    assert said.endswith("Over these data sets rrr is not surely better than linear-probe (Wilcoxon, Holm).")
    more = make_plan(write_data(tmp_path / "more", *(f"data{i}" for i in range(8))), "rrr,finetune,linear-probe")
    errors = {(d.name, m): e for d in more.data for m, e in (("rrr", 0.2), ("finetune", 0.2), ("linear-probe", 0.6))}
    said = verdict(Results.read(recorded(tmp_path / "study-more", more, errors)))
    assert said.endswith("That rrr errs less than each of the rest is significant (Wilcoxon, Holm).")


def test_one_photo_less_is_within_chance(tmp_path: Path) -> None:
    """Of 80 photos 8 and 9 wrong: by scipy's intervals nobody is surely better; 40 wrong ones are more."""
    plan = make_plan(write_data(tmp_path / "data", "mugs"), "rrr,finetune,linear-probe")
    wrong = {"rrr": 8, "finetune": 9, "linear-probe": 40}
    study = StudyFolder(tmp_path / "study")
    study.write_plan(plan)
    for cell in plan.cells:
        study.write_record(make_record(cell, wrong[cell.method] / 80, images=80))
    results = Results.read(study)
    for method, count in wrong.items():
        assert results.overall(method).interval == pytest.approx(np.array(wilson(count / 80, 80)) / 100)
    said = verdict(results)
    low, high = wilson(0.1, 80)
    assert said.startswith(f"On mugs rrr errs least, 10.0% (95% interval {low:.1f} to {high:.1f}).")
    unsure = "and on it rrr is not surely better than finetune: their intervals overlap."
    assert said.endswith(f"One data set tells nothing of others, {unsure}")


@pytest.mark.parametrize("errors", [(0.1, 0.3), (0.15, 0.2, 0.25), (0.2, 0.2, 0.2)])
def test_one_data_sets_interval_is_of_seeds_or_photos_as_either_reaches(
    tmp_path: Path, errors: tuple[float, ...]
) -> None:
    seeds = tuple(range(len(errors)))
    plan = make_plan(write_data(tmp_path / "data", "mugs"), "rrr", seeds=seeds)
    study = StudyFolder(tmp_path / "study")
    study.write_plan(plan)
    for cell in plan.cells:
        study.write_record(make_record(cell, errors[cell.seed]))
    photos = np.array(wilson(fmean(errors))) / 100
    reach = np.nan_to_num(stats.t.interval(0.95, len(errors) - 1, fmean(errors), stats.sem(errors)), nan=fmean(errors))
    expected = np.clip((min(photos[0], reach[0]), max(photos[1], reach[1])), 0, 1)
    assert Results.read(study).overall("rrr").interval == pytest.approx(expected)


@pytest.mark.parametrize(("more", "words"), [(0, "as often"), (1, "as often"), (4, "0.1 points more")])
def test_small_differences_are_no_points(tmp_path: Path, more: int, words: str) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs", "cups"), "finetune,rrr")
    study = StudyFolder(tmp_path / "study")
    study.write_plan(plan)
    for cell in plan.cells:
        wrong = 400 + more * (cell.method == "rrr")
        macs = {"finetune": 10_000, "rrr": 5_000 if more else 9_950}[cell.method]
        record = make_record(cell, wrong / 4000, images=4000)
        study.write_record(record.model_copy(update={"cost": record.cost.model_copy(update={"macs": macs})}))
    said = verdict(Results.read(study))
    if more:
        assert f"rrr errs {words} and has 2 times fewer MACs." in said
    else:
        assert "rrr and finetune err alike" in said or "finetune and rrr err alike" in said
        assert "No other method has at least 1% fewer MACs." in said


def test_only_what_is_surely_faster_is_called_so(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs"), "finetune,rrr", target=TARGET)
    study = recorded(tmp_path / "study", plan, {("mugs", "finetune"): 0.1, ("mugs", "rrr"): 0.2})
    timing = make_timing(plan, "mugs", 0, {"finetune": 2.0, "rrr": 2.0})
    first, second = timing.engines
    other = second.model_copy(update={"samples_ms": tuple(ms - 1e-4 for ms in reversed(first.samples_ms))})
    study.write_timing(timing.model_copy(update={"engines": (first, other)}))
    results = Results.read(study)
    assert results.pareto == ("finetune", "rrr")
    low, high = wilson(0.1)
    expected = (
        f"On mugs finetune errs least, 10.0% (95% interval {low:.1f} to {high:.1f}).",
        "No other method is surely at least 1% faster.",
    )
    assert verdict(results) == " ".join((*expected, "One data set tells nothing of others."))


def test_errors_that_are_chance_are_called_guessing(tmp_path: Path) -> None:
    """Of 2 classes and 400 photos 220 right answers are no chance, 219 may be: Wilson's bounds are 50.1 and 49.9%."""
    plan = make_plan(write_data(tmp_path / "data", "mugs", "cups", "jugs"), "rrr,finetune", seeds=(0, 1))
    errors = {("mugs", "rrr"): 0.1, ("cups", "rrr"): 1 - 219 / 400, ("jugs", "rrr"): 1 - 220 / 400}
    study = recorded(tmp_path / "study", plan, {**errors, **{(d, "finetune"): 0.6 for d, _ in errors}})
    results = Results.read(study)
    assert [results.guesses("rrr", d) for d in ("mugs", "cups", "jugs")] == [False, True, False]
    errs_least, *_ = verdict(results).split(". ")
    assert errs_least.endswith("), but that is not surely better than guessing at random on cups")
    rows = {row[0]: row for row in tables.data_sets(results).rows}
    assert {name: (row[2], row[-1]) for name, row in rows.items()} == {
        "cups": ("50.0", "rrr, finetune"),
        "jugs": ("50.0", "finetune"),
        "mugs": ("50.0", "finetune"),
    }
    methods = {method["method"]: method["guesses_on"] for method in results_document(results)["methods"]}
    assert methods == {"rrr": ["cups"], "finetune": ["cups", "jugs", "mugs"]}
    alone = replace(results, records=tuple(r for r in results.records if r.cell.method == "finetune"))
    assert verdict(alone).endswith(
        "errs 60.0%, but that is not surely better than guessing at random. There is nothing to compare it with."
    )
    right = replace(results, records=tuple(r for r in results.records if r.cell.data.name == "mugs"))
    assert "guessing" not in verdict(right)
