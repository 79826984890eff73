"""`rrr-edge doctor` and `rrr-edge targets`."""

from typing import TYPE_CHECKING

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, BundleFolder, Quiet, Verbose
from rrr_edge.errors import RRREdgeError

if TYPE_CHECKING:
    pass


@command
def targets(as_json: AsJson = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Say what can run here, and what to install for what cannot."""
    from rrr_edge.backends import backend_of
    from rrr_edge.bundle.target import PRECISIONS, Target, target_names

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    rows = []
    for name in target_names():
        try:
            target = Target.load(name)
        except RRREdgeError as error:
            rows.append({"target": name, "here": "no", "otherwise": str(error)})
            continue
        able, obstacle = [], ""
        for precision in PRECISIONS:
            try:
                asked = target.model_copy(update={"precision": precision})
                asked.require_device()
                backend_of(asked).check(asked)
                able.append(precision)
            except RRREdgeError as error:
                obstacle = obstacle or " ".join(filter(None, (str(error), error.advice)))
        rows.append({"target": name, "here": ", ".join(able) or "no", "otherwise": "" if able else obstacle})
    display.table("", rows)
    display.result(rows)


@command
def doctor(bundle: BundleFolder, as_json: AsJson = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Say what will load here, and how to repair what will not. Nothing is run or changed."""
    from rrr_edge.runtime.doctor import examine

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    findings = examine(bundle)
    rows = [{"what": f.what, "verdict": f.verdict, "why": f.why, "repair": f.repair} for f in findings]
    display.table("", rows)
    display.result(rows)
    if worst := max(finding.exit_code for finding in findings):
        raise typer.Exit(worst)
