"""The direction of imports: what keeps an engine's runtime free of torch."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "rrr_edge"
# The four lines of the design: who may import whom, by room.
SHARED = ("errors", "timing", "bundle", "images", "backends", "report")
DEVICE = ("runtime", "compile", "profile")
WORKSHOP = ("networks", "training", "compress")
EDGE = ("study", "cli", "__main__", "__init__")
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "timing": {"errors"},
    "bundle": {"errors", "timing"},
    "images": {"errors", "timing", "bundle"},
    "backends": {"errors", "timing", "bundle"},
    "report": {"errors", "timing", "bundle"},
    "runtime": {"errors", "timing", "bundle", "images", "backends"},
    "compile": {*SHARED, "runtime"},
    "profile": {*SHARED, "runtime"},
    "networks": {"errors", "timing", "bundle", "backends"},
    "training": {*SHARED, "networks"},
    "compress": {*SHARED, "networks", "training"},
    "study": {*SHARED, *DEVICE, *WORKSHOP},
    "cli": {*SHARED, *DEVICE, *WORKSHOP, "study"},
    "__main__": {"cli"},
    "__init__": {*SHARED, *DEVICE},
}
BASE = {"numpy", "PIL", "pydantic", "pydantic_core", "typer", "rich"}


def _imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _modules() -> list[Path]:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 25, "the package was not found"
    return modules


def test_every_room_is_known_and_imports_only_what_its_place_allows() -> None:
    seen = set()
    for path in _modules():
        room = _room(path)
        assert room in MAY_IMPORT, f"{path}: there is no room {room}"
        imported = {name.split(".")[1] for name in _imports(path) if name.startswith("rrr_edge.")}
        rooms = imported & set(MAY_IMPORT) - {room, "__init__"}
        assert rooms <= MAY_IMPORT[room], f"{path} imports {rooms - MAY_IMPORT[room]}"
        seen.add(room)
    assert seen >= {*SHARED, *DEVICE, *WORKSHOP, "cli"}, "rooms are missing"


def test_no_two_modules_import_each_other() -> None:
    names = {
        ".".join(("rrr_edge", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): p
        for p in _modules()
    }
    graph = {
        name: {i for i in _imports(path, top_level_only=True) if i in names and i != name}
        for name, path in names.items()
    }
    for name, targets in graph.items():  # a package's own modules may be re-exported by its __init__
        graph[name] = {t for t in targets if not name.startswith(t + ".")}
    TopologicalSorter(graph).prepare()


def test_device_modules_import_only_the_base_dependencies_at_the_top() -> None:
    for path in _modules():
        if _room(path) not in WORKSHOP:
            third_party = {name.split(".")[0] for name in _imports(path, top_level_only=True)} - set(
                sys.stdlib_module_names
            )
            assert third_party <= BASE | {"rrr_edge"}, f"{path} imports {third_party - BASE}"


def test_the_device_side_imports_with_torch_absent() -> None:
    modules = [f"rrr_edge.{name}" for name in (*SHARED, *DEVICE, "cli.comparison", "profile.gate", "runtime.doctor")]
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['torchvision'] = None\n"
        + "\n".join(f"import {name}" for name in modules)
        + "\nprint(len(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_there_and_lazy() -> None:
    code = (
        "import sys, rrr_edge; assert not {'numpy', 'pydantic', 'torch'} & set(sys.modules)\n"
        "from rrr_edge import Bundle, Classifier, Prediction, RRREdgeError, Target, __version__\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
