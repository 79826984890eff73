"""This machine as the operating system describes it: usable cores and memory, instruction sets, background load."""

import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
# A clock tick on each of the cores is 1% of this.
TELLING_S = 1.0


class BackgroundLoad:
    """The CPU share that other programs, and a hypervisor's other guests, have used since construction.

    Processes that this one has started are no others once they have ended.
    A program that keeps a core busy slows all runs alike, so their spread need not show it.
    """

    def __init__(self) -> None:
        self._begun = self._read()

    @property
    def is_known(self) -> bool:
        """Whether /proc/stat tells."""
        return self._begun[1] is not None

    @property
    def share(self) -> float | None:
        """Of the time of all cores that this process may use; None where /proc/stat does not tell, or too soon."""
        (began, busy, own), (now, busy_now, own_now) = self._begun, self._read()
        if busy is None or busy_now is None or now - began < TELLING_S:
            return None
        others = (busy_now - busy) - (own_now - own)
        return max(0.0, others / ((now - began) * allowed_cores()))

    @staticmethod
    def _read() -> tuple[float, float | None, float]:
        ended_children = sum(os.times()[2:4])
        return time.perf_counter(), _busy_s(), time.process_time() + ended_children


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


def allowed_cores() -> int:
    """The logical cores that this process may use, whatever its quota."""
    return len(_allowed_cpus())


def usable_cores() -> int:
    """Cores to compute on: the smallest of physical cores, CPU affinity and the cgroup's quota; at least 1."""
    allowed = _allowed_cpus()
    quota = cpu_quota()
    return max(1, min(_physical_cores(allowed), int(quota) if quota else len(allowed)))


def threads_to_use(*asked: int) -> int:
    """The first of the numbers that is not 0, else all usable cores; never more than these: threads would wait."""
    cores = usable_cores()
    return min(next(filter(None, asked), cores), cores)


def cpu_quota() -> float | None:
    """The smallest CPU quota of this process's cgroup and of its parents, in cores; None where there is none."""
    quotas = [quota for folder in _cgroups("cpu") if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _quota_of(cgroup: Path) -> float | None:
    try:
        with suppress(FileNotFoundError):
            quota, period = (cgroup / "cpu.max").read_text().split()
            return int(quota) / int(period)
        quota, period = ((cgroup / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return None


def _cgroups(controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of all its parents, of both versions, the innermost first.

    In a container the root of what is mounted is the container's own cgroup, whatever /proc/self/cgroup calls it, so
    the roots are always among them.
    """
    try:
        rows = [line.split(":", 2) for line in _MEMBERSHIP.read_text("utf-8", "surrogateescape").splitlines()]
    except OSError:
        rows = []
    found: dict[str, None] = {}
    for row in (*rows, ["0", "", "/"], ["1", controller, "/"]):
        if len(row) != 3 or (row[1] and controller not in row[1].split(",")):
            continue
        for name in dict.fromkeys((controller, row[1]) if row[1] else ("", "unified")):
            mount = str(_CGROUP / name)
            folder = f"{mount}/{row[2].strip('/')}".rstrip("/")
            while len(folder) >= len(mount):
                found[folder] = None
                folder = os.path.dirname(folder)
    yield from map(Path, found)


def shares_cores() -> bool:
    """Whether a core computes for several CPUs at once (SMT): what runs on another one slows a run as it goes."""
    return any(re.search("[,-]", siblings) for siblings in _siblings(_allowed_cpus()))


def _physical_cores(allowed: set[int]) -> int:
    return len(_siblings(allowed))


def _siblings(allowed: set[int]) -> set[str]:
    """The lists of the CPUs that share a core, such as "0,4" or "0-1", one for each core of the allowed ones."""
    siblings = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings.add(topology.read_text().strip())
        except OSError:
            siblings.add(str(cpu))
    return siblings


def memory_bytes() -> int:
    """Memory that may be used: the machine's, or the smallest limit of the cgroup and its parents."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [installed]
    for folder in _cgroups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max" is no number
                limits.append(int((folder / name).read_text()))
    return min(limits)


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
