"""Limits of files and functions in the package, so that each can be read at once."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "rrr_edge"
FILE_LINES, FUNCTION_LINES, PARAMETERS = 300, 60, 6
# A command's signature has a parameter and a help text for each option.
COMMANDS, COMMAND_LINES = "cli", 100
# What outsiders rely on.
KNOWN = {"Classifier.open": 9, "Classifier.__init__": 7}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _modules() -> list[Path]:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 100, "the package was not found"
    return modules


def _functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, Function]]:
    """With their qualified names, those inside others too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield f"{owner}{node.name}", node
        name = f"{owner}{node.name}." if isinstance(node, ast.ClassDef) else owner
        yield from _functions(node, name)


def _parameters(function: Function) -> int:
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_files_and_functions_keep_their_limits() -> None:
    large = []
    for path in _modules():
        text = path.read_text()
        is_command = path.parent.name == COMMANDS
        if (lines := len(text.splitlines())) > FILE_LINES:
            large.append(f"{path}: {lines} lines")
        for name, function in _functions(ast.parse(text)):
            lines = (function.end_lineno or 0) - function.lineno + 1
            if lines > (COMMAND_LINES if is_command else FUNCTION_LINES):
                large.append(f"{path}: {name} has {lines} lines")
            if not is_command and _parameters(function) > KNOWN.get(name, PARAMETERS):
                large.append(f"{path}: {name} has {_parameters(function)} parameters")
    assert not large, "\n".join(large)
