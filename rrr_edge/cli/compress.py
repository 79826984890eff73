"""`rrr-edge compress`."""

import functools
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrr_edge.cli.app import command_with_settings
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, DataFolder, DryRun, Quiet, Verbose
from rrr_edge.cli.settings import read_depths
from rrr_edge.errors import RRREdgeError, choose, counted
from rrr_edge.timing.processes import process_rank

if TYPE_CHECKING:
    from rrr_edge.images.dataset import Dataset


# So many unreadable files are named.
_NAMED = 20


@command_with_settings
def compress(
    context: typer.Context,
    data: DataFolder,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="BUNDLE", help="The bundle to write.")],
    recipe: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="The same settings from a file.")] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|folder-order",
            help="Measure your own network in --weights too: a text file with a class a line in the order of its "
            "outputs, or folder-order.",
        ),
    ] = None,
    own_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images that your own network takes (default: image-size).")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Share of unreadable images that is skipped.")] = 0.01,
    with_baseline: Annotated[
        bool, typer.Option("--with-baseline", help="Add the source network, to profile torch-free.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle, with its engines.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn a ResNet into a small network for your photos. Needs the `compress` extra."""
    from rrr_edge.bundle.basis import NOTHING_PRUNED
    from rrr_edge.bundle.commands import compiling_first
    from rrr_edge.bundle.files import work_folder
    from rrr_edge.bundle.reference_network import network_beside
    from rrr_edge.bundle.settings import read_recipe
    from rrr_edge.images.layouts import require_folder

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose, rank=process_rank())
    choose(device, ("auto", "cpu", "cuda"), "device")
    settings = {**context.obj, "depths": read_depths(context.obj["depths"])}
    resolved = read_recipe(recipe, **settings)
    display.detail(f"recipe: {resolved.model_dump_json()}")
    if force:
        _warn_of_what_goes(out, display)
    require_folder(Path(data))
    if resume and not (out.exists() or work_folder(out).exists()):
        display.say(f"note: There is no interrupted run for {out}: this one begins.")
    display.say("loading PyTorch")
    workshop = require_compress_extra()
    after_scan = functools.partial(_tell, display)
    run = workshop.Run(
        device=device,
        max_bad=max_bad,
        resume=resume,
        force=force,
        try_steps=dry_run,
        after_weights=display.say,
        after_scan=after_scan,
        labels=labels,
        own_size=own_size,
        after_own=display.say,
        warn=display.warn,
    )
    with display.progress() as on_progress:
        if dry_run:
            plan = workshop.plan(data, out, recipe=resolved, run=run, on_progress=on_progress)
        else:
            bundle = workshop.compress(data, out, recipe=resolved, run=run, on_progress=on_progress)
            if with_baseline and display.is_first:
                from rrr_edge.compress.baselines import write_baseline

                write_baseline(bundle)
    if dry_run:
        display.result(plan.document(), plan.words)
        return
    manifest = bundle.manifest
    for note in manifest.provenance.notes:
        display.say(f"note: {note}")
    accuracy = manifest.accuracy
    scored = (
        f"{accuracy.accuracy:.2%} of {accuracy.images} test images right "
        f"(95% interval {accuracy.interval[0]:.1%} to {accuracy.interval[1]:.1%})"
        if accuracy
        else "no test images, so no accuracy"
    )
    if any(note.startswith(NOTHING_PRUNED) for note in manifest.provenance.notes):
        scored += "; nothing was pruned"
    compared = network_beside(bundle)
    beside = f"\n{compared.words}; the new one's accuracy is {compared.paired.words}" if compared else ""
    display.result(
        {**manifest.document(), **({"reference": compared.document()} if compared else {})},
        f"{bundle.path}: {manifest.cost.params:,} parameters, {manifest.cost.macs / 1e6:,.0f} million MACs, {scored}"
        f"{beside}\n"
        f"next: {compiling_first(bundle.path)}",
    )


def _warn_of_what_goes(out: Path, display: Display) -> None:
    """What --force takes away beside the network."""
    from rrr_edge.bundle.folder import Bundle

    with suppress(RRREdgeError):
        if engines := Bundle.open(out).engine_folders():
            display.warn(f"when {out} is replaced, its engines ({', '.join(engines)}) and profiles go with it")


def _tell(display: Display, dataset: "Dataset") -> None:
    """What was found in the photos, while there is time to stop."""
    display.say(dataset.summary)
    for bad in dataset.bad[:_NAMED]:
        display.warn(f"{bad.path} is skipped: {bad.reason}")
    if len(dataset.bad) > _NAMED:
        display.warn(
            f"{counted(len(dataset.bad) - _NAMED, 'more unreadable file')} skipped; --dry-run --json names them all"
        )
    for remark in dataset.remarks:
        display.warn(remark)
    if dataset.duplicates:
        train, test = dataset.duplicates[0]
        count = len(dataset.duplicates)
        display.warn(f"duplicates: {count} among the test photos, such as {test} = {train}: the accuracy will flatter")


def require_compress_extra() -> Any:
    """`rrr_edge.compress`, or the sentence that says what to install. Raises MissingLibrary."""
    try:
        from rrr_edge import compress as workshop
    except ModuleNotFoundError as error:
        from rrr_edge.errors import MissingLibrary

        raise MissingLibrary(error.name or "torch", extra="compress", purpose="rrr-edge compress") from error
    return workshop
