import re

import numpy as np
from made_up import TARGET, profile

from rrr_edge.report.candidate import Candidate
from rrr_edge.report.markdown import markdown_of
from rrr_edge.report.verdict import verdict


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_it_is_the_verdict_a_table_and_one_line_of_environment(full: Candidate) -> None:
    lines = markdown_of([full]).splitlines()
    assert lines[1] == f"**{verdict([full])}**".replace("~", "\\~")
    table = [line for line in lines if line.startswith("|")]
    assert len({len(cells(line)) for line in table}) == 1
    assert set(cells(table[1])) == {"---", "---:"}
    assert len(table) == 2 + len(full.profile.measurements)
    engine = dict(zip(cells(table[0]), cells(table[2]), strict=True))
    assert engine["median ms"] == f"{np.median(full.profile.engine.samples_ms):.3f}"
    assert lines[-1].startswith("Imaginary 9000 (0123abcd), 2 of 2 cores, ")


def test_several_engines_are_rows(full: Candidate) -> None:
    other = Candidate(full.bundle, profile(full.bundle, ms=2, target=TARGET.model_copy(update={"precision": "fp32"})))
    table = [line for line in markdown_of([full, other]).splitlines() if line.startswith("|")]
    assert [cells(line)[0] for line in table[2:]] == ["mugs, openvino int8", "mugs, openvino fp32"]


def test_names_of_users_stay_words(full: Candidate) -> None:
    name = "a|b\n**c** <script> [d](e) `f`"
    said = markdown_of([Candidate(full.bundle, full.profile.model_copy(update={"bundle": name}))])
    assert r"a\|b \*\*c\*\* &lt;script&gt; \[d\](e) \`f\`" in said
