"""The page as a file: sound HTML that asks nobody for anything, with the numbers of the samples in it."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import typer
from fake_bundle import rewrite, write_engine
from made_up import HERE, TARGET, layers, make_bundle, profile, store, verification
from made_up import rewrite as rewrite_manifest
from test_evaluation_tables import evaluation

from rrr_edge.bundle.calibration import CALIBRATED, HELD_OUT, OWN_TEST_PHOTOS, Calibration, LabelSets, Promise
from rrr_edge.bundle.engine import PairTime
from rrr_edge.bundle.evaluation import sha256_of
from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import ENGINE, EVALUATION
from rrr_edge.bundle.manifest import Ancestor
from rrr_edge.bundle.recipe import RRR, BasisScaling, NetTailor, Selection, Training
from rrr_edge.bundle.settings import read_recipe
from rrr_edge.cli.app import app
from rrr_edge.errors import UsageError
from rrr_edge.report import files_of, write_report
from rrr_edge.report.candidate import Candidate
from rrr_edge.report.page import page_of
from rrr_edge.report.reproduce import commands, recipe_toml

ATTACK = "<script>alert('&')</script>"
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """Checks that all that is opened is closed in order, and keeps elements, texts and tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def html(full: Candidate) -> str:
    return page_of([full])


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_it_is_well_formed_complete_and_small(html: str, page: Page) -> None:
    assert html.startswith("<!DOCTYPE html>\n<html lang=")
    assert len(html.encode()) < 300_000
    assert [tag for tag, _ in page.elements[:2]] == ["html", "head"]
    assert page.all("meta")[0] == {"charset": "utf-8"}
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    for name in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(name)


def test_nothing_is_loaded_and_the_policy_forbids_it(html: str, page: Page) -> None:
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html
    loading = {"src", "srcset", "href", "xlink:href", "action", "data", "poster", "background", "style"}
    loaded = [(tag, attributes) for tag, attributes in page.elements if loading & attributes.keys()]
    assert loaded == [("link", {"rel": "icon", "href": "data:,"})]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    policy = next(m["content"] or "" for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = page.texts[tag]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_every_figure_has_a_heading_a_caption_and_words_for_who_cannot_see(html: str, page: Page) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) == 8  # five, and figure 3 has three panels
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img"
        assert root[0].tag == "title"
        assert root[1].tag == "desc"
        assert len(root[1].text or "") > 40
    figures = len(page.all("figure"))
    assert figures == 6
    assert len(page.texts["figcaption"]) == figures
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_table_has_the_numbers_of_the_samples(full: Candidate, page: Page) -> None:
    header, *rows = page.tables[0]
    cells = {row[0].strip(): dict(zip(header, row, strict=True)) for row in rows}
    assert len(cells) == len(full.profile.measurements)
    for m in full.profile.measurements:
        name = m.name.partition(": ")[2] or m.name
        row = cells["engine, openvino int8" if name == "engine" else name]
        assert row["median ms"] == f"{np.median(m.samples_ms):.3f}"
    engine = np.median(full.profile.engine.samples_ms)
    for m in full.profile.baselines:
        times = float(cells[m.name]["times the engine's"].split()[0].replace(",", ""))
        assert times == pytest.approx(np.median(m.samples_ms) / engine, rel=5e-3)


def test_layers_parts_loads_and_pruned_networks_have_tables(full: Candidate, page: Page) -> None:
    tables = {table[0][0]: table[1:] for table in page.tables}
    layers = tables["layer"]
    times = [float(row[4]) for row in layers]
    assert times == sorted(times, reverse=True)
    assert len(times) == 12
    assert times[0] == round(max(layer.ms for layer in full.profile.layers), 4)
    networks, parts, loads, pruned = (table for table in page.tables[1:] if table[0][0] == "measured")
    assert [row[0] for row in networks[1:]] == ["engine, openvino int8", *(m.name for m in full.profile.baselines)]
    assert parts[-1][0] == "whole run"
    assert [row[0] for row in loads[1:]] == [load.measurement.name for load in full.profile.loads]
    assert pruned[0][2:] == ["pytorch fp32", "openvino fp32", "openvino int8"]
    block = next(row for row in pruned if row[:2] == ["block", "50.0%"])
    found = {a.measurement.name: np.median(a.measurement.samples_ms) for a in full.profile.alternatives}
    ratio = found["block 50 %, pytorch fp32"] / found["baseline beside 50 %, pytorch fp32"]
    assert block[2].startswith(f"{ratio:.2f}  ")


def test_environment_verification_and_commands_are_there(full: Candidate, html: str, page: Page) -> None:
    cells = [cell for table in page.tables for row in table for cell in row]
    assert {HERE.cpu, HERE.machine_id, "avx2, avx512_vnni", "openvino", "2026.4.1"} <= set(cells)
    verified = next(table for table in page.tables if table[0][0] == "what")
    assert [row[:2] for row in verified[1:]] == [["mugs, model.onnx", "passed"], ["mugs, openvino-int8", "passed"]]
    commands = page.texts["pre"][0].splitlines()
    assert commands == [
        "rrr-edge compress DATA -o mugs.rrr --recipe recipe.toml",
        "rrr-edge compile mugs.rrr --target openvino --precision int8",
        "rrr-edge profile mugs.rrr --target openvino --precision int8 --against baseline,block,channel,element "
        "--sparsity 0.1,0.3,0.5,0.7,0.86 --runs 60 --pace 25 --cold-start --batches 8 --streams 2",
        "rrr-edge report mugs.rrr -o report.html",
    ]
    assert str(full.bundle.path.parent) not in html
    known = typer.main.get_command(app).commands
    for verb, options in ((line.split()[1], re.findall(r"--[a-z-]+", line)) for line in commands):
        there = {option for parameter in known[verb].params for option in parameter.opts}
        assert set(options) <= there


def test_names_of_users_stay_words(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "x<b>.rrr", name=ATTACK, labels=(ATTACK, "\"'><img src=x onerror=1>", "c"))
    layer = layers()[0].model_copy(update={"name": ATTACK})
    candidate = store(bundle, profile(bundle, layers=(layer,), notes=(ATTACK,)))
    page = Page(page_of([candidate]))
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not page.all("b")
    cells = [cell for table in page.tables for row in table for cell in row]
    assert {ATTACK, "\"'><img src=x onerror=1>"} <= set(cells)


def test_several_engines_stand_side_by_side_with_their_machines_if_these_differ(full: Candidate) -> None:
    fp32 = TARGET.model_copy(update={"precision": "fp32"})
    here = Candidate(full.bundle, profile(full.bundle, ms=2, target=fp32))
    table = Page(page_of([full, here])).tables[0]
    assert [row[0] for row in table] == ["engine", "mugs, openvino int8", "mugs, openvino fp32"]
    assert "machine" not in table[0]
    elsewhere = HERE.model_copy(update={"machine_id": "ffffffff"})
    there = Candidate(full.bundle, profile(full.bundle, ms=2, target=fp32, environment=elsewhere))
    page = Page(page_of([full, there]))
    assert [row[-1] for row in page.tables[0][1:]] == ["Imaginary 9000 (0123abcd)", "Imaginary 9000 (ffffffff)"]
    assert any("different machines" in text for text in page.texts["p"])


def test_a_profile_without_extras_makes_a_page_without_holes(full: Candidate) -> None:
    bare = Candidate(full.bundle, profile(full.bundle, accuracy=None, baselines={}))
    page = Page(page_of([bare]))
    assert len(page.all("figure")) == 3
    assert all(len(table) > 1 for table in page.tables)
    assert page.tables[0][0] == ["measured", "median ms", "95% interval"]


def test_ten_profiles_of_a_thousand_runs_stay_under_two_megabytes(full: Candidate) -> None:
    many = full.profile.model_copy(
        update={
            "measurements": tuple(
                m.model_copy(update={"samples_ms": m.samples_ms * 17}) for m in full.profile.measurements
            )
        }
    )
    assert 10 * len(page_of([Candidate(full.bundle, many)])) < 2_000_000


# Files


def test_reports_are_written_again_but_nothing_else_is_replaced(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "mugs.rrr")
    store(bundle, profile(bundle))
    out, short = tmp_path / "report.html", tmp_path / "report.md"
    said = write_report([bundle.path], out, markdown=short)
    again = write_report([bundle.path], out, markdown=short)
    assert said == again
    assert said in out.read_text()
    mine = tmp_path / "mine.html"
    mine.write_text("<html>my own</html>")
    with pytest.raises(UsageError, match="no report of ours"):
        write_report([bundle.path], mine)
    short.write_text("notes")
    with pytest.raises(UsageError, match="no report of ours"):
        write_report([bundle.path], out, markdown=short)
    assert mine.read_text() == "<html>my own</html>"
    assert short.read_text() == "notes"


@pytest.mark.parametrize("damaged", ["model.xml", ENGINE])
def test_a_damaged_engine_is_refused_and_the_others_are_reported(tmp_path: Path, damaged: str) -> None:
    bundle = make_bundle(tmp_path / "mugs.rrr")
    store(bundle, profile(bundle))
    write_engine(bundle, TARGET.model_copy(update={"precision": "fp32"}), ("model.xml", b"x"))
    (bundle.engine_folder("openvino-fp32") / damaged).write_bytes(b"y")
    write_report([bundle.path], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    verified = {row[0]: row[1] for table in Page(html).tables if table[0][0] == "what" for row in table[1:]}
    assert verified["mugs, openvino-int8"] == "passed"
    assert verified["mugs, openvino-fp32"].startswith(f"refused: mugs.rrr/engines/openvino-fp32/{damaged} ")
    assert str(tmp_path) not in html


def test_beside_a_profile_lie_its_figures_and_the_page(full: Candidate, html: str) -> None:
    files = files_of(full.bundle, full.profile)
    figures = ["latency", "distribution", "figure3", "parts", "roofline", "spider"]
    assert list(files) == [*(f"{name}.svg" for name in figures), "report.html"]
    assert files["report.html"] == html


# How to reproduce


@pytest.mark.parametrize(
    "recipe",
    [
        RRR(),
        RRR(depths="auto", selection=Selection(epsilon=0.01), training=Training(epochs=7)),
        RRR(weights='a "quoted" \\ file', dropout=0.05, dropout_kind="plain"),
        RRR(weights="\U0001f9a6 und \u00e4\x7f.pth"),
    ],
)
def test_the_recipe_reads_back_the_same(recipe: RRR, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(recipe_toml(recipe))
    assert read_recipe(file) == recipe


def test_a_file_of_weights_is_named_and_not_located() -> None:
    assert 'weights = "mine.pth"' in recipe_toml(RRR(weights="/home/somebody/private/mine.pth")).splitlines()
    assert 'teacher = "big.rrr"' in recipe_toml(NetTailor(teacher="/home/somebody/big.rrr")).splitlines()


def test_the_commands_have_what_the_engine_was_made_with(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "mugs.rrr")
    target = TARGET.model_copy(update={"name": "box"})
    store(bundle, profile(bundle, target=target))
    lost = verification(0.9, 400).model_copy(update={"accuracy_reference": 0.9234})
    changes = {"lowering": "dense", "calibration": "0" * 64, "verification": lost.model_dump()}
    rewrite(bundle.engine_folder("box-int8") / "engine.json", lambda card: card.update(changes))
    said = commands([Candidate(bundle, profile(bundle, target=target))]).splitlines()
    asked = "mugs.rrr --target FILE.toml --precision int8"
    assert said[1] == f"rrr-edge compile {asked} --lowering dense --calib-data DIR --max-drop 0.024"
    assert said[2].startswith(f"rrr-edge profile {asked} ")


@pytest.mark.parametrize(
    ("photos", "said"),
    [
        ("some photos", "mugs.rrr PHOTOS"),
        (HELD_OUT.format("none"), "mugs.rrr DATA"),
        (OWN_TEST_PHOTOS, "mugs.rrr --test-photos"),
    ],
)
def test_the_commands_have_what_the_engine_was_calibrated_with(photos: str, said: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "mugs.rrr")
    candidate = store(bundle, profile(bundle))
    assert not any("calibrate" in line for line in commands([candidate]).splitlines())
    folder = bundle.engine_folder(TARGET.engine_name)
    record = Calibration(
        bundle="mugs",
        engine=TARGET.engine_name,
        engine_sha256=sha256(folder / ENGINE),
        photos=photos,
        photos_sha256="",
        images=9,
        correct=9,
        labels=bundle.manifest.labels,
        temperature=1.0,
        error_before=0.0,
        error_after=0.0,
        measure="entropy",
        rankings=(),
        promise=Promise(max_error=0.02, confidence=0.9, threshold=0.5, photos=6, answered=6, wrong=0, bound=0.02),
        sets=LabelSets(coverage=0.95, levels=(0.1,) * 3, own=(True,) * 3, mean_size=1.0),
        by_class=(),
        machine="",
        created="",
    )
    (folder / CALIBRATED).write_text(record.to_json())
    target = "--target openvino --precision int8"
    lines = commands([candidate]).splitlines()
    assert lines[2] == f"rrr-edge calibrate {said} {target} --max-error 0.02 --confidence 0.9 --sets 0.95"
    assert lines[3].startswith(f"rrr-edge profile mugs.rrr {target}")
    plain = record.model_copy(update={"promise": None, "sets": None})
    (folder / CALIBRATED).write_text(plain.to_json())
    assert commands([candidate]).splitlines()[2] == f"rrr-edge calibrate {said} {target}"


@pytest.mark.parametrize(
    ("what", "photos", "said"),
    [
        ("openvino-int8", OWN_TEST_PHOTOS, "mugs.rrr --target openvino --precision int8"),
        ("onnx", "some photos", "mugs.rrr PHOTOS --model onnx"),
    ],
)
def test_the_commands_have_the_evaluation_that_the_page_shows(
    what: str, photos: str, said: str, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "mugs.rrr")
    candidate = store(bundle, profile(bundle))
    assert "evaluate" not in commands([candidate])
    folder = bundle.evaluation_folder(what)
    folder.mkdir(parents=True)
    changes = {"what": what, "what_sha256": sha256_of(bundle, what), "photos": photos}
    found = evaluation(3).model_copy(update=changes)
    (folder / EVALUATION).write_text(found.to_json())
    assert commands([candidate]).splitlines()[2] == f"rrr-edge evaluate {said}"


def test_the_page_has_the_whole_chain_of_recipes(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "small.rrr")
    digest = "a" * 64
    first = Ancestor(
        name="mugs.rrr",
        recipe=RRR(branches=5),
        weights_sha256=digest,
        data_sha256=digest,
        params=8_000_000,
        accuracy=0.9,
        duration_s=60.0,
    )
    recipe = BasisScaling(start="/home/somebody/mugs.rrr")
    bundle = rewrite_manifest(bundle, bundle.manifest.model_copy(update={"chain": (first,), "recipe": recipe}))
    candidate = store(bundle, profile(bundle))
    assert commands([candidate]).splitlines()[:2] == [
        "rrr-edge compress DATA -o mugs.rrr --recipe mugs.toml",
        "rrr-edge compress DATA -o small.rrr --recipe recipe.toml",
    ]
    start = make_bundle(tmp_path / "mugs.rrr")
    said = commands([candidate, store(start, profile(start))]).splitlines()
    assert [line for line in said if " compress " in line] == [
        "rrr-edge compress DATA -o mugs.rrr --recipe recipe.toml",
        "rrr-edge compress DATA -o small.rrr --recipe recipe.toml",
    ]
    texts = Page(page_of([candidate])).texts
    assert "mugs.toml of mugs.rrr, from which the next was made" in texts["h3"]
    recipes = "".join(texts["pre"])
    assert "branches = 5" in recipes
    assert 'from = "mugs.rrr"' in recipes
    assert any("90.0% of its test photos right" in text for text in texts["p"])


def test_pairs_of_convolutions_are_listed_with_what_they_gain(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "mugs.rrr")
    pairs = (
        PairTime(name="conv1", pair_ms=0.1, product_ms=0.25),
        PairTime(name="layer1.0.conv2", pair_ms=2, product_ms=1),
    )
    candidate = store(bundle, profile(bundle).model_copy(update={"pairs": pairs}))
    (table,) = (table for table in Page(page_of([candidate])).tables if "gain, ms" in table[0])
    assert table[1:] == [["conv1", "0.1000", "0.2500", "+0.1500"], ["layer1.0.conv2", "2.0000", "1.0000", "-1.0000"]]
    said = "when the engine was compiled beside other programs, which may be far off"
    assert said not in page_of([candidate])
    disturbed = tuple(pair.model_copy(update={"quiet": False}) for pair in pairs)
    assert said in page_of([Candidate(bundle, candidate.profile.model_copy(update={"pairs": disturbed}))])


def test_a_caption_speaks_of_layers_only_where_they_were_profiled(full: Candidate) -> None:
    said = "own clock tells which layer"
    assert said in page_of([full])
    bare = full.profile.model_copy(update={"layers": (), "ceiling": None})
    assert said not in page_of([Candidate(full.bundle, bare)])


def test_the_page_says_that_ties_are_left_out_of_the_agreement(full: Candidate) -> None:
    assert "top-1 alike" in page_of([full])
