import os
import subprocess
import sys
from pathlib import Path

import pytest

from rrr_edge.timing import machine


@pytest.mark.parametrize(
    ("cpu_max", "quota"), [("150000 100000", 1.5), ("max 100000", None), ("400000 100000", 4.0), ("garbage", None)]
)
def test_the_quota_of_a_container_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu_max: str, quota: float | None
) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.cpu_quota() == quota


def test_an_older_cgroup_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.cpu_quota() == 2.0


def test_the_smallest_quota_of_the_cgroup_and_its_parents_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd slices and Kubernetes pods nest them; a neighbour's quota is not ours."""
    inner = tmp_path / "cgroup" / "pods" / "pod1"
    inner.mkdir(parents=True)
    (tmp_path / "membership").write_text("0::/pods/pod1\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "membership")
    (inner / "cpu.max").write_text("max 100000\n")
    assert machine.cpu_quota() is None
    (inner.parent / "cpu.max").write_text("300000 100000\n")
    assert machine.cpu_quota() == 3.0
    (inner / "cpu.max").write_text("50000 100000\n")
    assert machine.cpu_quota() == 0.5
    (inner / "cpu.max").write_text("800000 100000\n")
    assert machine.cpu_quota() == 3.0
    neighbour = inner.with_name("pod2")
    neighbour.mkdir()
    (neighbour / "cpu.max").write_text("10000 100000\n")
    assert machine.cpu_quota() == 3.0


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_older_cgroups_nest_too(mount: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "cgroup" / mount / "docker" / "abc"
    inner.mkdir(parents=True)
    (tmp_path / "membership").write_text("5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "membership")
    (inner / "cpu.cfs_quota_us").write_text("-1\n")
    (inner / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.cpu_quota() is None
    (inner.parent / "cpu.cfs_quota_us").write_text("150000\n")
    (inner.parent / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.cpu_quota() == 1.5


@pytest.mark.parametrize(
    ("membership", "file"),
    [("0::/a/b\n", "a/memory.max"), ("5:memory:/a/b\n", "memory/a/memory.limit_in_bytes"), ("", "memory.max")],
)
def test_the_memory_of_a_parent_cgroup_is_a_limit(
    membership: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "membership").write_text(membership)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "membership")
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.memory_bytes() == installed
    limit = tmp_path / file
    limit.parent.mkdir(parents=True, exist_ok=True)
    limit.write_text("max\n")
    assert machine.memory_bytes() == installed
    limit.write_text("4096\n")
    assert machine.memory_bytes() == 4096


@pytest.mark.parametrize(("siblings", "shared"), [(("0", "1"), False), (("0-1", "0-1"), True), (("0,4", "1,5"), True)])
def test_cores_are_shared_where_one_computes_for_several_cpus(
    siblings: tuple[str, ...], shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: {0, 1})
    monkeypatch.setattr(Path, "read_text", lambda path: siblings[int(path.parts[-3].removeprefix("cpu"))] + "\n")
    assert machine.shares_cores() == shared


def test_threads_are_those_asked_but_no_more_than_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    assert [machine.threads_to_use(*asked) for asked in ((3,), (0, 2), (0, 0), (2000,))] == [3, 2, 4, 4]


def test_the_share_of_others_is_what_the_cores_did_without_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(10.0, 100.0, 5.0), (14.0, 107.0, 10.0)])
    monkeypatch.setattr(machine.BackgroundLoad, "_read", staticmethod(lambda: next(readings)))
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: {0, 1})
    # 7 s of work in 4 s on two cores, 5 of them this process's own.
    assert machine.BackgroundLoad().share == pytest.approx(2 / 8)


def test_processes_that_this_one_has_started_are_no_others() -> None:
    began = machine.BackgroundLoad._read()[2]
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", spin], check=True)
    assert machine.BackgroundLoad._read()[2] - began >= 0.25


def test_too_short_a_time_and_a_machine_that_does_not_tell_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.BackgroundLoad().share is None
    readings = iter([(10.0, None, 5.0), (14.0, None, 10.0)])
    monkeypatch.setattr(machine.BackgroundLoad, "_read", staticmethod(lambda: next(readings)))
    assert machine.BackgroundLoad().share is None


@pytest.mark.parametrize(("cpu_max", "cores"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None)])
def test_usable_cores_never_exceed_quota_or_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu_max: str, cores: int | None
) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    allowed = len(os.sched_getaffinity(0))
    assert 1 <= machine.usable_cores() <= allowed
    if cores:
        assert machine.usable_cores() == cores


def test_the_cpu_has_a_name_and_known_flags() -> None:
    model, flags = machine.cpu_info()
    assert model
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        words = cpuinfo.read_text().split()
        assert set(flags) <= set(words)
        assert ("avx2" in flags) == ("avx2" in words)
