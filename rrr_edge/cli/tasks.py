"""`rrr-edge tasks`."""

from pathlib import Path
from typing import Annotated

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, Quiet, Verbose


@command
def tasks(
    bundles: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE...", help="Bundles that are to lie on one device."),
    ],
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Tell what the weights of several tasks on one device share. Tensors that are alike bit for bit count once."""
    from rrr_edge.bundle.folder import Bundle
    from rrr_edge.bundle.sharing import compare_tasks

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    costs = compare_tasks([Bundle.open(path) for path in bundles])
    lines = [
        f"{task.name}: {task.bytes / 1e6:.1f} MB of weights, {task.own_bytes / 1e6:.1f} MB its own, "
        f"{task.macs / 1e6:,.0f} million MACs" + (f", {task.accuracy:.1%} right" if task.accuracy is not None else "")
        for task in costs.tasks
    ]
    lines.append(
        f"together {costs.stored_once_bytes / 1e6:.1f} MB with what they share stored once, "
        f"{costs.apart_bytes / 1e6:.1f} MB apart"
    )
    display.result(costs.document(), "\n".join(lines))
