import os
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


def test_the_share_of_others_is_what_the_cores_did_without_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(10.0, 100.0, 5.0), (14.0, 107.0, 10.0)])
    monkeypatch.setattr(machine.BackgroundLoad, "_read", staticmethod(lambda: next(readings)))
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: {0, 1})
    # 7 s of work in 4 s on two cores, 5 of them this process's own.
    assert machine.BackgroundLoad().share == pytest.approx(2 / 8)


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
