"""`rrr-edge profile`, and what it compares with."""

from typing import Annotated

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import (
    AsJson,
    BundleFolder,
    DryRun,
    PrecisionName,
    Quiet,
    TargetName,
    Verbose,
    chosen_engine,
    require_alone,
    scan_words,
)

_COLD_STARTS = 10


@command
def profile(
    context: typer.Context,
    bundle: BundleFolder,
    target: TargetName,
    precision: PrecisionName = None,
    against: Annotated[
        str,
        typer.Option(
            help="Separated by commas: baseline (the source network, also in PyTorch where it is), element, channel "
            "and block (the same, pruned by them), or none."
        ),
    ] = "baseline",
    sparsity: Annotated[
        str | None,
        typer.Option(help="Shares of its parameters that are pruned, such as 0,0.3,0.6."),
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only make and compile the pruned networks; measure nothing.")
    ] = False,
    clean: Annotated[
        bool, typer.Option("--clean", help="Only delete the pruned networks and what interrupted runs kept.")
    ] = False,
    runs: Annotated[int, typer.Option(min=20, help="Timed runs of each candidate.")] = 200,
    anatomy: Annotated[
        bool, typer.Option("--anatomy/--no-anatomy", help="Where the time goes, and what this machine does at best.")
    ] = True,
    pace: Annotated[float, typer.Option(min=0, help="Also frames that come so often a second (0: not).")] = 0,
    cold_start: Annotated[
        bool, typer.Option("--cold-start", help="Also fresh processes to their first answer.")
    ] = False,
    batches: Annotated[str, typer.Option(metavar="1,4,8", help="Also engines for batches of so many images.")] = "",
    streams: Annotated[str, typer.Option(metavar="1,2", help="Also so many sessions that answer at once.")] = "",
    patience: Annotated[
        float, typer.Option(min=0, metavar="MINUTES", help="Wait so long for other programs to end, in all.")
    ] = 0,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Time an engine here, beside the source network, whole or pruned."""
    from rrr_edge.backends import backend_of
    from rrr_edge.bundle.folder import Bundle
    from rrr_edge.cli.comparison import assembled, read_comparison
    from rrr_edge.profile import profile_bundle
    from rrr_edge.profile.loads import Loads
    from rrr_edge.profile.pruned import delete_pruned, prepare_sweep
    from rrr_edge.profile.request import Extras
    from rrr_edge.report.tailoring import gain
    from rrr_edge.timing.interleave import TimingSettings
    from rrr_edge.timing.quiet import Patience

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    if clean:
        require_alone(context, "--clean")
    if prepare:
        require_alone(context, "--prepare", "--against", "--sparsity")
    asked = read_comparison(against, sparsity, prepare=prepare)
    counts = {"batches": scan_words("--batches", batches), "streams": scan_words("--streams", streams)}
    extras = Extras(anatomy, Loads(fps=pace, cold_starts=_COLD_STARTS * cold_start, **counts))
    timing = TimingSettings(runs=runs, patience=Patience.of_minutes(patience))
    opened = Bundle.open(bundle)
    chosen = chosen_engine(opened, target, precision, display)
    if clean:
        freed = delete_pruned(opened)
        display.result({"freed_bytes": freed}, f"{freed / 1e6:,.0f} MB of pruned networks deleted")
        return
    opened.engine(chosen)
    folder = opened.profile_folder(chosen.engine_name)
    replaced = " (replaced)" if folder.exists() else ""
    if dry_run:
        from rrr_edge.profile.plan import plan_profile

        plan = plan_profile(opened, chosen, asked, timing=timing, extras=extras)
        display.result(plan.document(), plan.words)
        return
    with (
        display.progress() as on_progress,
        assembled(opened, chosen, asked, display=display, on_progress=on_progress) as versus,
    ):
        if prepare:
            assert versus.sweep
            _, obstacles = prepare_sweep(versus.sweep, opened, backend_of(chosen), chosen, on_progress=on_progress)
        else:
            result = profile_bundle(
                opened,
                chosen,
                baselines=versus,
                timing=timing,
                extras=extras,
                on_progress=on_progress,
            )
    if prepare:
        said = "\n".join((*obstacles, f"{bundle} is ready to be profiled"))
        display.result({"ready": True, "notes": obstacles}, said)
        return
    display.profile(result, f"{folder}{replaced}")
    if said := gain(opened.manifest, result):
        display.say(said)
    display.result({**result.document(), "folder": str(folder)})
