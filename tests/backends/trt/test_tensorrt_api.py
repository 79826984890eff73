"""Every name of TensorRT's, TensorRT for RTX's and CUDA's that the backends write exists, and takes the arguments."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nvidia import Bindings, read_bindings, read_rtx_bindings
from rtx_double import make_tensorrt_rtx
from tensorrt_double import Script, make_cudart, make_tensorrt

PACKAGE = Path(__file__).parents[3] / "rrr_edge" / "backends"
OWN = {file.name: file for file in sorted((PACKAGE / "tensorrt").glob("*.py"))}
# What TensorRT for RTX is reached through: its own files, and those that both compilers share.
SHARED = ("build.py", "log.py", "run.py")
SOURCES = {f"tensorrt/{name}": ast.parse(file.read_text()) for name, file in OWN.items()}
SOURCES |= {f"rtx/{name}": SOURCES[f"tensorrt/{name}"] for name in SHARED}
SOURCES |= {f"rtx/own/{file.name}": ast.parse(file.read_text()) for file in (PACKAGE / "tensorrt_rtx").glob("*.py")}
# What the variables of each file hold.
OBJECTS = {
    "tensorrt/build.py": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "error": "ParserError",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
        "image": "ITensor",
    },
    "tensorrt/configure.py": {
        "config": "IBuilderConfig",
        "_timings": "ITimingCache",
        "runtime": "Runtime",
        "engine": "ICudaEngine",
    },
    "tensorrt/run.py": {
        "_engine": "ICudaEngine",
        "context": "IExecutionContext",
        "inspector": "EngineInspector",
    },
    "rtx/own/__init__.py": {"config": "IBuilderConfig"},
    "rtx/own/loading.py": {
        "runtime": "Runtime",
        "engine": "ICudaEngine",
        "runtime_config": "IRuntimeConfig",
        "_kernels": "IRuntimeCache",
    },
}
OBJECTS |= {f"rtx/{name}": OBJECTS[f"tensorrt/{name}"] for name in ("build.py", "run.py")}


@pytest.fixture(scope="module")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> Bindings:
    return read_bindings(tmp_path_factory.mktemp("stubs"))


@pytest.fixture(scope="module")
def rtx_bindings() -> Bindings:
    return read_rtx_bindings()


@pytest.fixture
def those_of(request: pytest.FixtureRequest, file: str) -> Bindings:
    """The bindings of the compiler that `file` is written for."""
    found: Bindings = request.getfixturevalue("bindings" if file.startswith("tensorrt/") else "rtx_bindings")
    return found


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` of a chain of names; `self.` in front is left out."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return None if before is None else f"{before}.{node.attr}".removeprefix("self.")
    return node.id if isinstance(node, ast.Name) else None


def used(tree: ast.AST, module: str) -> set[str]:
    """What the source takes from `module`, which it holds as `module` or `_module`: the longest chains."""
    chains = {dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {name for name in chains if name and name.lstrip("_").split(".")[0] == module}
    return {name.partition(".")[2] for name in names if not any(other.startswith(f"{name}.") for other in names)}


def calls(tree: ast.AST, objects: dict[str, str]) -> Iterator[tuple[str, ast.Call]]:
    """Calls of methods of `objects`, as (class.method, call); and of classes held in trt, as (class.__init__, call)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := dotted(node.func)):
            owner, _, method = name.rpartition(".")
            if owner in objects:
                yield f"{objects[owner]}.{method}", node
            elif owner.lstrip("_") == "trt":
                yield f"{method}.__init__", node


def test_the_source_was_found() -> None:
    assert {"tensorrt/build.py", "tensorrt/cuda.py", "rtx/run.py", "rtx/own/loading.py"} <= set(SOURCES)
    assert sum(len(used(tree, "trt")) for tree in SOURCES.values()) > 15
    assert len(used(SOURCES["tensorrt/cuda.py"], "cudart")) > 15


@pytest.mark.parametrize("file", SOURCES)
def test_the_bindings_have_every_name(those_of: Bindings, file: str) -> None:
    missing = {
        name
        for name in used(SOURCES[file], "trt")
        if not name.startswith("__version__") and name.removesuffix(".__members__") not in those_of
    }
    assert not missing


@pytest.mark.parametrize("file", OBJECTS)
def test_their_objects_have_every_attribute_and_what_is_set_can_be(those_of: Bindings, file: str) -> None:
    seen = set()
    for node in ast.walk(SOURCES[file]):
        if isinstance(node, ast.Attribute) and (owner := dotted(node.value)) in OBJECTS[file]:
            name = f"{OBJECTS[file][owner]}.{node.attr}"
            assert name in those_of
            if isinstance(node.ctx, ast.Store):
                assert those_of.settable(name), f"{name} cannot be set"
            seen.add(owner)
    assert seen == set(OBJECTS[file]), "a variable of the table is not in the source"


@pytest.mark.parametrize("file", OBJECTS)
def test_their_methods_take_the_arguments(those_of: Bindings, file: str) -> None:
    checked = 0
    for name, call in calls(SOURCES[file], OBJECTS[file]):
        keywords = {str(keyword.arg) for keyword in call.keywords}
        signatures = those_of.signatures(name)
        assert any(signature.takes(len(call.args), keywords) for signature in signatures), f"{name}: {signatures}"
        checked += 1
    assert checked > 1


@pytest.mark.parametrize("file", SOURCES)
def test_what_we_override_is_what_the_compiler_calls(those_of: Bindings, file: str) -> None:
    for node in ast.walk(SOURCES[file]):
        base = dotted(node.bases[0]) if isinstance(node, ast.ClassDef) and node.bases else None
        if base and base.startswith("trt."):
            for method in node.body:
                assert isinstance(method, ast.FunctionDef)
                (signature,) = those_of.signatures(f"{base[4:]}.{method.name}")
                assert tuple(argument.arg for argument in method.args.args[1:]) == signature.parameters


def test_version_11_is_what_we_have_read(bindings: Bindings) -> None:
    assert bindings.version.startswith("11.")
    assert {"FP16", "INT8", "BF16"}.isdisjoint(bindings.members("BuilderFlag"))


def test_cuda_has_every_name_and_takes_as_many_arguments() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    tree = SOURCES["tensorrt/cuda.py"]
    for name in used(tree, "cudart"):
        at = runtime
        for part in name.split("."):
            at = getattr(at, part)
    checked = 0
    for node in ast.walk(tree):
        name = dotted(node.func) if isinstance(node, ast.Call) else None
        if isinstance(node, ast.Call) and name and name.lstrip("_").startswith("cudart."):
            inspect.signature(getattr(runtime, name.rpartition(".")[2])).bind(*node.args)
            checked += 1
    assert checked > 15


def test_the_double_has_nothing_that_the_bindings_lack(bindings: Bindings) -> None:
    double = make_tensorrt(Script())
    _has_only_what_is_there(double, bindings)


def test_the_double_for_rtx_has_nothing_that_the_bindings_lack(rtx_bindings: Bindings) -> None:
    _has_only_what_is_there(make_tensorrt_rtx(Script()), rtx_bindings)


def _has_only_what_is_there(double: Any, bindings: Bindings) -> None:
    classes = {name: value for name, value in vars(double).items() if isinstance(value, type)}
    assert len(classes) > 20
    for name, value in classes.items():
        public = {member for member in vars(value) if not member.startswith("_")}
        assert public <= bindings.members(name), name
        for member in public:
            function = vars(value)[member]
            if inspect.isfunction(function):
                ours = tuple(inspect.signature(function).parameters)[1:]
                theirs = {signature.parameters for signature in bindings.signatures(f"{name}.{member}")}
                assert ours in theirs, f"{name}.{member}{ours}: {theirs}"


def test_the_double_of_cuda_has_nothing_that_cuda_lacks() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    double = make_cudart(Script())
    functions = {name: value for name, value in vars(double).items() if name.startswith("cuda")}
    assert len(functions) > 15
    for name, value in functions.items():
        real = getattr(runtime, name)
        if inspect.isfunction(value):
            assert list(inspect.signature(value).parameters) == list(inspect.signature(real).parameters), name
        else:
            assert value is real
