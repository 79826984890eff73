import json
import re

import pytest

from rrr_edge.cli.display import Display
from rrr_edge.timing.progress import Step

Captured = pytest.CaptureFixture[str]


def test_a_result_is_a_document_or_a_text(capsys: Captured) -> None:
    Display(as_json=True).result({"a": 1}, "for people")
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    Display().result({"a": 1}, "for people")
    assert capsys.readouterr().out == "for people\n"


def test_results_errors_and_warnings_are_said_even_when_quiet(capsys: Captured) -> None:
    display = Display(quiet=True)
    display.say("hello")
    display.warn("careful")
    display.error("It broke.", "Mend it.", None)
    display.result({}, "done")
    said = capsys.readouterr()
    assert said.out == "done\n"
    assert said.err == "warning: careful\nerror: It broke.\n       Mend it.\n"


def test_causes_are_for_those_who_ask(capsys: Captured) -> None:
    cause = ValueError("the root of it")
    Display().error("It broke.", "", cause)
    assert "root" not in capsys.readouterr().err
    Display(verbose=True).error("It broke.", "", cause)
    assert "caused by ValueError: the root of it" in capsys.readouterr().err


def test_a_table_has_its_columns_and_is_not_for_programs(capsys: Captured) -> None:
    rows = [{"engine": "openvino-int8", "ms": "1.9"}, {"engine": "x", "ms": "2.5"}]
    Display().table("Engines", rows)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if re.search(r"\w", line)]
    assert lines == [["Engines"], ["engine", "ms"], ["openvino-int8", "1.9"], ["x", "2.5"]]
    Display(as_json=True).table("Engines", rows)
    assert capsys.readouterr() == ("", "")


def test_an_empty_column_is_left_out(capsys: Captured) -> None:
    Display().table("", [{"engine": "x", "ratio": "", "why": ""}, {"engine": "y", "ratio": "", "why": "so"}])
    header = next(line for line in capsys.readouterr().out.splitlines() if line.strip())
    assert header.split() == ["engine", "why"]


def test_long_cells_are_kept_whole(capsys: Captured) -> None:
    name = "a" * 400
    Display().table("", [{"image": name}])
    assert capsys.readouterr().out.count("a") == 400 + "image".count("a")


def test_where_there_is_no_terminal_progress_is_a_line_every_ten_seconds(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("rrr_edge.cli.display.time.monotonic", lambda: now)
    with Display().progress() as on_progress:
        for done in range(101):
            on_progress(Step("train", done, 100, f"loss {done}"))
            now += 1
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0] == "train 0/100 loss 0"
    assert lines[1] == "train 10/100, 1:30 left loss 10"
    assert lines[-1] == "train 100/100 loss 100"
    assert len(lines) == 11


def test_a_stage_that_begins_again_is_clocked_anew(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("rrr_edge.cli.display.time.monotonic", lambda: now)
    with Display().progress() as on_progress:
        for seconds in (100, 1):  # a step
            for done in range(43):
                on_progress(Step("calibrate", done, 42))
                now += seconds
    lines = capsys.readouterr().err.splitlines()
    again = lines[lines.index("calibrate 42/42") + 1 :]
    assert again[:2] == ["calibrate 0/42", "calibrate 10/42, 0:32 left"]


def test_each_stage_has_its_first_and_its_last_line(capsys: Captured) -> None:
    with Display().progress() as on_progress:
        for stage in ("scan", "train"):
            for done in range(4):
                on_progress(Step(stage, done, 3))
    assert capsys.readouterr().err.splitlines() == ["scan 0/3", "scan 3/3", "train 0/3", "train 3/3"]


def test_quiet_has_no_progress(capsys: Captured) -> None:
    with Display(quiet=True).progress() as on_progress:
        on_progress(Step("train", 1, 1))
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_bars_on_stderr(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Display().progress() as on_progress:
        on_progress(Step("train", 1, 4, "loss 1"))
        on_progress(Step("train", 4, 4, "loss 0"))
    said = capsys.readouterr()
    assert said.out == ""
    assert "train" in said.err
    assert "4/4" in said.err


def test_a_bar_that_begins_again_counts_anew(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Display().progress() as on_progress:
        for done in (1, 42, 1):
            on_progress(Step("calibrate", done, 42))
    assert "1/42" in capsys.readouterr().err.split("42/42")[-1]
