"""Times of a source network pruned by each granularity to several sparsities, beside the unpruned network.

A round is one sparsity in one runtime: there the unpruned network, every granularity and, where it is its own runtime,
the engine take turns. So only a handful of networks are open at a time, and what is finished is kept: an interrupted
profile goes on with the next round.
"""

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from rrr_edge.backends import Backend, Session
from rrr_edge.backends.protocols import Baseline
from rrr_edge.bundle.baseline import Point, obstacle_of, percent
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.files import sha256, write_file, writing_to
from rrr_edge.bundle.folder import ENGINE, Bundle
from rrr_edge.bundle.measurements import Alternative, Granularity, Measurement, Subject, ratio
from rrr_edge.bundle.record import Record, Sealed
from rrr_edge.bundle.target import Target
from rrr_edge.errors import BadInput
from rrr_edge.profile.onnx_baselines import compile_baseline, compiled, running, shuffled_images, targets_beside
from rrr_edge.profile.request import Sweep
from rrr_edge.profile.run import ProfileRun
from rrr_edge.timing.interleave import interleave
from rrr_edge.timing.progress import OnProgress, Step
from rrr_edge.timing.quiet import Loads

_SETTINGS = "settings.json"
# One run at least; those before a network in a round are its own runtime's, which leave little to recover from.
_SETTLE_MS = 10.0
_WARM_UP_LIMIT_MS = 3_000.0


class Swept(NamedTuple):
    """`notes` say what could not be measured, what was measured earlier, and what is doubtful."""

    alternatives: tuple[Alternative, ...]
    notes: tuple[str, ...]


def measure_sweep(sweep: Sweep, run: ProfileRun, engine: Session, environment: Environment) -> Swept:
    """Measure the rounds that are not kept yet, the open `engine` among them; the settling is shorter than elsewhere.

    Raises CannotRunHere where a network's file is missing and there is no workshop, and what compiling and opening
    raise.
    """
    ready, obstacles = prepare_sweep(sweep, run.bundle, run.backend, run.target, on_progress=run.on_progress)
    folder = _claim(run, sweep, environment)
    runtimes = list(sweep.workshop.runtimes) if sweep.workshop else []
    runtimes += [f"{run.target.backend} {beside.precision}" for beside in targets_beside(run.target)]
    rounds = [
        _Round(sparsity, runtime, tuple(point for point in ready if point.sparsity == sparsity))
        for sparsity in sweep.sparsities
        for runtime in runtimes
    ]
    left = [round_ for round_ in rounds if not (folder / round_.file).is_file()]
    for number, round_ in enumerate(left):
        told = _Whole(run.on_progress, number * run.timing.runs, len(left) * run.timing.runs, round_.words)
        timed = _measure(round_, sweep, replace(run, on_progress=told), engine)
        # The folder anew, for the bundle may be gone by now, and is not to be made again.
        write_file(run.bundle.rounds_folder(run.target.engine_name) / round_.file, timed.to_json())
    found = [_Timed.from_json_file(folder / round_.file) for round_ in rounds]
    alternatives = tuple(alternative for timed in found for alternative in timed.alternatives())
    notes = [*obstacles, *_doubts(alternatives, sum(len(timed.unsettled) for timed in found))]
    if len(left) < len(rounds):
        earlier = f"{len(rounds) - len(left)} of the {len(rounds)} rounds with pruned networks"
        notes.append(f"{earlier} were measured by an earlier run that was interrupted.")
    return Swept(alternatives, tuple(notes))


def prepare_sweep(
    sweep: Sweep, bundle: Bundle, backend: Backend, target: Target, *, on_progress: OnProgress
) -> tuple[list[Point], list[str]]:
    """Make and compile what is missing; the pruned networks that there are, and why there are no others.

    At sparsity 0 every granularity is the unpruned network. Raises as `measure_sweep`.
    """
    backbone = bundle.manifest.recipe.backbone
    asked = [Point(granularity, s, backbone) for s in sweep.sparsities if s for granularity in sweep.granularities]
    ready, obstacles = [], []
    for done, point in enumerate((Point(backbone=backbone), *asked)):
        told = _Whole(on_progress, done, len(asked) + 1, point.words, stage="prepare")
        told(Step("prepare", 0, 1))
        model = bundle.alternative(point.stem)
        if sweep.workshop:
            sweep.workshop.write(point)
        if obstacle_of(model).is_file():
            obstacles.append(obstacle_of(model).read_text("utf-8").strip())
            continue
        for beside in targets_beside(target):
            compile_baseline(backend, model, bundle, beside, told)
        ready.append(point)
    on_progress(Step("prepare", len(asked) + 1, len(asked) + 1))
    return ready[1:], obstacles


def forget_rounds(bundle: Bundle, engine_name: str) -> None:
    """Drop what is kept for going on, once a profile has it."""
    shutil.rmtree(bundle.rounds_folder(engine_name), ignore_errors=True)


def delete_pruned(bundle: Bundle) -> int:
    """Delete the pruned networks, their engines, and what interrupted profiles kept; the bytes that were freed."""
    pruned: tuple[Granularity, ...] = ("element", "channel", "block")
    files = [path for name in pruned for path in bundle.alternative(name).parent.glob(f"{name}-*")]
    files += bundle.rounds_folder("any").parent.glob(".*.rounds")
    freed = 0
    for path in files:
        freed += sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return freed


class _Round(NamedTuple):
    sparsity: float
    runtime: str
    points: tuple[Point, ...]

    @property
    def words(self) -> str:
        return f"{percent(self.sparsity)} %, {self.runtime}"

    @property
    def file(self) -> str:
        return f"{percent(self.sparsity)}-{self.runtime.replace(' ', '-')}.json"

    def name(self, who: str) -> str:
        """Of the measurement of the unpruned network ("baseline") or the engine, which other rounds have too."""
        beside = f" beside {percent(self.sparsity)} %" if self.sparsity else ""
        return f"{who}{beside}, {self.runtime}"


class _Candidate(Record):
    name: str
    subject: Subject
    samples_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...] = ()


class _Timed(Sealed):
    """A finished round, the unpruned network first."""

    candidates: tuple[_Candidate, ...]
    unsettled: tuple[str, ...]
    loads: Loads = ()
    background_load: float | None = Field(default=None, validation_alias="elsewhere", serialization_alias="elsewhere")

    def alternatives(self) -> tuple[Alternative, ...]:
        measured = [
            Measurement(**dict(c), loads=self.loads, background_load=self.background_load) for c in self.candidates
        ]
        return tuple(Alternative(measurement=m, ratio=ratio(m, measured[0])) for m in measured)


def _measure(round_: _Round, sweep: Sweep, run: ProfileRun, engine: Session) -> _Timed:
    images = shuffled_images(run.bundle)
    subjects: dict[str, Subject] = {}
    candidates = {}
    with ExitStack() as stack:
        for point in (Point(backbone=run.bundle.manifest.recipe.backbone), *round_.points):
            baseline = _open(point, round_.runtime, sweep, run, stack)
            name = f"{point.words}, {round_.runtime}" if point.sparsity else round_.name("baseline")
            subjects[name], candidates[name] = baseline.subject, running(baseline.session, images)
        if round_.runtime == run.subject.runtime:
            name, whole = round_.name("engine"), next(iter(subjects.values())).params
            sparsity = 1 - run.subject.params / whole if run.subject.params and whole else None
            subjects[name] = run.subject.model_copy(update={"sparsity": sparsity})
            candidates[name] = running(engine, images)
        brief = replace(
            run.timing,
            settle_ms=min(_SETTLE_MS, run.timing.settle_ms),
            warm_up_limit_ms=min(_WARM_UP_LIMIT_MS, run.timing.warm_up_limit_ms),
        )
        found = interleave(candidates, timing=brief, on_progress=run.on_progress)
    return _Timed(
        candidates=tuple(
            _Candidate(name=name, subject=subjects[name], samples_ms=samples, cpu_ms=found.cpu_ms[name])
            for name, samples in found.samples_ms.items()
        ),
        unsettled=found.unsettled,
        loads=found.loads,
        background_load=found.background_load,
    )


def _open(point: Point, runtime: str, sweep: Sweep, run: ProfileRun, stack: ExitStack) -> Baseline:
    """The network of `point` in `runtime`, until the stack is left."""
    if sweep.workshop and runtime in sweep.workshop.runtimes:
        baseline = sweep.workshop.open(point, runtime, threads=run.target.threads)
        stack.callback(baseline.session.close)
        return baseline
    target = next(t for t in targets_beside(run.target) if runtime == f"{t.backend} {t.precision}")
    model = run.bundle.alternative(point.stem)
    return stack.enter_context(compiled(run.backend, model, run.bundle, target, run.on_progress))


class _Settings(Record):
    """Rounds are only added to those of the same engine, machine and granularities."""

    engine_sha256: str
    granularities: tuple[Granularity, ...]
    runs: int
    environment: Environment
    omp_wait_policy: str


def _claim(run: ProfileRun, sweep: Sweep, environment: Environment) -> Path:
    """The folder of finished rounds: that of an interrupted run with the same settings, or a new one."""
    name = run.target.engine_name
    folder = run.bundle.rounds_folder(name)
    settings = _Settings(
        engine_sha256=sha256(run.bundle.engine_folder(name) / ENGINE),
        granularities=tuple(sorted(sweep.granularities)),
        runs=run.timing.runs,
        environment=environment,
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", "unset"),
    )
    try:
        same = _Settings.from_json_file(folder / _SETTINGS) == settings
    except BadInput:
        same = False
    if not same:
        forget_rounds(run.bundle, name)
        with writing_to(folder):
            folder.mkdir(parents=True)
        write_file(folder / _SETTINGS, settings.to_json())
    return folder


@dataclass(frozen=True)
class _Whole:
    """Tells a part's steps as those of the whole: `begun` of `total` were done before it."""

    on_progress: OnProgress
    begun: int
    total: int
    words: str
    stage: str = "sweep"

    def __call__(self, step: Step) -> None:
        done = step.done if step.stage == "measure" else 0
        self.on_progress(Step(self.stage, self.begun + done, self.total, self.words))


def _doubts(alternatives: tuple[Alternative, ...], unsettled: int) -> list[str]:
    unstable = sum(alternative.measurement.summary.unstable for alternative in alternatives)
    if not (unstable or unsettled):
        return []
    return [
        f"Of the {len(alternatives)} times of the comparison by sparsity {unstable} are unstable and {unsettled} were "
        "still drifting when their warm-up ended; ratios suffer less than times, as each round ran in turns."
    ]
