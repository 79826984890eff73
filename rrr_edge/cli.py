"""The command line: parse, call one function, print, exit. Heavy imports happen inside the commands."""

import functools
import platform
import signal
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rrr_edge import __version__
from rrr_edge.arguments import Command, Commands, demand_alone
from rrr_edge.display import Display
from rrr_edge.errors import BadInput, Interrupted, RRREdgeError, UsageError, choose
from rrr_edge.files import write_file

if TYPE_CHECKING:
    from rrr_edge.dataset import Dataset
    from rrr_edge.target import Target

app = typer.Typer(
    name="rrr-edge",
    help="Compress a ResNet152 for a small task, compile it for the box it must run on, prove what was gained.",
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COLD_STARTS = 10
# So many unreadable files are named.
_NAMED = 20
# What is told of the versions.
_LIBRARIES = ("numpy", "pillow", "torch", "openvino", "nncf", "onnxruntime")
# What to do after an interruption.
_AGAIN = {
    "compress": "Go on with --resume.",
    "demo": "Start it anew with --force.",
    "profile": "Run it again: what was finished of --sparsity is kept.",
}

DataFolder = Annotated[Path, typer.Argument(metavar="DATA", help="Photos: train/CLASS/*, CLASS/*, or Meta-Album.")]
BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle that `rrr-edge compress` wrote.")]
TargetName = Annotated[
    str, typer.Option("--target", "-t", help="A target's name (see `rrr-edge targets`), or its TOML file.")
]
PrecisionName = Annotated[
    str | None, typer.Option("--precision", help="fp32, bf16, fp16 or int8 (default: the target's).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more: versions, settings, causes of errors.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, write nothing.")]


def main() -> None:
    signal.signal(signal.SIGTERM, _terminated)
    app()


def _terminated(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Make `function` a command whose expected errors are printed as sentences and end with their exit code."""

    @functools.wraps(function)
    def run(**options: Any) -> None:
        display = Display(as_json=options["as_json"], quiet=options["quiet"], verbose=options["verbose"])
        display.detail(_particulars(options))
        try:
            function(**options)
        except (KeyboardInterrupt, SystemExit, Interrupted) as stop:
            _fail(display, _interrupted(stop, function.__name__))
        except RRREdgeError as error:
            _fail(display, error)

    return app.command(cls=Command)(run)


def _fail(display: Display, error: RRREdgeError) -> NoReturn:
    display.failure(error)
    raise typer.Exit(error.exit_code)


def _interrupted(stop: BaseException, command: str) -> Interrupted:
    """`stop` is a SystemExit where a signal came while no training was there to finish its step."""
    said = str(stop) if isinstance(stop, Interrupted) else "Interrupted."
    error = Interrupted(said, advice=_AGAIN.get(command, "Run it again."))
    error.exit_code = int(getattr(stop, "exit_code", getattr(stop, "code", error.exit_code)))
    return error


def _particulars(options: dict[str, Any]) -> str:
    """Whose versions decide what happens, and what was asked, from options and environment."""
    versions = {"rrr-edge": __version__, "Python": platform.python_version()}
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    said = ", ".join(f"{name} {number}" for name, number in versions.items())
    said_of = {name: value for name, value in options.items() if name != "context" and value is not None}
    asked = ", ".join(f"{name}={value}" for name, value in said_of.items())
    return f"{said}\n{asked}"


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        print(__version__)
        raise typer.Exit


@_command
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
    from rrr_edge.recipe import read_recipe

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
    workshop = _workshop()
    after_scan = functools.partial(_tell, display)
    run = workshop.Run(device=device, max_bad=max_bad, resume=resume, force=force, after_scan=after_scan)
    if force:
        _warn_of_what_goes(out, display)
    with display.progress() as report:
        if dry_run:
            plan = workshop.plan(data, out, recipe=resolved, run=run, report=report)
        else:
            bundle = workshop.compress(data, out, recipe=resolved, run=run, report=report)
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


@_command
def compile(
    bundle: BundleFolder,
    target: TargetName,
    precision: PrecisionName = None,
    calib_data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Images for int8, instead of the bundle's own.")
    ] = None,
    max_drop: Annotated[float, typer.Option(help="Accuracy (absolute) that the engine may lose.")] = 0.01,
    lowering: Annotated[
        str | None,
        typer.Option(help="grouped, split or dense branches, or auto: the fastest here (default: the target's)."),
    ] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Make and verify the graph that TensorRT builds from; needs no GPU.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Build an engine and prove that it answers like the network."""
    from rrr_edge.backends import backend_of
    from rrr_edge.bundle import Bundle, Engine
    from rrr_edge.compile import compile_bundle, demand_sense, prepare_bundle
    from rrr_edge.target import LOWERINGS
    from rrr_edge.verification import chance, coarse

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    opened, chosen = Bundle.open(bundle), _target(target, precision)
    if lowering:
        chosen = chosen.model_copy(update={"lowering": choose(lowering, (*LOWERINGS, "auto"), "lowering")})
    display.detail(f"target: {chosen.model_dump_json()}")
    demand_sense(opened, chosen, calib_data=calib_data, max_drop=max_drop, prepare_only=prepare_only)
    name = chosen.engine_name
    folder = opened.engine_folder(name)
    replaces = opened.is_prepared(name) if prepare_only else name in opened.engine_names()
    if dry_run:
        opened.check()
        if not prepare_only:
            backend_of(chosen).check(chosen)
        document = {"engine": str(folder), "replaces": replaces, "target": chosen.model_dump()}
        display.result(document, f"would {'replace' if replaces else 'write'} {folder}")
        return
    with display.progress() as report:
        make = prepare_bundle if prepare_only else compile_bundle
        made = make(opened, chosen, calib_data=calib_data, max_drop=max_drop, report=report)
    proof, accuracy = made.verification, opened.manifest.accuracy
    guessing = chance(accuracy, len(opened.manifest.labels)) if accuracy else ""
    for doubt in filter(None, (coarse(proof.images, chosen.precision, max_drop), guessing)):
        display.warn(doubt)
    shares = ", ".join(f"{share:.1%} {name}" for name, share in sorted(made.precision_found.items()))
    for ratio in made.lowering_ratios if isinstance(made, Engine) else ():
        low, high = ratio.interval
        display.say(f"{ratio.of} takes {ratio.value:.3f} of {ratio.to}'s time (95 % interval {low:.3f} to {high:.3f})")
    display.result(
        made.document(),
        f"{folder}{' (replaced)' if replaces else ''}: {'a graph, not yet an engine, ' if prepare_only else ''}"
        f"{made.bytes / 1e6:.1f} MB, MACs: {shares}\n"
        f"verified on {proof.images} images: top-1 agrees on {proof.top1_agreement:.2%}, largest difference "
        f"{proof.max_abs_diff:.2g}, accuracy {proof.accuracy_reference:.2%} -> {proof.accuracy:.2%}",
    )


@_command
def profile(
    context: typer.Context,
    bundle: BundleFolder,
    target: TargetName,
    precision: PrecisionName = None,
    against: Annotated[
        str,
        typer.Option(
            help="Separated by commas: baseline (ResNet152, also in PyTorch where it is), element, channel and block "
            "(ResNet152 pruned by them), or none."
        ),
    ] = "baseline",
    sparsity: Annotated[
        str | None,
        typer.Option(help="Shares of ResNet152's parameters that are pruned, such as 0,0.3,0.6."),
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
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Time an engine here, beside ResNet152, whole or pruned."""
    from rrr_edge.backends import backend_of
    from rrr_edge.bundle import Bundle
    from rrr_edge.comparison import assembled, read_comparison
    from rrr_edge.loads import Loads
    from rrr_edge.measurement import Pace
    from rrr_edge.profile import Extras, profile_bundle
    from rrr_edge.sweep import delete_pruned, prepare_sweep

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    if clean:
        demand_alone(context, "--clean")
    if prepare:
        demand_alone(context, "--prepare", "--against", "--sparsity")
    asked = read_comparison(against, sparsity, prepare=prepare)
    counts = {"batches": _counts("--batches", batches), "streams": _counts("--streams", streams)}
    extras = Extras(anatomy, Loads(fps=pace, cold_starts=_COLD_STARTS * cold_start, **counts))
    opened, chosen = Bundle.open(bundle), _target(target, precision)
    if clean:
        freed = delete_pruned(opened)
        display.result({"freed_bytes": freed}, f"{freed / 1e6:,.0f} MB of pruned networks deleted")
        return
    opened.engine(chosen)
    folder = opened.profile_folder(chosen.engine_name)
    replaced = " (replaced)" if folder.exists() else ""
    if dry_run:
        from rrr_edge.plan import plan_profile

        plan = plan_profile(opened, chosen, asked, pace=Pace(runs=runs), extras=extras)
        display.result(plan.document(), plan.words)
        return
    with (
        display.progress() as report,
        assembled(opened, chosen, asked, display=display, report=report) as versus,
    ):
        if prepare:
            assert versus.sweep
            _, obstacles = prepare_sweep(versus.sweep, opened, backend_of(chosen), chosen, report=report)
        else:
            result = profile_bundle(opened, chosen, against=versus, pace=Pace(runs=runs), extras=extras, report=report)
    if prepare:
        said = "\n".join((*obstacles, f"{bundle} is ready to be profiled"))
        display.result({"ready": True, "notes": obstacles}, said)
        return
    for title, (header, *rows) in result.tables():
        display.table(title or f"{folder}{replaced}", [dict(zip(header, row, strict=True)) for row in rows])
    for note in result.notes:
        display.say(f"note: {note}")
    display.result({**result.document(), "folder": str(folder)})


@_command
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


@_command
def gate(
    baseline: Annotated[str, typer.Option(metavar="BUNDLE[:PRECISION]", help="What is shipped now.")],
    target: TargetName,
    candidate: Annotated[str | None, typer.Option(metavar="BUNDLE[:PRECISION]", help="What would replace it.")] = None,
    precision: PrecisionName = None,
    max_slowdown: Annotated[float, typer.Option(help="The candidate's time over the baseline's, at most.")] = 1.05,
    max_drop: Annotated[
        float | None, typer.Option(help="Accuracy (absolute) that may be lost; 1: do not compare it (default: 0.01).")
    ] = None,
    budget_s: Annotated[float, typer.Option(min=0, help="Seconds to measure at most.")] = 60,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdict for a pull request.")] = None,
    self_test: Annotated[bool, typer.Option("--self-test", help="Compare the baseline with itself.")] = False,
    times: Annotated[int | None, typer.Option(min=1, help="Comparisons of a self-test (default: 20).")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say if a candidate may replace a baseline. The exit code is 0 if so, and 3 if not or undecided."""
    from rrr_edge import gate as gates

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    if self_test == (candidate is not None):
        raise UsageError("A gate takes either a --candidate or --self-test.")
    if self_test and max_drop is not None:
        raise UsageError("--max-drop means nothing with --self-test, which compares times.")
    if times is not None and not self_test:
        raise UsageError("--times means nothing without --self-test.")
    chosen = _target(target, precision)
    limits = gates.Limits(max_slowdown, (1 if self_test else 0.01) if max_drop is None else max_drop, budget_s)
    shipped = gates.Side.parse(baseline)
    other = gates.Side.parse(candidate) if candidate else shipped
    if dry_run:
        threads = gates.demand_comparable(shipped, other, chosen, limits).threads
        against = candidate or "itself"
        document = {"baseline": baseline, "candidate": candidate, "target": chosen.name, "threads": threads}
        display.result(document, f"would time {against} beside {baseline}, on {threads} threads")
        return
    found: gates.Gate | gates.SelfTest
    with display.progress() as report:
        if candidate is None:
            found = gates.self_test(shipped, chosen, limits, times=times or 20, report=report)
        else:
            found = gates.compare(shipped, other, chosen, limits, report)
    if markdown:
        write_file(markdown, found.to_markdown())
    display.result(found.model_dump(mode="json", by_alias=True), "\n".join(found.sentences))
    if not found.passed:
        raise typer.Exit(3)


@_command
def predict(
    bundle: BundleFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Image files, or folders of them.")],
    target: TargetName = "openvino",
    precision: PrecisionName = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Classify images and folders. An unreadable file that was named makes the exit code 5."""
    from rrr_edge.dataset import image_files
    from rrr_edge.runtime import Classifier

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    rows, unreadable = [], []
    chosen = _target(target, precision)
    with Classifier.open(bundle, chosen) as classifier:
        files = [file for path in images for file in (image_files(path) if path.is_dir() else [path])]
        if not files:
            raise UsageError(f"There is no image in {', '.join(map(str, images))}.")
        display.say(f"engine: {chosen.engine_name}")
        for file in files:
            try:
                answer = classifier.predict(file)
            except RRREdgeError as error:
                if len(files) == 1:
                    raise
                unreadable.append({"image": str(file), "error": str(error)})
                continue
            figures = {"probability": round(answer.probability, 6), "uncertainty": round(answer.uncertainty, 6)}
            rows.append({"image": str(file), "label": answer.label, "index": answer.index, **figures})
    display.table("", [{k: f"{v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()} for row in rows])
    for bad in unreadable:
        display.warn(bad["error"])
    display.result({"engine": chosen.engine_name, "predictions": rows, "unreadable": unreadable})
    if not rows or {bad["image"] for bad in unreadable} & set(map(str, images)):
        raise typer.Exit(BadInput.exit_code)


@_command
def targets(as_json: AsJson = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Say what can run here, and what to install for what cannot."""
    from rrr_edge.backends import backend_of
    from rrr_edge.target import PRECISIONS, Target, target_names

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
                asked.check_device()
                backend_of(asked).check(asked)
                able.append(precision)
            except RRREdgeError as error:
                obstacle = obstacle or " ".join(filter(None, (str(error), error.advice)))
        rows.append({"target": name, "here": ", ".join(able) or "no", "otherwise": "" if able else obstacle})
    display.table("", rows)
    display.result(rows)


@_command
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder for photos, bundle and pictures.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 8,
    force: Annotated[bool, typer.Option("--force", help="Replace the demo that is in the folder.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Walk the whole path on the handwritten digits in scikit-learn."""
    _workshop()
    from rrr_edge.demo import run_demo

    run_demo(out, epochs=epochs, force=force, display=Display(as_json=as_json, quiet=quiet, verbose=verbose))


@_command
def doctor(bundle: BundleFolder, as_json: AsJson = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Say what will load here, and how to repair what will not. Nothing is run or changed."""
    from rrr_edge.doctor import examine

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    findings = examine(bundle)
    rows = [{"what": f.what, "verdict": f.verdict, "why": f.why, "repair": f.repair} for f in findings]
    display.table("", rows)
    display.result(rows)
    if worst := max(finding.exit_code for finding in findings):
        raise typer.Exit(worst)


def _target(name: str, precision: str | None) -> "Target":
    from rrr_edge.target import PRECISIONS, Target

    target = Target.load(name)
    return target.model_copy(update={"precision": choose(precision, PRECISIONS, "precision")}) if precision else target


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
    from rrr_edge.bundle import Bundle

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


def _counts(option: str, text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(word) for word in text.split(",") if text)
    except ValueError:
        counts = (0,)
    if min(counts, default=1) < 1 or len(set(counts)) < len(counts):
        raise UsageError(f"{option} takes different whole numbers such as 1,2,4, not {text!r}.")
    return counts


def _depths(text: str | None) -> tuple[int, ...] | str | None:
    if text is None or text == "auto":
        return text
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--depths takes four numbers such as 1,1,1,1, or auto, not {text!r}.") from error


def _workshop() -> Any:
    """`rrr_edge.compress`, or the sentence that says what to install. Raises MissingLibrary."""
    try:
        from rrr_edge import compress as workshop
    except ModuleNotFoundError as error:
        from rrr_edge.errors import MissingLibrary

        raise MissingLibrary(error.name or "torch", extra="compress", purpose="rrr-edge compress") from error
    return workshop
