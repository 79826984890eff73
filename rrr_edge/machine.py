"""What this machine is: the cores that may really be used, the instruction sets, the names for the record."""

import os
import platform
from functools import cache
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores to compute on: the smallest of physical cores, CPU affinity and the cgroup's quota; at least 1."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    quota = cpu_quota()
    return max(1, min(_physical_cores(allowed), int(quota) if quota else len(allowed)))


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
