"""NVIDIA's GPUs by name, their compute capabilities, and which of them TensorRT for RTX builds for."""

import re

from rrr_edge.backends.protocols import GPUModel
from rrr_edge.bundle.target import Precision, Target
from rrr_edge.errors import CannotRunHere, UsageError

# Those of TensorRT for RTX 1.7.1.
SUPPORTED = {
    "7.5": "Turing: RTX 20, T4",
    "8.0": "Ampere: A100, A30",
    "8.6": "Ampere: RTX 30, RTX A2000 to A6000",
    "8.9": "Ada: RTX 40, L4, L40",
    "12.0": "Blackwell: RTX 50, RTX PRO",
    "12.1": "Blackwell: GB10",
}
_NEEDED: dict[Precision, str] = {"bf16": "8.0", "fp8": "8.9"}
# The first that is found in a name counts.
_NAMES = {
    r"GB10\b|DGX Spark": "12.1",
    r"RTX 50\d\d|RTX PRO": "12.0",
    r"Thor": "11.0",
    r"G?B300": "10.3",
    r"G?B[12]00": "10.0",
    r"G?H(20|100|200|800)\b": "9.0",
    r"RTX 40\d\d|Ada|L4\b|L40": "8.9",
    r"Orin": "8.7",
    r"RTX 30\d\d|RTX A\d\d|\bA(2|10|16|40)G?\b": "8.6",
    r"A(30|100|800)\b": "8.0",
    r"RTX 20\d\d|GTX 16\d\d|TITAN RTX|Quadro RTX|\bT4G?\b": "7.5",
    r"Xavier": "7.2",
    r"V100|TITAN V": "7.0",
    r"GTX 10\d\d": "6.1",
}


def find_gpu(words: str) -> GPUModel:
    """The GPU that `words` name ("RTX 2080 Ti"), or whose compute capability they are ("8.6"). Raises UsageError."""
    if re.fullmatch(r"\d+\.\d", words):
        return GPUModel("", words)
    for name, capability in _NAMES.items():
        if re.search(name, words, re.IGNORECASE):
            return GPUModel(words, capability)
    raise UsageError(
        f"There is no GPU {words!r} in the list.",
        advice="Give its name as in 'RTX 2080 Ti', or its compute capability as in 7.5 "
        "(nvidia-smi --query-gpu=name,compute_cap --format=csv).",
    )


def capabilities(target: Target) -> tuple[str, ...]:
    """Those that `target` is for: all of them unless it names some."""
    return target.compute_capabilities or tuple(SUPPORTED)


def require_capabilities(target: Target) -> None:
    """Raise CannotRunHere where a GPU of `target` has no engines, or lacks its precision."""
    asked, needed = capabilities(target), _NEEDED.get(target.precision, "0.0")
    if unknown := [capability for capability in asked if capability not in SUPPORTED]:
        raise unsupported(f"Compute capability {', '.join(unknown)}, for which the target {target.name!r} is,")
    if lacking := [capability for capability in asked if float(capability) < float(needed)]:
        able = [precision for precision in ("fp16", "int8", "fp32") if precision != target.precision]
        raise CannotRunHere(
            f"{target.precision} needs a GPU of compute capability {needed} or higher; the target {target.name!r} has "
            f"GPUs without it: {'; '.join(f'{capability} ({SUPPORTED[capability]})' for capability in lacking)}.",
            advice=f"Choose --precision {', '.join(able)}, or a target whose GPUs all have it "
            f"({'rtx-ada, rtx-blackwell' if target.precision == 'fp8' else 'rtx-ampere, rtx-ada, rtx-blackwell'}).",
        )


def unsupported(what: str) -> CannotRunHere:
    """`what` names the GPU or the compute capability."""
    known = "; ".join(f"{capability} ({names})" for capability, names in SUPPORTED.items())
    return CannotRunHere(
        f"{what} is not supported by TensorRT for RTX, which builds for {known}.",
        advice="Data-centre GPUs such as H100 and H200 are for --target tensorrt.",
    )
