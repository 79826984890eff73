"""What this machine is: the cores that may really be used, the instruction sets, the names for the record."""

import os
import platform
import time
from functools import cache
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


# A clock tick on each of the cores is 1 % of this.
_TELLING_S = 1.0


class BackgroundLoad:
    """From now on: how much of the cores other programs take, and a hypervisor for its other guests.

    A program that keeps a core busy slows all runs alike, so their spread need not show it.
    """

    def __init__(self) -> None:
        self._begun = self._read()

    @property
    def share(self) -> float | None:
        """Of the time of all cores that this process may use; None where /proc/stat does not tell, or too soon."""
        (began, busy, own), (now, busy_now, own_now) = self._begun, self._read()
        if busy is None or busy_now is None or now - began < _TELLING_S:
            return None
        others = (busy_now - busy) - (own_now - own)
        return max(0.0, others / ((now - began) * len(_allowed_cpus())))

    @staticmethod
    def _read() -> tuple[float, float | None, float]:
        return time.perf_counter(), _busy_s(), time.process_time()


def _busy_s() -> float | None:
    """Seconds since the boot in which the cores that this process may use had something to do."""
    names = {f"cpu{cpu}" for cpu in _allowed_cpus()}
    try:
        rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ticks = [[int(count) for count in counts[:8]] for name, *counts in rows if name in names]
    except (OSError, ValueError):
        return None
    # user, nice, system, idle, waiting for a disk, interrupts (2), stolen by the hypervisor
    return sum(sum(row) - row[3] - row[4] for row in ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


def _allowed_cpus() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Cores to compute on: the smallest of physical cores, CPU affinity and the cgroup's quota; at least 1."""
    allowed = _allowed_cpus()
    quota = cpu_quota()
    return max(1, min(_physical_cores(allowed), int(quota) if quota else len(allowed)))


def threads_to_use(*asked: int) -> int:
    """The first of the numbers that is not 0, else all usable cores; never more than these: threads would wait."""
    return min(next(filter(None, asked), usable_cores()), usable_cores())


def cpu_quota() -> float | None:
    """The cgroup's CPU quota in cores, or None where there is none."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        microseconds = int((_CGROUP / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((_CGROUP / "cpu/cpu.cfs_period_us").read_text())
        return microseconds / period_us if microseconds > 0 else None
    except (OSError, ValueError):
        return None


def _physical_cores(allowed: set[int]) -> int:
    siblings = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings.add(topology.read_text().strip())
        except OSError:
            siblings.add(str(cpu))
    return len(siblings)


def memory_bytes() -> int:
    """Memory that may be used: the machine's, or the cgroup's limit where that is less."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(installed, int((_CGROUP / file).read_text()))
        except (OSError, ValueError):
            continue
    return installed


@cache
def cpu_info() -> tuple[str, tuple[str, ...]]:
    """The CPU's model name and those of its flags that matter to inference."""
    model, flags = platform.processor() or platform.machine(), ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            if key.strip() in ("flags", "Features"):
                flags = value
    except OSError:
        pass
    wanted = (
        "avx2",
        "avx512f",
        "avx512_vnni",
        "avx_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_bf16",
        "amx_int8",
        "asimd",
    )
    return model, tuple(flag for flag in wanted if flag in flags.split())


def governor() -> str:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return "unknown"
