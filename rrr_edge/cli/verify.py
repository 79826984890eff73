"""`rrr-edge verify`."""

from typing import Annotated

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, BundleFolder, PrecisionName, Quiet, TargetName, Verbose, chosen_engine


@command
def verify(
    bundle: BundleFolder,
    target: TargetName,
    precision: PrecisionName = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Accuracy (absolute) that may be lost (default: 0.01 more than when it was compiled)."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run an engine on the reference images here; store the verdict."""
    from rrr_edge.bundle.folder import VERIFIED, Bundle
    from rrr_edge.bundle.limits import require_share
    from rrr_edge.bundle.verification import shares_of
    from rrr_edge.runtime.verify import verify_engine

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    opened = Bundle.open(bundle)
    chosen = chosen_engine(opened, target, precision, display)
    require_share(max_drop)
    with display.progress() as on_progress:
        record = verify_engine(opened, chosen, max_drop=max_drop, on_progress=on_progress)
    proof = record.verification
    display.result(
        record.document(),
        f"{opened.engine_folder(chosen.engine_name) / VERIFIED}: {record.versions.get('gpu', record.machine)}, "
        f"MACs: {shares_of(record.precision_found)}\n{proof.words}",
    )
    for doubt in proof.doubts:
        display.warn(f"{doubt}.")
