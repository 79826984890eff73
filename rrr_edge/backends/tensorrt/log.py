"""What TensorRT says while it works: kept, because its calls answer None and tell the cause only here."""

from typing import Any


class Log:
    """The messages of TensorRT's errors, in order."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    @property
    def cause(self) -> str:
        return self.errors[-1].strip().rstrip(".") if self.errors else "it gave no reason"

    @property
    def out_of_memory(self) -> bool:
        said = " ".join(self.errors).lower()
        return any(words in said for words in ("out of memory", "outofmemory", "memory allocation", "insufficient mem"))


def log_to(trt: Any, log: Log) -> Any:
    """A logger for TensorRT, which holds on to it as long as it lives."""
    serious = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, msg: str) -> None:
            if severity in serious:
                log.errors.append(msg)

    return Logger()
