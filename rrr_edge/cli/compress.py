"""`rrr-edge compress`."""

import functools
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, DataFolder, DryRun, Quiet, Verbose
from rrr_edge.errors import RRREdgeError, UsageError, choose

if TYPE_CHECKING:
    from rrr_edge.images.dataset import Dataset


# So many unreadable files are named.
_NAMED = 20


@command
def compress(
    data: DataFolder,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="BUNDLE", help="The bundle to write.")],
    method: Annotated[
        str | None,
        typer.Option(
            help="rrr, or what to compare with: linear-probe, finetune, element, channel, block (default: rrr)."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="imagenet, imagenet-v2, timm, random, or a .pth/.safetensors file (default: imagenet)."),
    ] = None,
    depths: Annotated[
        str | None,
        typer.Option(help="Leading blocks kept in conv2_x..conv5_x, or auto: block selection (default: 1,1,1,1)."),
    ] = None,
    branches: Annotated[
        int | None, typer.Option(help="Branches that share conv4_x, conv5_x and the head (default: 8).")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="coherent (true sub-networks) or paper (Algorithm 2 as printed) (default: coherent)."),
    ] = None,
    ensemble: Annotated[str | None, typer.Option(help="naive, bagging, snapshot or fge (default: naive).")] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Rate after each ReLU of the last two blocks (default: 0).")
    ] = None,
    dropout_kind: Annotated[str | None, typer.Option(help="channel or plain (default: channel).")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the network's input, pixels (default: 128).")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images (default: 300).")] = None,
    shared_batches: Annotated[bool | None, typer.Option(help="One batch for all branches: faster.")] = None,
    feature_views: Annotated[
        int | None,
        typer.Option(help="Augment each image so often, once for all, and keep the stump's answers (default: 0)."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random follows from it (default: 0).")] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="Least relative gain that keeps a block (default: 5 / validation images, the least that a sign test "
            "can tell from luck)."
        ),
    ] = None,
    stop: Annotated[
        bool | None, typer.Option("--stop/--no-stop", help="Stop at the first block that does not pay (default: stop).")
    ] = None,
    max_additions: Annotated[
        int | None, typer.Option(help="Blocks that a selection tries at most (default: 46).")
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            help="auto depths: algorithm (phase after phase) or cyclic (phases in turn) (default: algorithm); block: "
            "reverse (conv5_x goes first) or forward (conv2_x first) (default: reverse)."
        ),
    ] = None,
    control: Annotated[
        bool | None, typer.Option(help="Train the smallest network for as many epochs, to compare.")
    ] = None,
    epochs_per_step: Annotated[
        int | None, typer.Option(help="Epochs of a step of a selection (default: --epochs).")
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            help="Share of ResNet152's parameters that goes; of --method element, channel, block (default: 0.5)."
        ),
    ] = None,
    criterion: Annotated[
        str | None,
        typer.Option(help="element, channel: random ones go, or the smallest, magnitude (default: random)."),
    ] = None,
    round_to: Annotated[int | None, typer.Option(help="channel: widths become multiples of this (default: 1).")] = None,
    recipe: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="The same settings from a file.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Share of unreadable images that is skipped.")] = 0.01,
    with_baseline: Annotated[
        bool, typer.Option("--with-baseline", help="Add ResNet152, to profile torch-free.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle, with its engines.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn a ResNet152 into a small network for your photos. Needs the `compress` extra."""
    from rrr_edge.bundle.recipe import read_recipe

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    choose(device, ("auto", "cpu", "cuda"), "device")
    options: dict[str, Any] = {
        "method": method,
        "weights": weights,
        "branches": branches,
        "image_size": image_size,
        "seed": seed,
    }
    options |= {"depths": _depths(depths), "epochs": epochs, "shared_batches": shared_batches}
    options |= {"split": split, "ensemble": ensemble, "dropout": dropout, "dropout_kind": dropout_kind}
    options |= {"epsilon": epsilon, "stop": stop, "max_additions": max_additions, "order": order}
    options |= {"control": control, "epochs_per_step": epochs_per_step, "feature_views": feature_views}
    options |= {"sparsity": sparsity, "criterion": criterion, "round_to": round_to}
    resolved = read_recipe(recipe, **options)
    display.detail(f"recipe: {resolved.model_dump_json()}")
    workshop = require_compress_extra()
    after_scan = functools.partial(_tell, display)
    run = workshop.Run(device=device, max_bad=max_bad, resume=resume, force=force, after_scan=after_scan)
    if force:
        _warn_of_what_goes(out, display)
    with display.progress() as on_progress:
        if dry_run:
            plan = workshop.plan(data, out, recipe=resolved, run=run, on_progress=on_progress)
        else:
            bundle = workshop.compress(data, out, recipe=resolved, run=run, on_progress=on_progress)
            if with_baseline and display.is_first:
                from rrr_edge.compress.baselines import write_baseline

                write_baseline(bundle)
    if dry_run:
        display.result(plan, _words(plan))
        return
    manifest = bundle.manifest
    for note in manifest.provenance.notes:
        display.say(f"note: {note}")
    accuracy = manifest.accuracy
    scored = (
        f"{accuracy.accuracy:.2%} of {accuracy.images} test images right "
        f"(95 % interval {accuracy.interval[0]:.1%} to {accuracy.interval[1]:.1%})"
        if accuracy
        else "no test images, so no accuracy"
    )
    display.result(
        manifest.document(),
        f"{bundle.path}: {manifest.cost.params:,} parameters, {manifest.cost.macs / 1e6:,.0f} million MACs, {scored}\n"
        f"next: rrr-edge compile {bundle.path} --target openvino",
    )


def _words(plan: dict[str, Any]) -> str:
    cost, recipe = plan["cost"], plan["recipe"]
    epochs, begin = f"{recipe['training']['epochs']} epochs", ""
    if selection := recipe.get("selection"):
        begin = " to begin with"
        each = selection["epochs_per_step"] or recipe["training"]["epochs"]
        epochs = f"{each} epochs for each of up to {1 + selection['max_additions']} steps"
    return (
        f"{plan['bundle']} would have {cost['params']:,} parameters and {cost['macs'] / 1e6:,.0f} million MACs{begin}; "
        f"{epochs} on {plan['photos']['train']} photos. --json tells all of it"
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
        display.warn(f"{len(dataset.bad) - _NAMED} more unreadable files are skipped; --dry-run --json names them all")
    if dataset.duplicates:
        train, test = dataset.duplicates[0]
        count = len(dataset.duplicates)
        display.warn(f"duplicates: {count} among the test photos, such as {test} = {train}: the accuracy will flatter")


def _depths(text: str | None) -> tuple[int, ...] | str | None:
    if text is None or text == "auto":
        return text
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--depths takes four numbers such as 1,1,1,1, or auto, not {text!r}.") from error


def require_compress_extra() -> Any:
    """`rrr_edge.compress`, or the sentence that says what to install. Raises MissingLibrary."""
    try:
        from rrr_edge import compress as workshop
    except ModuleNotFoundError as error:
        from rrr_edge.errors import MissingLibrary

        raise MissingLibrary(error.name or "torch", extra="compress", purpose="rrr-edge compress") from error
    return workshop
