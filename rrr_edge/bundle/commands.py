"""The command lines that messages, reports and repairs name: the one place that writes rrr-edge's options."""

from pathlib import Path
from shlex import quote

from rrr_edge.bundle.target import Target, is_known

PROGRAM = "rrr-edge"
_SHORT = {"out": "-o"}


def command_line(verb: str, *arguments: str | Path, **options: str | Path | float | bool | None) -> str:
    """`rrr-edge VERB ARGUMENTS --an-option value`, quoted for a shell.

    The option `an_option` is a flag where its value is True, and left out where it is None or False.
    """
    words = [PROGRAM, verb, *(quote(str(argument)) for argument in arguments)]
    for name, value in options.items():
        if value is not None and value is not False:
            words.append(_SHORT.get(name, f"--{name.replace('_', '-')}"))
        if value is not None and not isinstance(value, bool):
            words.append(quote(f"{value:g}" if isinstance(value, float) else str(value)))
    return " ".join(words)


def compressing(out: Path, *, anew: bool = False) -> str:
    """The command that makes the bundle `out`; with `anew` what is there cannot be repaired."""
    return command_line("compress", "PHOTOS", out=out, force=anew)


def compiling(bundle: Path, target: Target, *, prepare_only: bool = False) -> str:
    """The command that compiles `bundle` for `target`, whose file is not named where it is not known by its name."""
    known = is_known(target.name)
    default = Target.load(target.name).lowering if known else Target.model_fields["lowering"].default
    lowering = None if target.lowering == default else target.lowering
    words = command_line("compile", bundle, **asked(target), lowering=lowering, prepare_only=prepare_only)
    return words if known else f"{words} (FILE.toml is the file of the target {target.name!r})"


def verifying(bundle: Path, target: Target) -> str:
    """The command that runs the engine of `bundle` for `target` on the device at hand."""
    return command_line("verify", bundle, **asked(target))


def compiling_named(bundle: Path, target: str, precision: str) -> str:
    """`compiling` for a target of which nothing but the name is known."""
    known = is_known(target)
    words = command_line("compile", bundle, target=target if known else "FILE.toml", precision=precision)
    return words if known else f"{words} (FILE.toml is the file of the target {target!r})"


def compiling_first(bundle: Path) -> str:
    """The command that compiles `bundle`, which has no engine yet."""
    return command_line("compile", bundle, target="openvino")


def profiling(bundle: Path, target: Target) -> str:
    """The command that profiles the engine of `bundle` for `target`."""
    return command_line("profile", bundle, **asked(target))


def profiling_named(bundle: Path, target: str, precision: str) -> str:
    """`profiling` for a target of which nothing but the name is known."""
    return command_line("profile", bundle, target=target if is_known(target) else "FILE.toml", precision=precision)


def asked(target: Target) -> dict[str, str]:
    """The options that name `target`; it may be known only to those who have its file."""
    return {"target": target.name if is_known(target.name) else "FILE.toml", "precision": target.precision}
