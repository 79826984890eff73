"""`rrr-edge study`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, DryRun, PrecisionName, Quiet, Verbose, chosen_target, require_alone
from rrr_edge.errors import MissingLibrary, UsageError, choose, counted

if TYPE_CHECKING:
    from rrr_edge.bundle.limits import Limits
    from rrr_edge.study import Outcome, Plan
    from rrr_edge.study.folder import StudyFolder
    from rrr_edge.study.methods import Named
    from rrr_edge.study.runners import Runner

_METHODS = "rrr,linear-probe,finetune"
_DEVICES = ("auto", "cpu", "cuda")


@command
def study(
    context: typer.Context,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="STUDY", help="The folder to write, or go on with.")],
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DATA...", help="Data sets as `rrr-edge compress` takes them, or folders of such."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Separated by commas: methods of compress, backbones (fine-tuned), chains such as rrr+basis, recipe "
            f"files (default: {_METHODS})."
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Published studies instead: paper ([A] to [E]), figure4 or figure5.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, separated by commas (default: 0,1,2).")] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Compile for it, and time here; none unless given.")
    ] = None,
    precision: PrecisionName = None,
    weights: Annotated[
        str | None,
        typer.Option(help="As of compress; in a file's name {data} and {backbone} stand for those of a cell."),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of all networks' input in pixels.")] = None,
    fit: Annotated[str | None, typer.Option(help="How a photo becomes square: crop, squash or pad.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training photos.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images of a training step.")] = None,
    branches: Annotated[int | None, typer.Option(help="Branches of rrr.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Share of unreadable images that is skipped.")] = 0.01,
    max_drop: Annotated[
        float | None, typer.Option(help="Accuracy (absolute) that an engine may lose, as of compile.")
    ] = None,
    runs: Annotated[int, typer.Option(min=20, help="Timed runs of each engine.")] = 200,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that share out the cores (0: as many as cores and memory allow).")
    ] = 0,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS|local", help="Run as tasks of a Ray cluster (extra `study`).")
    ] = None,
    budget_hours: Annotated[
        float | None, typer.Option(min=0, help="Begin no cell that would not end in this time.")
    ] = None,
    pick: Annotated[
        bool, typer.Option("--pick", help="Also choose a method for each data set, on held-out training photos.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Only write STUDY/report.html anew.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Make cells anew whose photos or settings changed.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say which method is best for your photos on this machine."""
    from rrr_edge.study import Run, run_study, to_do
    from rrr_edge.study.folder import StudyFolder

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    if report:
        require_alone(context, "--report", "--out")
        if data or target or precision:
            raise UsageError("--report reads STUDY alone.", advice="Leave data sets, --target and --precision out.")
        _report(StudyFolder(out), display, {"study": str(out)})
        return
    options = {
        "weights": weights,
        "image_size": image_size,
        "fit": fit,
        "epochs": epochs,
        "batch_size": batch_size,
        "branches": branches,
    }
    named, default_seeds = _methods(methods, preset, options)
    plan = _plan(
        data or [],
        named,
        seeds=_seeds(seeds) if seeds is not None else default_seeds,
        device=choose(device, _DEVICES, "device"),
        max_bad=max_bad,
        target=_target(target, precision, display),
        limits=_limits(max_drop),
        runs=runs,
        pick=pick,
    )
    _require_libraries(plan, here=ray is None)
    runner = _runner(workers, ray, display)
    missing = len(to_do(plan, StudyFolder(out), force=force))
    if dry_run:
        display.result({"plan": plan.document(), "to_do": missing}, _words(plan, missing))
        return
    display.say(_words(plan, missing))
    with display.progress() as on_progress:
        found = run_study(plan, out, Run(runner, budget_hours, force, on_progress))
    _tell(found, StudyFolder(out), display)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def _methods(
    words: str | None, preset: str | None, options: dict[str, Any]
) -> "tuple[Sequence[Named], tuple[int, ...]]":
    """The methods that are asked for, and the seeds that go with them unless others are given."""
    from rrr_edge.study.methods import read_methods
    from rrr_edge.study.presets import read_preset

    if preset is not None:
        if words is not None:
            raise UsageError("--preset names its methods itself.", advice="Leave --methods or --preset out.")
        found = read_preset(preset, options)
        return found.methods, found.seeds
    listed = [word.strip() for word in (words or _METHODS).split(",") if word.strip()]
    if not listed:
        raise UsageError("A study needs a method.", advice="Give some: --methods rrr,finetune")
    return read_methods(listed, options), (0, 1, 2)


def _plan(data: list[Path], named: "Sequence[Named]", **settings: Any) -> "Plan":
    from rrr_edge.study.plan import Method, Plan, find_data, with_weights

    if not data:
        raise UsageError("A study needs data sets.", advice="Give folders of photos, one for each.")
    names = [each.name for each in named]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"The method {name} is there more than once.", advice="Leave one of them out.")
    methods = tuple(Method(name=each.name, recipes=each.recipes) for each in named)
    return with_weights(Plan(data=find_data(data), methods=methods, **settings))


def _seeds(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    known = all(word.isdecimal() and len(word) < 19 for word in words)
    if not known or len(set(map(int, words))) < len(words):
        raise UsageError(f"--seeds takes different whole numbers of up to 18 digits such as 0,1,2, not {text[:80]!r}.")
    return tuple(map(int, words))


def _limits(max_drop: float | None) -> "Limits":
    from rrr_edge.bundle.limits import Limits

    limits = Limits(max_drop=max_drop)
    limits.require_sense()
    return limits


def _target(name: str | None, precision: str | None, display: Display) -> Any:
    if name is None:
        if precision:
            raise UsageError("--precision is about engines, and none is asked for.", advice="Add --target openvino")
        return None
    return chosen_target(name, precision, display)


def _runner(workers: int, address: str | None, display: Display) -> "Runner":
    from rrr_edge.study.cluster import LOCAL, Ray, import_ray
    from rrr_edge.study.runners import Processes, core_shares

    if address is None:
        core_shares(workers)
        return Processes(workers)
    if workers:
        raise UsageError("--workers is about processes of this machine.", advice="Leave --workers or --ray out.")
    import_ray(local=address == LOCAL)
    if address != LOCAL:
        display.say(
            "note: Ray's usage statistics are off here; a cluster that was started without RAY_USAGE_STATS_ENABLED=0 "
            "reports by itself, at least once that they are off"
        )
    return Ray(address)


def _require_libraries(plan: "Plan", *, here: bool) -> None:
    """Raise what would end every cell, or the report, before anything is begun; PyTorch is not imported.

    That is MissingLibrary, and where cells are made `here` CannotRunHere of the target.
    """
    from importlib.util import find_spec

    from rrr_edge.backends import backend_of

    extras = {"torch": "compress", "torchvision": "compress", "onnx": "compress", "scipy": "study"}
    for name, extra in extras.items():
        if find_spec(name) is None:
            raise MissingLibrary(name, extra=extra, purpose="rrr-edge study")
    if plan.target and here:
        backend_of(plan.target).check(plan.target)


def _words(plan: "Plan", missing: int) -> str:
    count = len(plan.cells)
    return (
        f"{counted(len(plan.data), 'data set')} x {counted(len(plan.methods), 'method')} x "
        f"{counted(len(plan.seeds), 'seed')}: {counted(count, 'cell')}, {missing:,} to do"
    )


def _tell(found: "Outcome", study: "StudyFolder", display: Display) -> None:
    """What failed, each reason once, how far the study is, and what it says so far."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for failure in found.failures:
        reasons.setdefault((failure.error, failure.advice, failure.trace), []).append(failure.work.words)
    for (error, advice, trace), works in reasons.items():
        others = f" and {len(works) - 1} more" if len(works) > 1 else ""
        display.warn(f"{works[0]}{others}: {error}{f' {advice}' if advice else ''}")
        for line in trace.splitlines():
            display.say(f"    {line}")
    failures = [failure.document() for failure in found.failures]
    document = {"study": str(study.path), "finished": found.finished, "left": found.left, "failures": failures}
    if found.left:
        display.say(f"note: {counted(found.left, 'cell')} left: run it again to go on")
    if found.finished:
        _report(study, display, document)
    else:
        display.result(document, f"{study.path}: no cell is finished")


def _report(study: "StudyFolder", display: Display, document: dict[str, Any]) -> None:
    from rrr_edge.study.document import results_document
    from rrr_edge.study.page import write_study_report
    from rrr_edge.study.tables import summary
    from rrr_edge.study.verdict import verdict

    page, results = write_study_report(study)
    caption, header, rows = summary(results)
    display.table(caption, [dict(zip(header, row, strict=True)) for row in rows])
    said = verdict(results)
    found = results_document(results)
    display.result({**document, "verdict": said, "results": found, "report": str(page)}, f"{said}\n{page}")
