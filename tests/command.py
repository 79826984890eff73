"""The command line in processes of its own that start warm: torch is imported once, and then forked."""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(["rrr_edge.cli.app", "rrr_edge.compress", "onnxscript", "onnxsim", "torch._dynamo"])


class Command:
    """`rrr-edge ARGUMENTS`, begun in `cwd`; what it prints goes to files in `folder`."""

    def __init__(
        self, folder: Path, *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self._files = folder / "stdout.txt", folder / "stderr.txt"
        self.process = _WARM.Process(
            target=_run, args=(tuple(map(str, arguments)), self._files, dict(env or {}), cwd), daemon=True
        )
        self.process.start()
        assert self.process.pid
        self.pid = self.process.pid

    @property
    def stdout(self) -> str:
        return self._files[0].read_text()

    @property
    def stderr(self) -> str:
        return self._files[1].read_text()

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)

    def wait_for(self, condition: Callable[[], object], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), f"it ended too early: {self.stderr}"
            assert time.monotonic() < end, f"it took too long: {self.stderr}"
            time.sleep(0.002)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self, seconds: float = 120) -> int:
        """The exit code; minus the signal's number where a signal ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "it did not end"
        return self.process.exitcode


def _run(arguments: tuple[str, ...], files: tuple[Path, Path], env: dict[str, str], cwd: Path | None) -> None:
    os.environ.update(env)
    if cwd:
        os.chdir(cwd)
    for descriptor, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = ["rrr-edge", *arguments]
    import torch
    from export_cache import trace_once

    from rrr_edge.cli.app import main

    trace_once()
    os.fsync = lambda descriptor: None
    torch.set_num_threads(1)
    main()
