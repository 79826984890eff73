"""Mistakes, limits and hostile names: a sentence and an exit code, never a traceback, never an act on the terminal."""

import errno
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_bundle import write_engine
from small_bundle import link_bundle, write_target
from test_cli import run

from rrr_edge.bundle.files import write_file
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.target import PACKAGED, Target
from rrr_edge.cli.app import app, require_home
from rrr_edge.cli.display import Display, printable
from rrr_edge.errors import CannotRunHere, UsageError, pip_install
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.progress import Step

HOSTILE = "a\x1b]0;owned\x07\x9b2J\u202eb\n\udcff[red]c[/red]"
HARMLESS = r"a\x1b]0;owned\x07\x9b2J\u202eb\n\udcff[red]c[/red]"


# Names on the terminal


def test_no_name_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(HOSTILE) == HARMLESS
    assert printable("Größe 犬 \u3000\u00a0👩\u200d🚀") == "Größe 犬 \u3000\u00a0👩\u200d🚀"
    display = Display(verbose=True)
    display.say(HOSTILE)
    display.warn(HOSTILE)
    display.error(HOSTILE, HOSTILE, ValueError(HOSTILE))
    display.result({}, HOSTILE.replace("\n", ""))
    with display.progress() as on_progress:
        on_progress(Step("train", 1, 1, HOSTILE))
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\udcff"} & set(text)
    assert said.err.splitlines()[0] == HARMLESS
    assert len(said.err.splitlines()) == 6


def test_tables_and_bars_show_brackets_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Display().table("title [red]x[/red] [/]", [{"class [b]": HOSTILE, "other": "[/]"}])
    said = capsys.readouterr().out
    assert "title [red]x[/red] [/]" in said
    assert "class [b]" in said
    assert HARMLESS in said
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Display().progress() as on_progress:
        on_progress(Step("train", 1, 1, "photo [/red].jpg"))
    assert "photo [/red].jpg" in capsys.readouterr().err


def test_an_ascii_terminal_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    with pytest.raises(SystemExit):
        app(["targets", "--json"])
    print("Größe \udcff")
    stream.flush()
    assert stream.buffer.getvalue().decode("ascii").endswith("Gr\\xf6\\xdfe \\udcff\n")  # type: ignore[attr-defined]


# Places


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("compress {tmp} -o .", 2, ". is no name for a bundle."),
        ("compress {tmp} -o /", 2, "/ is no name for a bundle."),
        ("compress {tmp} -o {empty}", 2, ". is no name for a bundle."),
        ("compress {tmp} -o {tmp}", 2, "{tmp} exists."),
        ("compress {tmp} -o {tmp}/x\udcff", 2, "x\udcff has a name that is not UTF-8."),
        ("compress {tmp} -o {tmp}/x --weights {tmp}/x\udcff", 2, "Weights is not UTF-8 text."),
        ("doctor {tmp}/x\udcff.rrr", 2, "x\udcff.rrr has a name that is not UTF-8."),
        ("doctor https://a.example/x.rrr", 2, "https://a.example/x.rrr is an address, not a file or folder"),
        ("predict {bundle} rtsp://camera/1", 2, "rtsp://camera/1 is an address, not a file or folder"),
        ("predict {bundle} rtsp:/x", 2, "rtsp://x is an address, not a file or folder"),
        ("compress http://a.example -o {tmp}/x --weights random", 2, "http://a.example is an address"),
        ("compress {tmp} -o {tmp}/x --weights https://a.example/b.pth", 2, "https://a.example/b.pth is an address"),
        ("compile {bundle} -t openvino --calib-data http://a/b", 2, "http://a/b is an address"),
        ("gate --baseline {bundle} --self-test -t openvino --markdown {tmp}", 2, "{tmp} is no file."),
        ("gate --baseline {bundle} --self-test -t openvino --markdown /", 2, "/ is no file."),
        ("doctor {long}", 4, "File name too long"),
        ("predict {long} x", 4, "File name too long"),
        ("compress {tmp} -o {long}/x --weights random --image-size 32", 4, "File name too long"),
        ("compile {bundle} -t {long}.toml", 4, "File name too long"),
        ("compress {tmp} -o {tmp}/x --seed 99999999999999999999999", 2, "--seed: input should be less than"),
        ("compress {tmp} -o {tmp}/x --batch-size 0", 2, "--batch-size: input should be greater than or equal to 2"),
        (
            "profile {bundle} -t openvino --batches 99999999999999999999",
            2,
            "--batches takes different whole numbers up to 1024",
        ),
        ("profile {bundle} -t openvino --streams 5000", 2, "--streams takes different whole numbers up to 1024"),
    ],
)
def test_a_place_that_cannot_be_is_a_sentence(
    compiled: Bundle, tmp_path: Path, arguments: str, code: int, said: str
) -> None:
    places = {"bundle": compiled.path, "tmp": tmp_path, "long": "n" * 300, "empty": ""}
    result = run(*(word.format(**places) for word in arguments.split()), "--json")
    assert result.code == code, result.stderr
    assert said.format(**places) in result.document["error"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ("doctor {bundle}", "manifest.json"),
        ("doctor {bundle}", "model.onnx"),
        ("predict {bundle} {bundle}", "manifest.json"),
        ("predict {bundle} {bundle}", "engine.json"),
        ("compile {bundle} -t {tmp}/porch.toml", "porch.toml"),
        ("compress {bundle} -o {tmp}/x --recipe {tmp}/porch.toml", "porch.toml"),
        ("compress {bundle} -o {tmp}/x --weights {tmp}/porch.toml", "porch.toml"),
    ],
)
def test_what_may_not_be_read_is_the_machines_matter_and_is_not_replaced(
    compiled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, place: str
) -> None:
    write_target(tmp_path, "porch")
    real = io.open

    def forbidden(file: Any, *rest: Any, **named: Any) -> Any:
        if str(file).endswith(place):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return real(file, *rest, **named)

    monkeypatch.setattr("io.open", forbidden)
    result = run(*arguments.format(bundle=compiled.path, tmp=tmp_path).split(), "--json")
    assert result.code == 4
    document = result.document if isinstance(result.document, dict) else result.document[-1]
    said = f"{document.get('error', document.get('why'))} {document.get('advice', document.get('repair'))}"
    assert f"{place} cannot be read: Permission denied." in said
    assert "--force" not in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "There is not enough memory for this."),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x.bin"), "x.bin: Too many open files."),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "There is not enough memory for this."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "There is not enough memory for this."),
        (RuntimeError("Exception from src/core.cpp: std::bad_alloc"), "There is not enough memory for this."),
    ],
)
def test_what_the_machine_lacks_is_exit_4(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("rrr_edge.runtime.doctor.examine", fail)
    result = run("doctor", "x", "--json")
    assert (result.code, result.document["error"]) == (4, said)


def test_an_error_that_no_file_explains_stays_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("a bug")

    monkeypatch.setattr("rrr_edge.runtime.doctor.examine", fail)
    with pytest.raises(OSError, match="a bug"):
        run("doctor", "x")


@pytest.mark.parametrize("code", [errno.ENAMETOOLONG, errno.EFBIG, errno.EIO, errno.ELOOP])
def test_a_file_that_cannot_be_written_is_exit_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(CannotRunHere, match=r"page.html (cannot be written|would be larger)"):
        write_file(tmp_path / "page.html", "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("compile {bundle} -t openvino --precision fp32", "OpenVINO cannot write"),
        ("compile {bundle} -t onnxruntime", "would be larger than files may be here"),
        ("compile {bundle} -t onnxruntime --lowering split", "would be larger than files may be here"),
    ],
)
def test_a_limit_of_files_sizes_is_a_sentence_and_leaves_nothing(
    compiled: Bundle, tmp_path: Path, words: str, said: str
) -> None:
    bundle, (soft, hard) = link_bundle(compiled, tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    before = sorted(bundle.path.rglob("*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        result = run(*words.format(bundle=bundle.path).split(), "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.code == 4, result.stderr
    assert said in result.document["error"]
    assert sorted(path for path in bundle.path.rglob("*") if path.name != "engines") == before


def test_without_a_home_there_is_a_temporary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    require_home()
    assert Path(os.environ["HOME"]).is_dir()


# The environment


def test_rank_counts_under_torchrun_only(compiled: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run("doctor", compiled.path, "--json").document
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert run("doctor", compiled.path, "--json").document
    assert run("compress", "absent", "-o", "x", "--seed", "-1", "--json").stdout == ""


def test_a_misspelt_variable_is_said_and_a_known_one_is_not() -> None:
    env = {"RRR_EDGE_COMPRES_EPOCHS": "3", "RRR_EDGE_COMPRESS_EPOCHS": "3"}
    said = run("targets", env=env).stderr
    assert said.startswith(
        "warning: RRR_EDGE_COMPRES_EPOCHS is no option's variable. Did you mean RRR_EDGE_COMPRESS_EPOCHS?\n"
    )
    assert said.count("warning") == 1


# The engine that is there


def test_without_a_precision_the_engine_that_is_there_is_taken_and_named(bundle: Bundle, shapes: Path) -> None:
    photo = shapes / "test" / "cross" / "0.png"
    assert run("predict", bundle.path, photo, "--json").document["engine"] == "openvino-int8"
    shutil.rmtree(bundle.engine_folder("openvino-int8"))
    result = run("predict", bundle.path, photo, "--json")
    assert result.document["engine"] == "openvino-fp32"
    assert "note: there is no openvino-int8 engine; openvino-fp32 is taken" in result.stderr
    with Classifier.open(bundle.path) as classifier:
        assert classifier.engine_name == "openvino-fp32"
    planned = run("profile", bundle.path, "-t", "openvino", "--dry-run", "--json", "--against", "none")
    assert planned.document["folder"].endswith("openvino-fp32")
    assert run("predict", bundle.path, photo, "--precision", "int8").code == 2


def test_the_lowest_precision_that_is_there_is_available(tmp_path: Path, compiled: Bundle) -> None:
    bundle = link_bundle(compiled, tmp_path)
    target = Target(name="box", backend="fake", precision="int8")
    assert bundle.available(target) == target
    for precision in ("fp32", "bf16"):
        write_engine(bundle, target.model_copy(update={"precision": precision}), ("engine.bin", b"x"))
    assert bundle.available(target).precision == "bf16"
    assert bundle.available(target.model_copy(update={"precision": "fp32"})).precision == "fp32"


def test_a_target_of_the_current_folder_is_said_and_may_not_let_engines_run_code(
    compiled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    text = (PACKAGED / "openvino.toml").read_text()
    (tmp_path / "targets" / "openvino.toml").write_text(text)
    said = run("compile", compiled.path, "-t", "openvino", "--dry-run", "--json").stderr
    assert "note: the target openvino is targets/openvino.toml in this folder" in said
    own = write_target(tmp_path / "targets", "openvino", portability="version")
    with pytest.raises(UsageError, match="run code of their own") as caught:
        Target.load("openvino")
    assert caught.value.advice.endswith("--target targets/openvino.toml")
    assert Target.load(own).portability == "version"


def test_predict_does_not_follow_links_out_of_a_folder(compiled: Bundle, shapes: Path, tmp_path: Path) -> None:
    inside = tmp_path / "photos"
    inside.mkdir()
    (inside / "own.png").write_bytes((shapes / "test" / "cross" / "0.png").read_bytes())
    (inside / "out.png").symlink_to(shapes / "test" / "cross" / "1.png")
    (inside / "folder").symlink_to(shapes / "test")
    (inside / "again.png").symlink_to(inside / "own.png")
    result = run("predict", compiled.path, inside, "--json")
    assert [Path(row["image"]).name for row in result.document["predictions"]] == ["again.png", "own.png"]
    assert "pictures left out, to which links lead out of" in result.stderr


# Advice


@pytest.mark.parametrize(
    ("direct", "line"),
    [
        (None, "pip install 'rrr-edge[compress]'"),
        ({"url": "file:///a%20b", "dir_info": {}}, "pip install '/a b[compress]'"),
        ({"url": "file:///a", "dir_info": {"editable": True}}, "pip install -e '/a[compress]'"),
        (
            {"url": "file:///a/rrr_edge.whl", "archive_info": {}},
            "pip install 'rrr-edge[compress] @ file:///a/rrr_edge.whl'",
        ),
    ],
)
def test_the_pip_line_installs_from_where_this_came(
    monkeypatch: pytest.MonkeyPatch, direct: dict[str, Any] | None, line: str
) -> None:
    text = json.dumps(direct) if direct else None
    monkeypatch.setattr("importlib.metadata.distribution", lambda _: SimpleNamespace(read_text=lambda _: text))
    assert pip_install("compress") == line


def test_a_package_without_its_targets_says_that_it_runs_from_an_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrr_edge.bundle.target.PACKAGED", Path("/a.zip/rrr_edge/targets"))
    result = run("predict", "x", "y", "--json")
    assert result.code in (4, 5)
    assert run("targets", "--json").document["error"].endswith("it cannot run from an archive.")


def test_the_shell_can_be_taught_the_options() -> None:
    words = {"_RRR_EDGE_COMPLETE": "complete_bash", "COMP_WORDS": "rrr-edge compress --epo", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'rrr-edge'; from rrr_edge.cli import main; main()"],
        env={**os.environ, **words}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "--epochs" in done.stdout.split(), done.stderr
