"""The comparisons of `rrr-edge profile`: from the command line's words to files and sessions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import cast, get_args

from rrr_edge.bundle.baseline import Point
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import Granularity
from rrr_edge.bundle.target import Target
from rrr_edge.cli.display import Display
from rrr_edge.errors import UsageError, choose, pip_install
from rrr_edge.profile.request import Asked, Baselines, Sweep
from rrr_edge.timing.machine import usable_cores
from rrr_edge.timing.progress import OnProgress, Step

NONE = "none"


def read_comparison(against: str, sparsity: str | None, *, prepare: bool = False) -> Asked:
    """Read lists such as "baseline,block" and "0,0.3,0.6". Raises UsageError for what makes no sense.

    With `prepare` there must be pruned networks among them.
    """
    words = list(dict.fromkeys(word.strip() for word in against.split(",")))
    for word in words:
        choose(word, (*get_args(Granularity), NONE), "comparison")
    if NONE in words and len(words) > 1:
        raise UsageError(f"--against {against} is something and nothing.", advice="Leave none out.")
    pruned = tuple(cast(Granularity, word) for word in words if word not in ("baseline", NONE))
    if pruned and sparsity is None:
        raise UsageError(
            f"How sparse is {', '.join(pruned)} to be?",
            advice="Add shares of the network's parameters: --sparsity 0.3,0.6",
        )
    if not pruned and (prepare or sparsity is not None):
        raise UsageError(
            f"{'--prepare' if prepare else '--sparsity'} is about pruned networks, and none is asked for.",
            advice="Add them: --against baseline,element,channel,block",
        )
    return Asked("baseline" in words, pruned, _shares(sparsity) if sparsity is not None else ())


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = sorted({float(word) for word in text.split(",")})
    except ValueError:
        shares = []
    if not shares or not all(0 <= share < 1 and round(share, 4) == share for share in shares):
        raise UsageError(
            "--sparsity takes shares of the parameters, from 0 to less than 1 and with at most four decimals, such as "
            f"0,0.3,0.6, not {text!r}."
        )
    return tuple(shares)


@contextmanager
def assembled(
    bundle: Bundle, target: Target, asked: Asked, *, display: Display, on_progress: OnProgress
) -> Iterator[Baselines]:
    """Where PyTorch is, missing networks are made, and all are measured in PyTorch too."""
    against = _assemble(bundle, target, asked, display, on_progress)
    try:
        yield against
    finally:
        for baseline in against.ready:
            baseline.session.close()


def _assemble(bundle: Bundle, target: Target, asked: Asked, display: Display, on_progress: OnProgress) -> Baselines:
    sweep = Sweep(asked.granularities, asked.sparsities) if asked.granularities else None
    against = Baselines(models=(bundle.baseline,) if asked.baseline else (), sweep=sweep)
    if not (asked.baseline or sweep) or not find_spec("torch"):
        return against
    try:
        from rrr_edge.compress.baselines import RandomNetworks
    except ImportError as error:
        display.say(f"note: PyTorch is not measured, for {error.name} is missing: {pip_install('compress')}")
        return against
    if asked.baseline:
        on_progress(
            Step("baseline", 0, 1, f"{Point(backbone=bundle.manifest.recipe.backbone).words} is built and exported")
        )
        against = replace(against_source_network(bundle, threads=target.threads or usable_cores()), sweep=sweep)
        on_progress(Step("baseline", 1, 1))
    return replace(against, sweep=replace(sweep, workshop=RandomNetworks(bundle))) if sweep else against


def against_source_network(bundle: Bundle, *, threads: int) -> Baselines:
    """What `profile` compares with where PyTorch is: the source network as a file for the backend, and in PyTorch."""
    from rrr_edge.compress.baselines import pytorch_baselines, write_baseline

    return Baselines(models=(write_baseline(bundle),), ready=pytorch_baselines(bundle, threads=threads))
