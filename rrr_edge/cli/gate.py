"""`rrr-edge gate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, DryRun, PrecisionName, Quiet, TargetName, Verbose, chosen_target
from rrr_edge.errors import UsageError, counted

if TYPE_CHECKING:
    from rrr_edge.profile.gate_result import Gate, SelfTest


@command
def gate(
    baseline: Annotated[str, typer.Option(metavar="BUNDLE[:PRECISION]", help="What is shipped now.")],
    target: TargetName,
    candidate: Annotated[str | None, typer.Option(metavar="BUNDLE[:PRECISION]", help="What would replace it.")] = None,
    precision: PrecisionName = None,
    max_slowdown: Annotated[float, typer.Option(help="The candidate's time over the baseline's, at most.")] = 1.05,
    max_drop: Annotated[
        float | None, typer.Option(help="Accuracy (absolute) that may be lost; 1: do not compare it (default: 0.01).")
    ] = None,
    budget_s: Annotated[float, typer.Option(min=0, help="Seconds to measure at most.")] = 60,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict for a pull request.")] = None,
    self_test: Annotated[bool, typer.Option("--self-test", help="Compare the baseline with itself.")] = False,
    times: Annotated[int | None, typer.Option(min=1, help="Comparisons of a self-test (default: 20).")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say if a candidate may replace a baseline. The exit code is 0 if so, and 3 if not or undecided."""
    from rrr_edge.bundle.outputs import require_output, write_output
    from rrr_edge.profile import gate as gates
    from rrr_edge.profile.gate_result import MARK

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    if self_test == (candidate is not None):
        raise UsageError("A gate takes either a --candidate or --self-test.")
    if self_test and max_drop is not None:
        raise UsageError("--max-drop means nothing with --self-test, which compares times.")
    if times is not None and not self_test:
        raise UsageError("--times means nothing without --self-test.")
    chosen = chosen_target(target, precision, display)
    limits = gates.Limits(max_slowdown, (1 if self_test else 0.01) if max_drop is None else max_drop, budget_s)
    shipped = gates.Side.parse(baseline)
    other = gates.Side.parse(candidate) if candidate else shipped
    if markdown:
        require_output(markdown, MARK)
    if dry_run:
        threads = gates.require_comparable(shipped, other, chosen, limits).threads
        against = candidate or "itself"
        document = {"baseline": baseline, "candidate": candidate, "target": chosen.name, "threads": threads}
        display.result(document, f"would time {against} beside {baseline}, on {counted(threads, 'thread')}")
        return
    found: Gate | SelfTest
    with display.progress() as on_progress:
        if candidate is None:
            found = gates.self_test(shipped, chosen, limits, times=times or 20, on_progress=on_progress)
        else:
            found = gates.compare(shipped, other, chosen, limits, on_progress)
    if markdown:
        write_output(markdown, found.to_markdown(), MARK)
    display.result(found.model_dump(mode="json", by_alias=True), "\n".join(found.sentences))
    if not found.passed:
        raise typer.Exit(3)
