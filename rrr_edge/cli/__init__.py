"""The command line: one file a command."""

from rrr_edge.cli import compress, compile, profile, report, gate, predict, evaluate, watch, verify, doctor, tasks, demo  # noqa: F401, I001  in the order of `--help`
from rrr_edge.cli.app import app, main

__all__ = ["app", "main"]
