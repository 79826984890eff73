"""Do branches help, and how should they be split? A study on four small tasks that it draws by itself.

python examples/study/study.py run --budget-minutes 40      go on where the last run stopped
python examples/study/study.py report                       the tables and the picture, from the results
python examples/study/study.py draw letters -o letters.png  what a domain looks like
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import typer
from domains import DOMAINS, contact_sheet
from evidence import draw_errors, write_report
from runs import CONDITIONS, Place, Results, Settings, places, run_study

from rrr_edge.bundle.files import write_file
from rrr_edge.errors import RRREdgeError, UsageError, choose
from rrr_edge.timing.progress import OnProgress, Step
from rrr_edge.training.branches import STUMP_PASSES

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "runs.jsonl"
CACHE = Path(".study.partial")
QUICK = Settings(
    image_size=32, train_images=2, test_images=2, epochs=1, feature_views=1, backbone_size=32, backbone_images=1,
    backbone_epochs=1,
)  # fmt: skip
PLAIN_LINE_EVERY_S = 10.0

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def run(
    domains: Annotated[str, typer.Option(help="Targets, separated by commas.")] = ",".join(DOMAINS),
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    conditions: Annotated[str, typer.Option(help="Conditions, separated by semicolons.")] = ";".join(CONDITIONS),
    epochs: Annotated[int, typer.Option(min=1)] = Settings().epochs,
    image_size: Annotated[int, typer.Option(min=32)] = Settings().image_size,
    backbone_epochs: Annotated[int, typer.Option(min=1)] = Settings().backbone_epochs,
    budget_minutes: Annotated[float, typer.Option(help="Begin no run that would not end in this time.")] = 1e9,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where results are, and are added.")] = RESULTS,
    cache: Annotated[Path, typer.Option(help="Where backbones are kept.")] = CACHE,
    quick: Annotated[bool, typer.Option(help="Tiny pictures and trainings, to see it run.")] = False,
) -> None:
    """Carry out what is missing, seed by seed; a run that is in the results is not repeated."""
    chosen = {"epochs": epochs, "image_size": image_size, "backbone_epochs": backbone_epochs}
    settings = QUICK if quick else Settings(**chosen)
    wanted = places(
        [_seed(seed) for seed in seeds.split(",")],
        [choose(domain.strip(), DOMAINS, "domain") for domain in domains.split(",")],
        [choose(condition.strip(), CONDITIONS, "condition") for condition in conditions.split(";")],
    )
    results = Results(out)
    finished = results.of(settings)
    done = {result.place for result in finished}
    todo = [place for place in wanted if place not in done]
    clock = Clock(todo, settings, known={place.domain for place in done})
    print(f"{len(done)} runs are in {out}, {len(todo)} to do: {clock.left()}", flush=True)
    since = time.monotonic()
    runs = run_study(todo, settings, results=results, cache=cache, on_progress=tell(since))
    for number, place in enumerate(todo, start=1):
        if time.monotonic() - since + clock.next_s > 60 * budget_minutes:
            print(f"Stopped before {_name(place)}: it would not end within {budget_minutes:g} minutes.")
            return
        result = next(runs)
        clock.advance(time.monotonic() - since)
        print(
            f"[{number}/{len(todo)}] {_name(place)}: error {result.error:.1%}, a branch's {result.branch_error:.1%}; "
            f"{clock.left()}",
            flush=True,
        )


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="The results to judge.")] = RESULTS,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder; where the results are, unless given.")
    ] = None,
) -> None:
    """Write table.md and errors.svg, and print the tables."""
    finished = Results(results).read()
    table, picture = write_report(finished), draw_errors(finished)
    folder = out or results.parent
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "table.md", table)
    write_file(folder / "errors.svg", picture)
    print(table)


@app.command()
def draw(
    domain: Annotated[str, typer.Argument(help=f"One of {', '.join(DOMAINS)}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A picture file.")],
) -> None:
    """Draw a picture of each class: a row of training pictures above one of test pictures."""
    contact_sheet(choose(domain, DOMAINS, "domain")).save(out)


class Clock:
    """How long what is left will take: by the speed of a quiet machine of two cores, and then by what was seen."""

    def __init__(self, todo: Sequence[Place], settings: Settings, *, known: set[str]) -> None:
        known, group = set(known), None
        self._costs_s = []
        for place in todo:
            cost_s = _run_s(place.domain, settings)
            if (place.seed, place.domain) != group:
                cost_s += _stump_s(place.domain, settings)
            if place.domain not in known:
                cost_s += _backbone_s(place.domain, settings)
            known, group = known | {place.domain}, (place.seed, place.domain)
            self._costs_s.append(cost_s)
        self._done = 0
        self._pace = 1.0

    def advance(self, spent_s: float) -> None:
        """One more run has ended; all of them took `spent_s` so far."""
        self._done += 1
        self._pace = spent_s / sum(self._costs_s[: self._done])

    @property
    def next_s(self) -> float:
        return self._pace * self._costs_s[self._done]

    @property
    def left_s(self) -> float:
        return self._pace * sum(self._costs_s[self._done :])

    def left(self) -> str:
        return f"about {self.left_s / 60:.0f} minutes left"


# Pictures of 128x128 a second, two cores of an AMD EPYC (Zen 4), bfloat16: through all branches and back, through the
# stump alone, through the whole in float32; and of 64x64 through a backbone and back.
_LEARNED, _READ, _JUDGED, _PRETRAINED = 170.0, 400.0, 170.0, 330.0


def _run_s(domain: str, settings: Settings) -> float:
    classes = len(DOMAINS[domain].classes)
    learned, read = settings.epochs * settings.train_images, settings.feature_views * settings.train_images
    area = (settings.image_size / 128) ** 2
    return area * classes * (learned / _LEARNED + read / _READ + settings.test_images / _JUDGED)


def _stump_s(domain: str, settings: Settings) -> float:
    pictures = len(DOMAINS[domain].classes) * settings.train_images
    return (settings.image_size / 128) ** 2 * STUMP_PASSES * pictures / _READ


def _backbone_s(target: str, settings: Settings) -> float:
    classes = sum(len(domain.classes) for name, domain in DOMAINS.items() if name != target)
    pictures = classes * settings.backbone_images * settings.backbone_epochs
    return (settings.backbone_size / 64) ** 2 * pictures / _PRETRAINED


def tell(since: float) -> OnProgress:
    """A line when a stage ends, and every ten seconds until then."""
    said = since

    def say(step: Step) -> None:
        nonlocal said
        now = time.monotonic()
        if step.done == step.total or now - said >= PLAIN_LINE_EVERY_S:
            said = now
            print(f"  {now - since:5.0f} s  {step.stage} {step.done} of {step.total}  {step.note}", flush=True)

    return say


def _name(place: Place) -> str:
    return f"seed {place.seed}, {place.domain}, {place.condition}"


def _seed(text: str) -> int:
    if not text.strip().isdecimal():
        raise UsageError(f"{text!r} is no seed.", advice="Give whole numbers, such as --seeds 0,1,2.")
    return int(text)


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    try:
        app(arguments, standalone_mode=False)
    except RRREdgeError as error:
        print(f"{error}\n{error.advice}".rstrip(), file=sys.stderr)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
