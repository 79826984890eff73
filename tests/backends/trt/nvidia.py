"""NVIDIA's own Python bindings of TensorRT and TensorRT for RTX as data, read without a GPU.

Those for RTX can be imported. TensorRT's are a few lines of glue that needs three shared libraries, which only NVIDIA's
own package index has. Stubs of these, which only have the names that the glue looks for, are enough to import it and to
read its classes, signatures and enumerations.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getPluginRegistry",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "initLibNvInferPlugins",
    "getInferLibVersion",
)

# Runs in a process of its own, whose library path leads to the stubs.
READ = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])

def describe(thing):
    members = {}
    for name in dir(thing):
        if name.startswith("_") and name != "__init__":
            continue
        value = getattr(thing, name)
        if isinstance(value, type):
            members[name] = describe(value)
        elif isinstance(value, property):
            members[name] = {"settable": value.fset is not None}
        elif callable(value):
            members[name] = {"text": value.__doc__ or ""}
        else:
            members[name] = {}
    return {"members": members, "values": sorted(getattr(thing, "__members__", ()))}

classes = {name: describe(value) for name, value in vars(trt).items() if isinstance(value, type)}
print(json.dumps({"version": trt.__version__, "classes": classes}))
"""


@dataclass(frozen=True)
class Signature:
    """The names of a function's parameters without self; the last `optional` of them have defaults."""

    parameters: tuple[str, ...]
    optional: int

    def takes(self, positional: int, keywords: set[str]) -> bool:
        named = self.parameters[positional:]
        needed = set(named[: max(0, len(self.parameters) - self.optional - positional)])
        return positional <= len(self.parameters) and needed <= keywords <= set(named)


class Bindings:
    """What the real bindings have, by dotted name: "IBuilderConfig.set_flag", "ILogger.Severity.ERROR"."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.version: str = told["version"]
        self._top = {"members": told["classes"]}

    def find(self, name: str) -> dict[str, Any] | None:
        at: dict[str, Any] = self._top
        for part in name.split("."):
            if part not in at.get("members", {}):
                return None
            at = at["members"][part]
        return at

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def members(self, name: str) -> set[str]:
        found = self.find(name)
        assert found is not None, name
        return set(found["members"])

    def settable(self, name: str) -> bool:
        found = self.find(name)
        return found is not None and bool(found.get("settable"))

    def signatures(self, name: str) -> list[Signature]:
        """Those of a function, as pybind11 writes them into its documentation; overloaded ones are numbered."""
        found = self.find(name)
        assert found, f"there is no {name}"
        assert "text" in found, f"{name} is no function"
        function = name.rpartition(".")[2]
        lines = re.findall(rf"^(?:\d+\. )?{function}\((.*)\) ->", found["text"], re.MULTILINE)
        assert lines, f"{name}: {found['text'][:200]}"
        return [_signature(line) for line in lines]


def _signature(text: str) -> Signature:
    parts = [part for part in _split(text) if not part.startswith("self:")]
    return Signature(tuple(part.partition(":")[0].strip() for part in parts), sum(" = " in part for part in parts))


def _split(text: str) -> list[str]:
    """At the commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([<") - (letter in ")]>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def read_bindings(folder: Path) -> Bindings:
    """Build the stubs in `folder` and read the bindings. Skips where there is no C compiler or no bindings."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc) to build the stub libraries with")
    if find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt-cu13-bindings is not installed")
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for library in LIBRARIES:
        file = f"lib{library}.so.11"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(folder / file), str(source)]
        subprocess.run(command, check=True)
    return _read("tensorrt_bindings", {"LD_LIBRARY_PATH": str(folder)})


def read_rtx_bindings() -> Bindings:
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx-cu13 is not installed")
    return _read("tensorrt_rtx", {})


def _read(module: str, environment: dict[str, str]) -> Bindings:
    done = subprocess.run(
        [sys.executable, "-c", READ, module],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Bindings(json.loads(done.stdout))
