"""What the results say: errors with their intervals, paired comparisons with exact tests, a table and a picture."""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from runs import CONDITIONS, Result
from scipy import stats

from rrr_edge.errors import BadInput

Floats = NDArray[np.float64]


class Comparison(NamedTuple):
    """The claim that `better` errs less than `worse`."""

    better: str
    worse: str
    question: str


COMPARISONS = (
    Comparison("paper", "one branch", "Do branches, split as printed, beat one?"),
    Comparison("coherent", "one branch", "Do branches, split coherently, beat one?"),
    Comparison("coherent", "dropout", "Do they beat one with dropout?"),
    Comparison("coherent", "paper", "Is the coherent split better than the printed one?"),
    Comparison("paper", "random", "Is the printed split better than random branches?"),
    Comparison("coherent", "random", "Is the coherent split better than random branches?"),
    Comparison("coherent", "coherent, shared", "Are batches of their own better than shared ones?"),
)


class Estimate(NamedTuple):
    """A mean of `n` values, and half the width of its 95 % t-interval: nan for fewer than two values."""

    mean: float
    half_width: float
    n: int


class Verdict(NamedTuple):
    """`difference` of the errors, better minus worse; `p` of the one-tailed exact Wilcoxon signed-rank test."""

    difference: Estimate
    wins: int
    ties: int
    p: float


def estimate(values: Sequence[float] | Floats) -> Estimate:
    n = len(values)
    if n < 2:
        return Estimate(float(np.mean(values)), math.nan, n)
    return Estimate(float(np.mean(values)), float(stats.t.ppf(0.975, n - 1) * stats.sem(values)), n)


def judge(better: Sequence[float] | Floats, worse: Sequence[float] | Floats) -> Verdict:
    """Compare errors pair by pair. Pairs without a difference say nothing and are left out of the test (Wilcoxon)."""
    differences = np.asarray(better) - np.asarray(worse)
    # Errors are counts over counts: what is equal must not differ by a rounding.
    differences = np.round(differences, 9)
    return Verdict(
        estimate(differences), int((differences < 0).sum()), int((differences == 0).sum()), _wilcoxon(differences)
    )


def _wilcoxon(differences: Floats) -> float:
    """P(rank sum as low or lower | signs are coin tosses), exactly, with ties too; 1 where nothing differs."""
    differing = differences[differences != 0]
    if not len(differing):
        return 1.0
    tied = len(np.unique(np.abs(differing))) < len(differing)
    # For ties scipy's table is wrong, but all 2^n signs can be gone through.
    method = stats.PermutationMethod(n_resamples=np.inf) if tied else "exact"
    return float(stats.wilcoxon(differing, alternative="less", method=method).pvalue)


def over_domains(results: Sequence[Result], better: str, worse: str) -> Estimate:
    """The difference of the errors with the domains' means as its values: what another domain might show."""
    means = []
    for domain in _domains(results):
        first, second = pairs([result for result in results if result.domain == domain], better, worse)
        if len(first):
            means.append(float(np.mean(first - second)))
    return estimate(means)


def pairs(results: Sequence[Result], better: str, worse: str) -> tuple[Floats, Floats]:
    """The errors of both conditions wherever a domain and a seed has both."""
    errors = {result.place: result.error for result in results}
    both = [
        (error, errors[place._replace(condition=worse)])
        for place, error in sorted(errors.items())
        if place.condition == better and place._replace(condition=worse) in errors
    ]
    first, second = np.array(both).reshape(-1, 2).T
    return first, second


def write_report(results: Sequence[Result]) -> str:
    """Both tables in Markdown, and what they were made with. Raises BadInput where there is no result."""
    if not results:
        raise BadInput("There are no results yet.", advice="Run: python examples/study/study.py run")
    if len({result.settings for result in results}) > 1:
        raise BadInput("The results are of different settings and cannot share a table.")
    return "\n\n".join((_error_table(results), _comparison_table(results), _made_with(results))) + "\n"


def _error_table(results: Sequence[Result]) -> str:
    domains = _domains(results)
    by_cell = _errors(results)
    rows = []
    for condition in _conditions(results):
        cells = [by_cell.get((condition, domain), []) for domain in domains]
        means = [np.mean(cell) for cell in cells if cell]
        mean = _percent(float(np.mean(means))) if len(means) == len(domains) else "-"
        alone = _percent(float(np.mean([r.branch_error for r in results if r.condition == condition])))
        rows.append([condition, *(_interval(estimate(cell)) if cell else "-" for cell in cells), mean, alone])
    seeds = len({result.seed for result in results})
    title = f"Test error in %, mean over {seeds} seeds ± half the 95 % t-interval"
    return f"{title}\n\n{_table(['condition', *domains, 'mean', 'a branch alone'], rows)}"


def _comparison_table(results: Sequence[Result]) -> str:
    rows = []
    for better, worse, question in COMPARISONS:
        errors = pairs(results, better, worse)
        if len(errors[0]):
            verdict = judge(*errors)
            lost = verdict.difference.n - verdict.wins - verdict.ties
            score = f"{verdict.wins} : {verdict.ties} : {lost}"
            difference = _interval(verdict.difference, sign="+")
            apart = _interval(over_domains(results, better, worse), sign="+")
            n = str(verdict.difference.n)
            rows.append([question, f"{better} - {worse}", difference, n, apart, score, _p(verdict.p)])
    title = "Difference of errors in points (negative: the first is better), paired by domain and seed"
    head = ["question", "pair", "over pairs", "n", "over domains", "better : equal : worse", "p, one-tailed"]
    return f"{title}\n\n{_table(head, rows)}"


def _made_with(results: Sequence[Result]) -> str:
    settings = results[0].settings
    backbones = {result.domain: result.backbone_error for result in results}
    machines = {_machine(r) for r in results}
    return (
        f"{len(results)} runs of {settings.epochs} epochs on {settings.train_images} training images a class at "
        f"{settings.image_size}x{settings.image_size}, judged on {settings.test_images} a class; "
        f"{sum(result.seconds for result in results) / 60:.0f} minutes without the backbones. Error of the backbones "
        f"on unseen pictures of their own domains: "
        f"{', '.join(f'{_percent(error)} % (for {domain})' for domain, error in backbones.items())}. "
        f"{'; '.join(sorted(machines))}."
    )


def _machine(result: Result) -> str:
    here = result.environment
    threads = f"{here.threads} thread{'s' if here.threads > 1 else ''} a process on {here.cores} cores"
    return f"{here.cpu}, {threads}, Python {here.python}, torch {here.versions['torch']}, {result.precision}"


def draw_errors(results: Sequence[Result]) -> str:
    """The errors as SVG: a panel a domain, a row a condition; circles are seeds, the bar the mean and its interval."""
    import matplotlib
    from matplotlib.figure import Figure

    domains, conditions, errors = _domains(results), _conditions(results), _errors(results)
    look = {"svg.fonttype": "none", "svg.hashsalt": "rrr-edge", "font.size": 10, "font.family": "sans-serif"}
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context({**look, **dict.fromkeys(inks, _INK)}):
        figure = Figure(figsize=(2.3 * len(domains) + 1.4, 0.42 * len(conditions) + 1.2), layout="constrained")
        panels = figure.subplots(1, len(domains), sharey=True, squeeze=False)[0]
        for panel, domain in zip(panels, domains, strict=True):
            for row, condition in enumerate(conditions):
                values = [100 * error for error in errors.get((condition, domain), [])]
                if values:
                    mean, half_width, _ = estimate(values)
                    panel.errorbar(
                        mean, row, xerr=np.nan_to_num(half_width), color=_INK, marker="|", markersize=14, lw=1
                    )
                    panel.plot(values, [row] * len(values), "o", color=_INK, markerfacecolor="none", markersize=5)
            panel.set_title(domain, fontsize=10)
            panel.grid(axis="x", color=_INK, alpha=0.15)
            panel.spines[["top", "right", "left"]].set_visible(False)
            panel.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(conditions)), conditions)
        panels[0].set_ylim(len(conditions) - 0.5, -0.5)
        figure.supxlabel("test error, %", fontsize=10)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Title": "Test error by domain"})
    return _follow_the_reader(text.getvalue())


_INK = "#1f2328"


def _follow_the_reader(svg: str) -> str:
    """Light ink in the reader's dark mode: the picture has one ink, and it becomes a variable."""
    style = f"<style>svg{{--ink:{_INK}}}@media(prefers-color-scheme:dark){{svg{{--ink:#e6edf3}}}}</style>"
    head, defs, rest = svg.replace(_INK, "var(--ink)").partition("<defs>")
    return f"{head}{style}{defs}{rest}"


def _errors(results: Sequence[Result]) -> Mapping[tuple[str, str], list[float]]:
    cells = product(_conditions(results), _domains(results))
    found = {
        (condition, domain): [r.error for r in results if (r.condition, r.domain) == (condition, domain)]
        for condition, domain in cells
    }
    return {cell: errors for cell, errors in found.items() if errors}


def _domains(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.domain for result in results))


def _conditions(results: Sequence[Result]) -> list[str]:
    return [condition for condition in CONDITIONS if any(result.condition == condition for result in results)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(value: Estimate, sign: str = "") -> str:
    width = "" if math.isnan(value.half_width) else f" ± {_percent(value.half_width)}"
    return f"{100 * value.mean:{sign}.1f}{width}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _p(p: float) -> str:
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
