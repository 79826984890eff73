"""TensorRT's log messages, kept because its calls return None and name the cause only here."""

from typing import Any

_LAYERS = "Layers:\n"
# Said by what asks for a GPU, where there is none; builds for other machines go on without.
_NO_DRIVER = ("Cuda Runtime (", "cudaError")


class Log:
    """The messages of TensorRT's errors, in order, and the builder's list of the layers that it made."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.layers = ""

    @property
    def cause(self) -> str:
        told = [said for said in self.errors if not any(words in said for words in _NO_DRIVER)] or self.errors
        return told[-1].strip().rstrip(".") if told else "it gave no reason"

    @property
    def out_of_memory(self) -> bool:
        said = " ".join(self.errors).lower()
        return any(words in said for words in ("out of memory", "outofmemory", "memory allocation", "insufficient mem"))


def without_driver(message: str) -> str:
    """`message` without its lines that only say that there is no driver here, if it says more than that."""
    lines = message.strip().splitlines()
    return "\n".join([line for line in lines if not any(words in line for words in _NO_DRIVER)] or lines)


def log_to(trt: Any, log: Log) -> Any:
    """A logger for TensorRT, which holds on to it as long as it lives."""
    serious = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, msg: str) -> None:
            if severity in serious:
                log.errors.append(msg)
            elif msg.startswith(_LAYERS):
                log.layers = msg.removeprefix(_LAYERS)

    return Logger()
