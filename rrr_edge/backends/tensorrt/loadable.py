"""The rules by which this machine may load a stored engine: versions and GPU, from engine.json alone."""

from collections.abc import Callable, Mapping

from rrr_edge.backends.protocols import GPUModel
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.target import Portability
from rrr_edge.errors import CannotRunHere

_Rule = Callable[[str, str], bool]


def require_fit(engine: Engine, here: Mapping[str, str], *, repair: str) -> None:
    """Raise CannotRunHere with all that differs between the machine that built `engine` and `here`."""
    rules: dict[str, _Rule] = {**_ALWAYS, **_BY_PORTABILITY[engine.target.portability]}
    differences = [
        f"{what} {engine.versions.get(what, 'unknown')} (here {here[what]})"
        for what, fits in rules.items()
        if what not in engine.versions or not fits(engine.versions[what], here[what])
    ]
    if differences:
        raise CannotRunHere(
            f"The engine {engine.name} was built for another machine: {', '.join(differences)}.",
            advice=f"Run: {repair}",
        )


def require_gpu(engine: Engine, gpu: GPUModel, *, repair: str) -> None:
    """Raise CannotRunHere where `engine` was built for another GPU than the described one."""
    built, capability = engine.versions.get("gpu", "unknown"), engine.versions.get("compute capability", "0.0")
    rules = _BY_PORTABILITY[engine.target.portability]
    same_model = "gpu" not in rules or gpu.name.lower() in built.lower()
    if not (same_model and rules["compute capability"](capability, gpu.compute_capability)):
        raise CannotRunHere(
            f"The engine {engine.name} was built for {built} (compute capability {capability}), not for {gpu.name} "
            f"({gpu.compute_capability}).",
            advice=f"On the machine that has it, run: {repair}",
        )


def _same(built: str, here: str) -> bool:
    return built == here


def _at_least(built: str, here: str) -> bool:
    return _numbers(here) >= _numbers(built)


def _ampere_or_newer(built: str, here: str) -> bool:
    return _numbers(here) >= (8, 0)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


_ALWAYS: dict[str, _Rule] = {"os": _same, "cuda driver": _at_least}
_BY_PORTABILITY: dict[Portability, dict[str, _Rule]] = {
    "none": {"tensorrt": _same, "gpu": _same, "compute capability": _same},
    "same-cc": {"tensorrt": _same, "compute capability": _same},
    "ampere+": {"tensorrt": _same, "compute capability": _ampere_or_newer},
    "version": {"tensorrt": _at_least, "gpu": _same, "compute capability": _same},
}
