"""`rrr-edge demo`: the whole path on the built-in data set."""

from pathlib import Path
from typing import Annotated

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.compress import require_compress_extra
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, Quiet, Verbose


@command
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder for photos, bundle and pictures.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 8,
    force: Annotated[bool, typer.Option("--force", help="Replace the demo that is in the folder.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Walk the whole path on scikit-learn's handwritten digits. An interrupted demo goes on where it stopped."""
    require_compress_extra()
    from rrr_edge.cli.walkthrough import run_demo

    run_demo(out, epochs=epochs, force=force, display=Display(as_json=as_json, quiet=quiet, verbose=verbose))
