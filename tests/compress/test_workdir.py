"""One process at a time: the others are told, and a killed one is in nobody's way."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from rrr_edge.bundle.recipe import RRR
from rrr_edge.compress import Run, compress, plan
from rrr_edge.compress.workdir import Task, Workdir
from rrr_edge.errors import UsageError

TASK = Task(recipe=RRR(), data_sha256="0" * 64)
HOLDER = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from rrr_edge.compress.workdir import Workdir, Task
from rrr_edge.bundle.recipe import RRR
with ExitStack() as until_end:
    workdir = Workdir(Path(sys.argv[1]))
    workdir.claim(Task(recipe=RRR(), data_sha256="0" * 64), until_end)
    (workdir.training).mkdir()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("verb", [compress, plan])
@pytest.mark.parametrize("how", [Run(), Run(resume=True), Run(force=True)])
def test_who_comes_second_is_refused_before_the_photos_are_read(
    tmp_path: Path, verb: Callable[..., object], how: Run
) -> None:
    workdir = Workdir(tmp_path / "x.rrr")
    with ExitStack() as until_end:
        assert workdir.claim(TASK, until_end)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UsageError, match=r"Another process is at work in .*/\.x\.rrr\.work\."):
            verb(tmp_path / "absent", workdir.out, run=how)
        with pytest.raises(UsageError, match="Another process"), ExitStack() as too_late:
            how.workdir(workdir.out).claim(TASK, too_late)
        assert sorted(tmp_path.rglob("*")) == before
    assert not list(tmp_path.iterdir())


def test_a_killed_process_lets_go_and_leaves_what_it_learned(tmp_path: Path) -> None:
    out = tmp_path / "x.rrr"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(out)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="Another process"):
            Workdir(out, resume=True).check()
        holder.kill()
    with pytest.raises(UsageError, match="An interrupted run"):
        Workdir(out).check()
    again = Workdir(out, resume=True)
    again.check()
    with ExitStack() as until_end:
        assert again.claim(TASK, until_end)
        assert again.training.exists()
    anew = Workdir(out, force=True)
    with ExitStack() as until_end:
        assert anew.claim(TASK, until_end)
        assert not anew.training.exists()


def test_what_was_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path / "x.rrr")
    workdir.check()
    workdir.out.mkdir()
    with pytest.raises(UsageError, match="exists"), ExitStack() as until_end:
        workdir.claim(TASK, until_end)
    assert os.listdir(tmp_path) == ["x.rrr"]
