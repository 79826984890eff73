"""Progress callbacks: long work reports its steps without knowing who listens."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import NamedTuple


class Step(NamedTuple):
    """`done` of `total` units of `stage` are finished; `note` is what there is to say (an accuracy, a file)."""

    stage: str
    done: int
    total: int
    note: str = ""


OnProgress = Callable[[Step], None]


def silent(step: Step) -> None:
    """The listener that ignores everything."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries that print their own progress, to file descriptor 1 or by Python, out of the way of ours."""
    stdout = sys.stdout
    stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)
