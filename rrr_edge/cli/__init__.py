"""The command line: one file a command."""

# In the order of `--help`.
from rrr_edge.cli import compress, compile, profile, report, gate, predict, evaluate, calibrate  # noqa: F401, I001
from rrr_edge.cli import watch, verify, doctor, tasks, study, demo  # noqa: F401
from rrr_edge.cli.app import app, main

__all__ = ["app", "main"]
