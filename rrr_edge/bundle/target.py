"""Targets: a backend on a device, from `targets/NAME.toml`."""

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from rrr_edge.bundle.quantisation import Quantisation
from rrr_edge.bundle.record import Record
from rrr_edge.errors import BadInput, CannotRunHere, UsageError, choose
from rrr_edge.timing.machine import cpu_info

Precision = Literal["fp32", "bf16", "fp16", "int8", "fp8"]
Portability = Literal["none", "same-cc", "ampere+", "version"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Lowering = Literal["grouped", "split", "dense", "product", "mixed"]
# What can be asked for: of branches, and of the pairs of factored networks. "mixed" is what "auto" may find.
LOWERINGS: tuple[Lowering, ...] = ("grouped", "split", "dense")
PAIR_LOWERINGS: tuple[Lowering, ...] = ("grouped", "product")

# In a wheel the folder lies in the package, in a checkout beside it.
_HERE = Path(__file__).parent.parent
PACKAGED = next((d for d in (_HERE / "targets", _HERE.parent / "targets") if d.is_dir()), _HERE / "targets")


# No engine that answers a camera takes more images, or sessions, at once. Records of older engines may.
LARGEST_BATCH = 1024
# Of a target, and so of a folder of engines.
NAME = r"^\w[\w.-]*$"


class Target(Record):
    """A backend on a device, and how it is asked to run.

    `threads` 0 means all usable cores. `lowering` is how the branches' convolutions are written (lowering.py), "auto"
    the way that is measured to be fastest. `cpu` / `gpu`, where given, are words that the device's name must contain:
    engines may be compiled elsewhere, but are only run and measured on such a machine. `quantisation` says how int8 and
    fp8 are made; without it the plain way is tried first, and others are searched where that misses a limit.

    The rest is for NVIDIA's compilers. An engine takes up to `max_batch` images at once (0: `batch`, for which it is
    tuned). By its `portability` it runs on the GPU model that built it ("none"), on all of its compute capability
    ("same-cc"), on Ampere and newer ("ampere+"), or with later versions of TensorRT ("version": then it carries code of
    its own, which runs with the app's rights). The builder tries harder from `optimization_level` 0 to 5, and a kernel
    may use `workspace_mb` (0: all the GPU's memory). TensorRT for RTX builds one engine for all GPUs of the
    `compute_capabilities` ("7.5", "8.6", ...); these are its portability.
    """

    name: str = Field(pattern=NAME)
    backend: str
    device: str = "CPU"
    precision: Precision = "fp32"
    lowering: Lowering | Literal["auto"] = "grouped"
    threads: int = Field(default=0, ge=0)
    batch: int = Field(default=1, ge=1)
    max_batch: int = Field(default=0, ge=0)
    cpu: str = ""
    gpu: str = ""
    portability: Portability = "none"
    optimization_level: int = Field(default=3, ge=0, le=5)
    workspace_mb: int = Field(default=0, ge=0)
    compute_capabilities: tuple[Annotated[str, Field(pattern=r"^\d+\.\d$")], ...] = ()
    quantisation: Quantisation | None = None
    notes: str = ""

    @field_validator("lowering")
    @classmethod
    def _can_be_asked(cls, lowering: str) -> str:
        if lowering == "mixed":
            raise ValueError("which pairs are products is found by lowering = auto")
        return lowering

    @property
    def engine_name(self) -> str:
        return f"{self.name}-{self.precision}"

    @property
    def largest_batch(self) -> int:
        return max(self.batch, self.max_batch)

    def require_device(self) -> None:
        """Raise CannotRunHere where `cpu` names another processor than this machine's."""
        here = cpu_info()[0]
        if self.cpu and self.cpu.lower() not in here.lower():
            raise CannotRunHere(f"The target {self.name!r} is a {self.cpu!r} CPU; this machine is {here}.")

    @classmethod
    def load(cls, name: str | Path) -> "Target":
        """Resolve `name` as a path, then ./targets/NAME.toml, then the packaged NAME.toml.

        A target that is only named may not let engines run code of their own: whoever can write into the current
        folder would decide that. Raises UsageError where there is none (with the near misses) or it may not be so, and
        BadInput where the file is not a target.
        """
        path = Path(name)
        if path.suffix == ".toml":
            if not path.is_file():
                raise UsageError(f"There is no target file {path}.")
            return cls._read(path)
        if not is_known(str(name)):
            choose(str(name), target_names(), "target")
        own = target_here(str(name))
        if own is None:
            return cls._read(PACKAGED / f"{name}.toml")
        found = cls._read(own)
        if found.portability == "version":
            raise UsageError(
                f'{own} allows engines that run code of their own (portability = "version").',
                advice=f"Say that you mean this file: --target {own}",
            )
        return found

    @classmethod
    def _read(cls, path: Path) -> "Target":
        found = cls.from_toml_file(path)
        for name, size in (("batch", found.batch), ("max_batch", found.max_batch)):
            if size > LARGEST_BATCH:
                raise BadInput(f"{path} is not a valid Target: {name}: {size} is more than {LARGEST_BATCH}.")
        return found

    @classmethod
    def resolve(cls, target: "Target | str", precision: Precision | None = None) -> "Target":
        """`target`, or the one of that name (see `load`), at `precision` if that is given, else at its own."""
        found = cls.load(target) if isinstance(target, str) else target
        return found if precision is None else found.model_copy(update={"precision": precision})


def target_here(name: str) -> Path | None:
    """The current folder's own file of the target `name`, which goes before the packaged one."""
    own = Path("targets") / f"{name}.toml"
    return own if own.is_file() else None


def is_known(name: str) -> bool:
    """Whether there is a target of that name, without a look at the others."""
    return re.match(NAME, name) is not None and any(
        (folder / f"{name}.toml").is_file() for folder in (Path("targets"), PACKAGED)
    )


def target_names() -> list[str]:
    if not PACKAGED.is_dir():
        raise CannotRunHere(
            f"rrr-edge has no folder of targets beside {_HERE}: it cannot run from an archive.",
            advice="Unpack the archive, or install it with pip.",
        )
    return sorted({file.stem for folder in (Path("targets"), PACKAGED) for file in folder.glob("*.toml")})
