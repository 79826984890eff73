"""The command lines that the package tells its users to run."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer
from small_bundle import write_target

import rrr_edge
from rrr_edge.bundle.commands import command_line, compiling, compiling_first, compressing, profiling, profiling_named
from rrr_edge.bundle.target import Target
from rrr_edge.cli import app

PACKAGE = Path(rrr_edge.__file__).parent


def test_the_command_names_a_target_only_where_it_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compiling(Path("x y.rrr"), Target.load("openvino")) == (
        "rrr-edge compile 'x y.rrr' --target openvino --precision int8"
    )
    split = Target.load("openvino").model_copy(update={"lowering": "split"})
    assert compiling(Path("x.rrr"), split) == (
        "rrr-edge compile x.rrr --target openvino --precision int8 --lowering split"
    )
    porch = Target.load(write_target(tmp_path, "porch", precision="bf16"))
    assert " --precision bf16 --prepare-only (" in compiling(Path("x.rrr"), porch, prepare_only=True)
    assert compiling(Path("x.rrr"), porch) == (
        "rrr-edge compile x.rrr --target FILE.toml --precision bf16 (FILE.toml is the file of the target 'porch')"
    )
    (tmp_path / "targets").mkdir()
    (tmp_path / "porch.toml").rename(tmp_path / "targets" / "porch.toml")
    assert compiling(Path("x.rrr"), porch) == "rrr-edge compile x.rrr --target porch --precision bf16"
    write_target(tmp_path / "targets", "porch", precision="bf16", lowering="split")
    assert " --lowering grouped" in compiling(Path("x.rrr"), porch)


@pytest.mark.parametrize(
    "line",
    [
        compressing(Path("x y.rrr")),
        compressing(Path("x.rrr"), anew=True),
        compiling(Path("x.rrr"), Target.load("tensorrt"), prepare_only=True),
        compiling(Path("x.rrr"), Target.load("openvino").model_copy(update={"lowering": "split"})),
        compiling_first(Path("x.rrr")),
        profiling_named(Path("x.rrr"), "openvino", "fp32"),
        profiling(Path("x.rrr"), Target.load("openvino")),
        command_line("targets"),
    ],
)
def test_the_command_line_takes_what_is_written(line: str) -> None:
    program, verb, *words = shlex.split(line)
    assert program == "rrr-edge"
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    assert command.make_context(verb, words).params


def test_an_option_is_quoted_named_and_left_out_as_a_shell_needs_it() -> None:
    assert (
        command_line("compile", "a b", out="c d", max_drop=0.05, force=True, quiet=False, lowering=None)
        == "rrr-edge compile 'a b' -o 'c d' --max-drop 0.05 --force"
    )


def test_no_other_file_writes_command_lines() -> None:
    verbs = "|".join(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    written, seen = re.compile(rf"rrr-edge ({verbs}) (?!-->|self-test|(cell|begun|timing|failure)$)"), 0
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        prose = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        words = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        found = [n.value for n in words if id(n) not in prose and written.search(n.value)]
        assert not found, f"{path}: {found}"
        seen += len(words)
    assert seen > 2000
