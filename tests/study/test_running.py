"""Cells are finished once, whatever dies meanwhile; what fails is told, and the rest goes on."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_bundle import write_bundle
from made_up_study import TARGET, make_plan, make_record, write_data

from rrr_edge.errors import CannotRunHere, CorruptArtifact, UsageError
from rrr_edge.study import Run, run_study, to_do
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.runners import Processes, core_shares
from rrr_edge.timing.progress import Step

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the workers of these tests note what they begin."""
    log = tmp_path / "begun.txt"
    log.touch()
    monkeypatch.setenv("STUDY_WORKER_LOG", str(log))
    folders = (HERE, HERE.parent, HERE.parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
    return log


def runner(workers: int = 1) -> Processes:
    return Processes(workers, module="study_worker")


def test_every_cell_is_done_once_and_a_second_run_has_nothing_to_do(tmp_path: Path, begun: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs", "cups"), seeds=(0, 1))
    steps: list[Step] = []
    done = run_study(plan, tmp_path / "study", Run(runner(), on_progress=steps.append))
    assert (done.finished, done.left, done.failures, done.exit_code) == (8, 0, (), 0)
    assert sorted(begun.read_text().splitlines()) == sorted(cell.words for cell in plan.cells)
    assert (steps[-1].done, steps[-1].total) == (8, 8)
    assert run_study(plan, tmp_path / "study", Run(runner())).finished == 8
    assert len(begun.read_text().splitlines()) == 8
    # More seeds, methods or data sets of the same study do only what is new, and fewer of them nothing.
    write_data(tmp_path / "data", "jugs")
    every, three = "rrr,finetune,linear-probe", (0, 1, 2)
    for words, seeds, count in (("rrr,finetune", three, 18), (every, three, 27), ("rrr", (1,), 3)):
        records = {file: file.read_bytes() for file in (tmp_path / "study").rglob("cell.json")}
        changed = make_plan(tmp_path / "data", words, seeds=seeds)
        assert len(to_do(changed, StudyFolder(tmp_path / "study"))) == max(0, count - len(records))
        assert run_study(changed, tmp_path / "study", Run(runner())).finished == count
        assert all(file.read_bytes() == content for file, content in records.items())
    lines = begun.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 27


def test_a_worker_that_dies_is_replaced_and_a_cell_that_always_kills_is_given_up(tmp_path: Path, begun: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "bare", "broken", "deadly", "frail", "mugs"), "rrr")
    done = run_study(plan, tmp_path / "study", Run(runner()))
    lines = begun.read_text().splitlines()
    assert [lines.count(f"{name}, rrr, seed 0") for name in ("broken", "deadly", "frail", "mugs")] == [1, 3, 2, 1]
    bare, broken, deadly = sorted(done.failures, key=lambda failure: failure.work.words)
    assert (bare.exit_code, "compress" in bare.advice) == (6, True)
    assert (broken.error, broken.advice, broken.exit_code) == ("There is no picture in broken.", "Put some there.", 5)
    assert "SIGKILL" in deadly.error
    assert (deadly.exit_code, done.exit_code, done.finished, done.left) == (4, 5, 2, 0)
    # Failures are tried again by the next run, and only those.
    (tmp_path / "data" / "deadly").rename(tmp_path / "data" / "tame")
    shutil.rmtree(tmp_path / "data" / "bare")
    mended = make_plan(tmp_path / "data", "rrr")
    assert run_study(mended, tmp_path / "study", Run(runner())).finished == 3
    assert [line for line in begun.read_text().splitlines()[len(lines) :] if "mugs" in line] == []


def test_cells_of_other_photos_or_settings_are_not_mixed(tmp_path: Path, begun: Path) -> None:
    data, out = write_data(tmp_path / "data", "mugs"), tmp_path / "study"
    plan = make_plan(data, "rrr")
    run_study(plan, out, Run(runner()))
    (method,) = plan.methods
    recipe = method.recipes[0].model_copy(update={"image_size": 64})
    other = plan.model_copy(update={"methods": (method.model_copy(update={"recipes": (recipe,)}),)})
    with pytest.raises(UsageError, match="other settings"):
        run_study(other, out, Run(runner()))
    photo = data / "mugs" / "train" / "cup" / "1.png"
    photo.write_bytes(photo.read_bytes().swapcase())
    with pytest.raises(UsageError, match="other photos"):
        run_study(make_plan(data, "rrr"), out, Run(runner()))
    assert run_study(make_plan(data, "rrr"), out, Run(runner(), force=True)).finished == 1
    assert len(begun.read_text().splitlines()) == 2
    record = next(out.glob("cells/*/*/*/cell.json"))
    record.write_bytes(record.read_bytes().replace(b'"classes": 2', b'"classes": 3'))
    with pytest.raises(CorruptArtifact) as wrong:
        run_study(make_plan(data, "rrr"), out, Run(runner()))
    assert f"Remove {record}" in wrong.value.advice


def test_what_was_begun_with_other_settings_is_told_and_made_anew_by_force(tmp_path: Path) -> None:
    plan, study = make_plan(write_data(tmp_path / "data", "mugs"), "rrr"), StudyFolder(tmp_path / "study")
    (cell,) = plan.cells
    study.begin(cell)
    assert to_do(plan.model_copy(update={"max_bad": 0.5}), study)  # nothing was learned in it
    (study.place(cell) / ".bundle.rrr.work").mkdir()
    other = plan.model_copy(update={"max_bad": 0.5})
    with pytest.raises(UsageError, match="other settings"):
        to_do(other, study)
    assert to_do(other, study, force=True) == list(other.cells)
    assert (study.place(cell) / ".bundle.rrr.work").is_dir()
    study.write_plan(plan)
    assert run_study(other, study.path, Run(runner(), force=True)).finished == 1
    assert not (study.place(cell) / ".bundle.rrr.work").exists()


def test_an_interrupted_chain_keeps_to_what_it_began_with(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs"), "finetune,finetune+channel")
    study = StudyFolder(tmp_path / "study")
    first, chain = plan.cells
    assert study.begin(chain) == (None, 0)
    work = study.place(chain) / ".step-1.rrr.work"
    work.mkdir()
    study.write_record(make_record(first, 0.2))
    made = write_bundle(study.bundle(first)).path
    assert study.begin(chain) == (None, 0)
    study.clear(chain)
    assert study.begin(chain) == (made, 1)
    work.mkdir()
    assert study.begin(chain) == (made, 1)
    # Where this storage is not at hand, both go along.
    assert study.needed(chain) == [study.place(chain), study.place(first)]
    shutil.rmtree(made)
    assert study.begin(chain) == (None, 0)
    assert not work.exists()


def test_engines_that_are_chosen_by_the_clock_are_compiled_after_all_trainings(tmp_path: Path, begun: Path) -> None:
    target = TARGET.model_copy(update={"lowering": "auto"})
    plan = make_plan(write_data(tmp_path / "data", "mugs"), target=target)
    assert run_study(plan, tmp_path / "study", Run(runner())).finished == 2
    lines = begun.read_text().splitlines()
    assert [set(lines[:2]), set(lines[2:])] == [{cell.words for cell in plan.cells}] * 2
    study = StudyFolder(tmp_path / "study")
    assert all((record := study.record(cell)) and record.engine for cell in plan.cells)


def test_a_budget_begins_nothing_that_would_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_WORKER_S", "0.4")
    plan = make_plan(write_data(tmp_path / "data", "mugs"), "rrr", seeds=tuple(range(9)))
    done = run_study(plan, tmp_path / "study", Run(runner(), budget_hours=2.5 / 3600))
    assert 1 <= done.finished <= 6
    assert done.left == 9 - done.finished


def test_another_study_at_work_and_a_folder_of_something_else_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs"), "rrr")
    monkeypatch.setattr("rrr_edge.study.folder._PATIENCE_S", 0.1)
    with StudyFolder(tmp_path / "study").claimed(), pytest.raises(UsageError, match="at work"):
        run_study(plan, tmp_path / "study", Run(runner()))
    with pytest.raises(UsageError, match="no study"):
        run_study(plan, tmp_path / "data", Run(runner()))


def test_killed_at_any_moment_it_ends_as_if_nobody_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_WORKER_S", "0.1")
    data = write_data(tmp_path / "data", "mugs", "cups", "jugs")
    plan, out = make_plan(data, seeds=(0, 1)), tmp_path / "killed"
    code = (
        "import sys; from pathlib import Path; from rrr_edge.study import *; from rrr_edge.study.runners import *\n"
        "plan = Plan.from_json_file(Path(sys.argv[1]))\n"
        "run_study(plan, sys.argv[2], Run(Processes(1, module='study_worker')))"
    )
    (tmp_path / "plan.json").write_text(plan.to_json())
    rng = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "plan.json"), str(out)])
        time.sleep(rng.uniform(1.0, 2.2))
        process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
        process.wait()
    assert run_study(plan, out, Run(runner())).finished == 12
    run_study(plan, tmp_path / "whole", Run(runner()))
    whole, killed = (StudyFolder(tmp_path / name).records() for name in ("whole", "killed"))
    assert whole == killed
    assert not list(out.rglob("*.partial"))
    noted = (tmp_path / "begun.txt").read_text().splitlines()
    # Each kill costs one begun cell at most: twelve, twelve more of the whole one, and four.
    assert 24 <= len(noted) <= 28


def test_a_full_disk_ends_it_and_what_is_finished_stays(small_disk: Path, tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", "mugs"), "rrr", seeds=tuple(range(4)))
    out = small_disk / "study"
    first = plan.model_copy(update={"seeds": (0,)})
    assert run_study(first, out, Run(runner())).finished == 1
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="space"):
        ballast.write_bytes(bytes(9_000_000))
    with pytest.raises(CannotRunHere, match="is full"):
        run_study(plan, out, Run(runner()))
    ballast.unlink()
    assert run_study(plan, out, Run(runner())).finished == 4


def test_cores_are_shared_out() -> None:
    shares = core_shares(1)
    assert len(shares) == 1
    assert {core for share in core_shares(0) for core in share} <= os.sched_getaffinity(0)
    with pytest.raises(UsageError, match="cannot share"):
        core_shares(10_000)
