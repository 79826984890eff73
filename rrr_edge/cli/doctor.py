"""`rrr-edge doctor` and `rrr-edge targets`."""

from contextlib import suppress
from typing import Annotated

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, BundleFolder, Quiet, Verbose
from rrr_edge.errors import RRREdgeError


@command
def targets(as_json: AsJson = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Say what can run here, and what to install for what cannot."""
    from rrr_edge.backends import backend_of
    from rrr_edge.backends.protocols import CrossCompiler
    from rrr_edge.bundle.target import PRECISIONS, Target, target_names

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    rows = []
    for name in target_names():
        try:
            target = Target.load(name)
        except RRREdgeError as error:
            rows.append({"target": name, "here": "no", "otherwise": str(error)})
            continue
        able, builds, obstacle = [], [], ""
        for precision in PRECISIONS:
            try:
                asked = target.model_copy(update={"precision": precision})
                asked.require_device()
                backend_of(asked).check(asked)
                able.append(precision)
            except RRREdgeError as error:
                obstacle = obstacle or " ".join(filter(None, (str(error), error.advice)))
                with suppress(RRREdgeError):
                    if isinstance(backend := backend_of(asked), CrossCompiler):
                        backend.check_build(asked)
                        builds.append(precision)
        here = ", ".join(able) or (f"compiles {', '.join(builds)}" if builds else "no")
        rows.append({"target": name, "here": here, "otherwise": "" if able else obstacle})
    display.table("", rows)
    display.result(rows)


@command
def doctor(
    bundle: BundleFolder,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Judge engines for this GPU ('RTX 2080 Ti', 7.5), not ours.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say what will load here, and how to repair what will not. Nothing is run or changed."""
    from rrr_edge.backends.tensorrt_rtx.gpus import find_gpu
    from rrr_edge.runtime.doctor import examine

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    findings = examine(bundle, find_gpu(gpu) if gpu else None)
    rows = [{"what": f.what, "verdict": f.verdict, "why": f.why, "repair": f.repair} for f in findings]
    display.table("", rows)
    display.result(rows)
    if worst := max(finding.exit_code for finding in findings):
        raise typer.Exit(worst)
