"""The environment of a measurement: CPU, GPU, drivers, versions."""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np

from rrr_edge.bundle.record import Record
from rrr_edge.timing import machine


class GPU(Record):
    name: str
    driver: str
    max_clock_mhz: int | None


class Environment(Record):
    """Where and with what a measurement was made.

    `quota` is the cgroup's limit in cores, `cores` what is left to compute on, `threads` what was used. `machine_id`
    tells machines apart: results with different ids never share a column. It holds nothing that names the owner.
    """

    machine_id: str
    cpu: str
    isa: tuple[str, ...]
    governor: str
    quota: float | None
    cores: int
    threads: int
    gpus: tuple[GPU, ...]
    os: str
    python: str
    versions: dict[str, str]

    @classmethod
    def here(cls, *, threads: int, versions: Mapping[str, str]) -> Self:
        cpu, isa = machine.cpu_info()
        gpus = find_gpus()
        return cls(
            machine_id=_machine_id(cpu, *isa, *(gpu.name for gpu in gpus)),
            cpu=cpu,
            isa=isa,
            governor=machine.governor(),
            quota=machine.cpu_quota(),
            cores=machine.usable_cores(),
            threads=threads,
            gpus=gpus,
            os=platform.platform(),
            python=platform.python_version(),
            versions={"numpy": np.__version__, **versions},
        )


def find_gpus() -> tuple[GPU, ...]:
    """NVIDIA's GPUs as nvidia-smi lists them; none where it is absent or fails."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(_gpu(line) for line in answer.splitlines() if line.count(",") == 2)


def _gpu(line: str) -> GPU:
    name, driver, clock = (word.strip() for word in line.split(","))
    return GPU(name=name, driver=driver, max_clock_mhz=int(clock) if clock.isdigit() else None)


def _machine_id(*traits: str) -> str:
    """Eight hexadecimal digits from the hardware and the operating system's own random id, which stays unreadable."""
    try:
        own = Path("/etc/machine-id").read_text().strip()
    except OSError:
        own = ""
    words = (*traits, str(os.cpu_count()), own)
    return hashlib.sha256("\n".join(("rrr-edge machine", *words)).encode()).hexdigest()[:8]
