"""`rrr-edge report`."""

from pathlib import Path
from typing import Annotated

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, Quiet, Verbose


@command
def report(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Profiled bundles, the candidate first.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="HTML", help="The page to write.")],
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Also the short form, for a pull request.")
    ] = None,
    allow_cross_machine: Annotated[
        bool, typer.Option("--allow-cross-machine", help="Compare times that come from different machines.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write what was profiled as one page that opens anywhere."""
    from rrr_edge.report import write_report

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    said = write_report(bundles, out, markdown=markdown, allow_cross_machine=allow_cross_machine)
    written = [str(path) for path in (out, markdown) if path]
    display.result({"verdict": said, "files": written}, f"{said}\n{', '.join(written)}")
