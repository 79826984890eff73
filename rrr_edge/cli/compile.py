"""`rrr-edge compile`."""

from typing import TYPE_CHECKING, Annotated

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, BundleFolder, DryRun, PrecisionName, Quiet, TargetName, Verbose, chosen_target
from rrr_edge.errors import choose

if TYPE_CHECKING:
    from rrr_edge.bundle.engine import Engine, Prepared
    from rrr_edge.bundle.search import LayerLoss


@command
def compile(
    bundle: BundleFolder,
    target: TargetName,
    precision: PrecisionName = None,
    calib_data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Images for int8, instead of the bundle's own.")
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Share of the test photos, ties aside, that must keep their answer (default: by precision)."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Accuracy (absolute) that the engine may lose (default: 0.01, judged by its interval)."),
    ] = None,
    min_share: Annotated[
        float, typer.Option(help="Share of the MACs that a search must leave in INT8 (or FP8).")
    ] = 0.5,
    search_minutes: Annotated[
        float, typer.Option(help="Time to search, in all, where plain INT8 misses a limit (0: none).")
    ] = 10.0,
    explains: Annotated[
        bool, typer.Option("--explain", help="Show what each layer loses where it alone is in INT8.")
    ] = False,
    lowering: Annotated[
        str | None,
        typer.Option(
            help="grouped, split or dense branches; product: pairs of convolutions as one; or auto: the fastest here "
            "(default: the target's)."
        ),
    ] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Make and verify the graph that NVIDIA's compilers build from.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Build an engine and prove that it answers like the network."""
    from rrr_edge.backends.build import require_builder
    from rrr_edge.bundle.calibration import CALIBRATED
    from rrr_edge.bundle.commands import command_line, compiling
    from rrr_edge.bundle.engine import Engine
    from rrr_edge.bundle.folder import Bundle
    from rrr_edge.bundle.limits import Limits
    from rrr_edge.bundle.target import LOWERINGS, PAIR_LOWERINGS
    from rrr_edge.bundle.verification import few_images_warning, guessing_warning, shares_of
    from rrr_edge.compile import compile_bundle, explain_bundle, may_be_faster_split, prepare_bundle, require_sense

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    opened, chosen = Bundle.open(bundle), chosen_target(target, precision, display)
    if lowering:
        words = tuple(dict.fromkeys((*LOWERINGS, *PAIR_LOWERINGS, "auto")))
        chosen = chosen.model_copy(update={"lowering": choose(lowering, words, "lowering")})
    display.detail(f"target: {chosen.model_dump_json()}")
    limits = Limits(min_agreement=min_agreement, max_drop=max_drop, min_share=min_share, search_minutes=search_minutes)
    require_sense(opened, chosen, calib_data=calib_data, limits=limits, prepare_only=prepare_only)
    name = chosen.engine_name
    folder = opened.engine_folder(name)
    replaces = opened.is_prepared(name) if prepare_only else name in opened.engine_names()
    if dry_run:
        opened.check()
        if not prepare_only:
            require_builder(chosen)
        document = {"engine": str(folder), "replaces": replaces, "target": chosen.model_dump()}
        display.result(document, f"would {'replace' if replaces else 'write'} {folder}")
        return
    with display.progress() as on_progress:
        losses = explain_bundle(opened, chosen, calib_data=calib_data, on_progress=on_progress) if explains else ()
    if explains:
        display.table(f"What each layer of {name} loses where it alone is quantised", [*map(_loss_row, losses)])
    loses = not prepare_only and (folder / CALIBRATED).is_file()
    with display.progress() as on_progress:
        make = prepare_bundle if prepare_only else compile_bundle
        made = make(opened, chosen, calib_data=calib_data, limits=limits, on_progress=on_progress)
    proof, accuracy = made.verification, opened.manifest.accuracy
    guessing = guessing_warning(accuracy, len(opened.manifest.labels)) if accuracy else ""
    few = few_images_warning(proof.images, chosen.precision, limits)
    lost = (
        f"the old engine's calibration is gone with it: {command_line('calibrate', bundle, 'PHOTOS')}" if loses else ""
    )
    for doubt in filter(None, (lost, *made.notes, *(f"{doubt}." for doubt in proof.doubts), few, guessing)):
        display.warn(doubt)
    searched = made.search.words(chosen.precision) if made.search else ""
    for ratio in made.lowering_ratios if isinstance(made, Engine) else ():
        low, high = ratio.interval
        display.say(f"{ratio.of} takes {ratio.value:.3f} of {ratio.to}'s time (95% interval {low:.3f} to {high:.3f})")
    if not lowering and may_be_faster_split(opened, chosen):
        auto = compiling(bundle, chosen.model_copy(update={"lowering": "auto"}))
        display.say(f"note: Without AVX-512, as here, branches can be faster side by side. To find out: {auto}")
    explained = {"layers": [loss.model_dump() for loss in losses]} if explains else {}
    display.result(
        made.document() | explained,
        f"{folder}{' (replaced)' if replaces else ''}: {'a graph, not yet an engine, ' if prepare_only else ''}"
        f"{made.bytes / 1e6:.1f} MB, MACs: {shares_of(made.precision_found)}\n"
        f"{proof.words}{_not_yet_run(made)}{f'{chr(10)}{searched}' if searched else ''}",
    )


def _loss_row(loss: "LayerLoss") -> dict[str, str]:
    return {
        "layer": loss.name,
        "of the MACs": f"{loss.macs_share:.1%}",
        "noise of the log-ratio": f"{loss.noise:.4f}",
        "answers changed": f"{loss.flipped:.1%}",
    }


def _not_yet_run(made: "Engine | Prepared") -> str:
    """What is not proven of an engine that was built for a device which is not at hand."""
    from pathlib import Path

    from rrr_edge.bundle.commands import verifying
    from rrr_edge.bundle.engine import Engine

    if not isinstance(made, Engine) or made.verified_by == "engine":
        return ""
    built = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    return (
        f" (its graph, by ONNX Runtime on the CPU)\n"
        f"built by {built} for compute capability {', '.join(made.target.compute_capabilities) or 'any'}; not yet run "
        f"on a GPU: {verifying(Path('BUNDLE'), made.target)} does that there, as does opening it"
    )
