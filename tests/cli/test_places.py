"""Where commands write: links in a bundle are not followed, what is not ours is not replaced, streams stay streams."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_bundle import write_bundle, write_engine
from made_up import TARGET, make_bundle, profile, store
from test_cli import run

from rrr_edge.backends.fake import ENGINE_FILE
from rrr_edge.bundle.folder import Bundle

COMMANDS = {
    "compile": ("compile", "{bundle}", "-t", "openvino"),
    "profile": ("profile", "{bundle}", "-t", "openvino"),
    "verify": ("verify", "{bundle}", "-t", "openvino"),
    "predict": ("predict", "{bundle}", "{bundle}/photo.png"),
    "gate": ("gate", "--baseline", "{bundle}", "--self-test", "-t", "openvino"),
    "report": ("report", "{bundle}", "-o", "{tmp}/report.html"),
}


@pytest.mark.parametrize(
    ("verb", "part"),
    [
        *((verb, "engines") for verb in COMMANDS if verb != "report"),
        *((verb, "engines/openvino-int8") for verb in COMMANDS if verb != "report"),
        *(("profile", part) for part in ("profiles", "profiles/openvino-int8", "baselines")),
        *(("report", part) for part in ("profiles", "profiles/openvino-int8")),
    ],
)
def test_links_in_a_bundle_are_refused_before_any_work(tmp_path: Path, verb: str, part: str) -> None:
    bundle = make_bundle(tmp_path / "mugs.rrr")
    store(bundle, profile(bundle))
    inside, outside = bundle.path / part, tmp_path / "outside"
    outside.mkdir() if not inside.exists() else inside.rename(outside)
    inside.symlink_to(outside)
    before = sorted(tmp_path.rglob("*"))
    result = run(*(word.format(bundle=bundle.path, tmp=tmp_path) for word in COMMANDS[verb]), "--json")
    assert result.code == 5, result.stderr
    assert f"{inside} is a link; in a bundle links are not followed." in result.document["error"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = make_bundle(tmp_path_factory.mktemp("profiled") / "mugs.rrr")
    store(bundle, profile(bundle))
    return bundle


@pytest.mark.parametrize(("verb", "option"), [("report", "-o"), ("report", "--markdown"), ("gate", "--markdown")])
def test_what_is_not_ours_is_refused_before_any_work_and_stays(
    profiled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, option: str
) -> None:
    for work in ("rrr_edge.profile.gate.self_test", "rrr_edge.report.page_of"):
        monkeypatch.setattr(work, None)
    notes = tmp_path / "NOTES.md"
    notes.write_text("my own")
    (tmp_path / "link.md").symlink_to(notes)
    (tmp_path / "nowhere.md").symlink_to(tmp_path / "absent.md")
    words = {
        "report": ("report", profiled.path, *(() if option == "-o" else ("-o", tmp_path / "page.html"))),
        "gate": ("gate", "--baseline", profiled.path, "--self-test", "-t", "openvino"),
    }[verb]
    for place, said in {
        "NOTES.md": "exists and is no report of ours",
        "link.md": "exists and is no report of ours",
        "nowhere.md": "is a link to nothing",
        ".": "is no file",
        "/dev": "is no file",
    }.items():
        result = run(*words, option, tmp_path / place, "--json")
        assert result.code == 2, result.stderr
        assert said in result.document["error"]
    assert notes.read_text() == "my own"
    assert not (tmp_path / "page.html").exists()


def test_streams_are_written_into(profiled: Bundle, tmp_path: Path) -> None:
    """Devices, pipes and links to files; a pipe that nobody reads is a sentence and not a wait for ever."""
    pipe, ours = tmp_path / "pipe", tmp_path / "ours.md"
    os.mkfifo(pipe)
    (tmp_path / "link.md").symlink_to(ours)
    ours.touch()
    report = ("report", profiled.path, "--json")
    assert run(*report, "-o", "/dev/null", "--markdown", tmp_path / "link.md").code == 0
    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "link.md").is_symlink()
    assert ours.read_text().startswith("<!-- rrr-edge report -->")
    assert run(*report, "-o", pipe).code == 4
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert run(*report, "-o", "/dev/null", "--markdown", pipe).code == 0
    assert os.read(reader, 1 << 16).decode() == ours.read_text()
    os.close(reader)


def test_stdout_may_be_named_also_where_it_is_a_file(
    profiled: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.txt"
    log.write_text("a line before\n")
    words = ("report", profiled.path, "-o", "/dev/null", "--markdown", "/dev/stdout", "--quiet")
    with log.open("a") as file:
        subprocess.run([sys.executable, "-m", "rrr_edge", *words], stdout=file, check=True)
    before, title, *rest = log.read_text().splitlines()
    assert before == "a line before"
    assert title.startswith("<!-- rrr-edge report -->")
    assert rest[-1] == "/dev/null, /dev/stdout"


def test_engines_of_a_bundle_that_was_linked_are_there(tmp_path: Path) -> None:
    """A link to a whole bundle is followed: what it holds lies together."""
    bundle = write_bundle(tmp_path / "x.rrr")
    write_engine(bundle, TARGET, (ENGINE_FILE, b"x"))
    (tmp_path / "current.rrr").symlink_to(bundle.path)
    rows = run("doctor", tmp_path / "current.rrr", "--json").document
    assert "openvino-int8" in [row["what"] for row in rows]
