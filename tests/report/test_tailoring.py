"""Tailored networks drawn, on the page, and beside their source in time."""

from html import unescape
from pathlib import Path

import numpy as np
import pytest
from drawing import numbers, parsed, texts, with_class
from made_up import MS, TARGET, make_bundle, profile, rewrite, store

from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.recipe import FineTune, NetTailor
from rrr_edge.bundle.tailored import TailoredNode, TailoredSpec
from rrr_edge.bundle.tailoring import TailoringRow
from rrr_edge.report.candidate import Candidate
from rrr_edge.report.page import page_of
from rrr_edge.report.tailoring import draw_network, draw_tailoring, gain
from rrr_edge.report.words import count

# Node 3 is removed; nodes 1, 2 and 5 have one path.
SPEC = TailoredSpec(
    backbone="resnet18",
    num_classes=3,
    nodes=(
        TailoredNode(),
        TailoredNode(),
        TailoredNode(block=False),
        TailoredNode(block=False, proxies=(1, 2), attention=(0.25, 0.75)),
        TailoredNode(),
        TailoredNode(proxies=(4,), attention=(0.6, 0.4)),
        TailoredNode(block=False, proxies=(6,)),
        TailoredNode(proxies=(5, 7), attention=(0.5, 0.2, 0.3)),
    ),
)


def test_every_path_is_a_line_as_wide_as_its_attention_and_the_sums_are_those_of_the_cost() -> None:
    root = parsed(draw_network(SPEC, 64))
    lines = [e for e in root.iter() if e.get("stroke-width")]
    assert len(lines) == sum(node.paths for node in SPEC.nodes)
    assert len(with_class(root, "own")) == SPEC.blocks == 5
    said = {"".join(line.itertext()): float(line.get("stroke-width", "")) for line in lines}
    widths = {
        attention: width for words, width in said.items() for attention in [numbers(words.partition("attention")[2])[0]]
    }
    assert {round(width / widths[1.0], 3) for width in widths.values()} == {1, 0.25, 0.75, 0.6, 0.4, 0.5, 0.2, 0.3}
    words, expected = texts(root), cost(SPEC, 64)
    assert words.count("removed") == 1
    told = " ".join(words)
    assert "5 of 8 blocks of ResNet18" in told
    assert "6 proxies" in told
    for number in (expected.params, expected.shared_params, expected.macs):
        assert count(number) in told


@pytest.fixture
def tailored(tmp_path: Path) -> Bundle:
    bundle = make_bundle(tmp_path / "mugs.rrr")
    changes = {"spec": SPEC, "recipe": NetTailor(backbone="resnet18"), "cost": cost(SPEC, 224)}
    return rewrite(bundle, bundle.manifest.model_copy(update=changes))


def test_the_page_draws_it_once_a_bundle_and_says_what_it_gained_in_time_too(tailored: Bundle, full: Candidate) -> None:
    found = profile(tailored, baselines={"ResNet18, openvino int8": 2 * MS, "ResNet18, PyTorch": 90 * MS})
    slower = profile(tailored, ms=3 * MS, target=TARGET.model_copy(update={"precision": "fp32"}))
    html = page_of([store(tailored, found), store(tailored, slower)])
    assert html.count("<h3>The tailored network</h3>") == 1
    whole = next(m for m in found.baselines if m.name == "ResNet18, openvino int8")
    time = np.median(found.engine.samples_ms) / np.median(whole.samples_ms)
    macs = tailored.manifest.cost.macs / (whole.subject.macs or 0)
    sentence = gain(tailored.manifest, found)
    assert sentence in unescape(html)
    assert f"has {macs:.0%} of ResNet18's MACs and takes {time:.1%} (" in sentence
    assert "of its time in openvino int8" in sentence
    assert gain(tailored.manifest, profile(tailored, baselines={})) == ""
    busy = [m.model_copy(update={"loads": (0.6,) * len(m.samples_ms)}) for m in found.measurements]
    said = gain(tailored.manifest, found.model_copy(update={"measurements": tuple(busy)}))
    assert f"has {macs:.0%} of ResNet18's MACs; what that is in time cannot be said" in said
    assert gain(full.bundle.manifest, full.profile) == ""
    assert "The tailored network" not in page_of([full])
    learned = tailored.manifest.model_copy(update={"recipe": FineTune(backbone="resnet18")})
    assert "The tailored network" not in page_of([Candidate(rewrite(tailored, learned), found)])


def test_the_search_is_drawn_with_what_was_chosen_and_what_was_allowed() -> None:
    rows = [TailoringRow(n, 8 - n, 3, 100 - n, (9 - n) * 10**6, 0.9 - 0.02 * n, 0.87, n < 2, 1.0) for n in range(3)]
    root = parsed(draw_tailoring(rows, chosen=1))
    assert len(with_class(root, "mark")) == 2 * len(rows)
    assert ["1 block dropped" in "".join(e.itertext()) for e in with_class(root, "full")] == [True, True]
    assert len([e for e in with_class(root, "faint") if e.get("stroke-dasharray")]) == 2
