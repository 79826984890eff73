"""The study in examples/: its pictures, its bookkeeping and its statistics; its trainings only as small as they get."""

import math
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.tailored import whole_network
from rrr_edge.compress.nettailor.teacher import begin
from rrr_edge.compress.weights import load_weights
from rrr_edge.errors import BadInput
from rrr_edge.images.layouts import find_layout
from rrr_edge.study.methods import read_methods

STUDY = Path(__file__).parents[2] / "examples" / "study"
sys.path.insert(0, str(STUDY))

import domains  # noqa: E402
import evidence  # noqa: E402
import runs  # noqa: E402
import study  # noqa: E402
import tasks  # noqa: E402

CLASSES = {"letters": 20, "textures": 20, "digits": 10, "shapes": 20}


@pytest.mark.parametrize("domain", CLASSES)
def test_pictures_are_the_same_every_time_and_all_different(domain: str) -> None:
    few, more = (domains.draw_examples(domain, "train", count, size=32) for count in (1, 2))
    assert more.images.shape == (2 * CLASSES[domain], 32, 32, 3)
    assert np.bincount(more.labels).tolist() == [2] * CLASSES[domain]
    assert len(set(domains.DOMAINS[domain].classes)) == CLASSES[domain]
    assert np.array_equal(few.images, more.images[::2])
    test = domains.draw_examples(domain, "test", 2, size=32)
    assert len({image.tobytes() for image in (*more.images, *test.images)}) == 4 * CLASSES[domain]


def test_a_process_of_its_own_draws_the_same(tmp_path: Path) -> None:
    code = "import domains; print(domains.draw_examples('letters', 'test', 1, size=32).sha256)"
    done = subprocess.run([sys.executable, "-c", code], cwd=STUDY, env=_environment(), capture_output=True, text=True)
    assert done.stdout.strip() == domains.draw_examples("letters", "test", 1, size=32).sha256, done.stderr


def test_every_letter_is_in_every_font_and_no_family_is_on_both_sides() -> None:
    train, test = domains.FONTS["train"], domains.FONTS["test"]
    assert not {name.split("-")[0] for name in train} & {name.split("-")[0] for name in test}
    for name in (*train, *test):
        drawn = {bytes(domains._font(name, 40).getmask(letter)) for letter in domains.LETTERS}
        assert len(drawn) == len(domains.LETTERS), name


def test_no_writing_is_on_both_sides() -> None:
    for label in range(10):
        train, test = domains._writings(label, "train"), domains._writings(label, "test")
        assert min(len(train), len(test)) >= 80
        assert not {w.tobytes() for w in train} & {w.tobytes() for w in test}


def test_a_size_is_the_full_picture_averaged() -> None:
    full, half = (domains.draw_examples("shapes", "train", 1, size=size).images for size in (128, 64))
    averaged = full.reshape(20, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(half - averaged).max() <= 1


def test_the_interval_is_that_of_scipy() -> None:
    values = [0.31, 0.28, 0.35, 0.30]
    low, high = stats.t.interval(0.95, 3, np.mean(values), np.std(values, ddof=1) / math.sqrt(4))
    mean, half_width, n = evidence.estimate(values)
    assert (mean - half_width, mean + half_width, n) == (pytest.approx(low), pytest.approx(high), 4)
    assert math.isnan(evidence.estimate([0.3]).half_width)


@pytest.mark.parametrize(
    "differences",
    [[-3, 1, -2, -5, 4], [-1, -1, 1, -2, 2, -3], [0, -1, -2, 3], [-1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11, -12]],
    ids=["distinct", "ties", "a zero", "all better"],
)
def test_p_counts_all_signs(differences: list[int]) -> None:
    worse = np.full(len(differences), 0.5)
    verdict = evidence.judge(worse + np.array(differences) / 800, worse)
    nonzero = np.array([d for d in differences if d])
    ranks = stats.rankdata(np.abs(nonzero))
    observed = ranks[nonzero > 0].sum()
    sums = [ranks[np.array(signs)].sum() for signs in product([False, True], repeat=len(nonzero))]
    assert verdict.p == pytest.approx(np.mean(np.array(sums) <= observed))
    assert (verdict.wins, verdict.ties) == (sum(d < 0 for d in differences), differences.count(0))


def test_forty_wins_and_no_difference() -> None:
    worse = np.linspace(0.3, 0.5, 40)
    assert evidence.judge(worse - np.arange(1, 41) / 1000, worse).p == pytest.approx(2.0**-40, rel=1e-6)
    assert evidence.judge(worse, worse).p == 1.0


def test_only_places_with_both_conditions_are_paired() -> None:
    results = [_result(0, "letters", "coherent", 0.2), _result(0, "letters", "paper", 0.3)]
    results += [_result(1, "letters", "paper", 0.4), _result(0, "shapes", "coherent", 0.1)]
    better, worse = evidence.pairs(results, "coherent", "paper")
    assert (better.tolist(), worse.tolist()) == ([0.2], [0.3])


def test_over_domains_a_domain_counts_once() -> None:
    results = [_result(seed, "letters", "coherent", 0.2) for seed in range(3)] + [_result(0, "shapes", "coherent", 0.2)]
    results += [_result(seed, "letters", "paper", 0.3) for seed in range(3)] + [_result(0, "shapes", "paper", 0.5)]
    found = evidence.over_domains(results, "coherent", "paper")
    assert found.n == 2
    assert found.mean == pytest.approx(-0.2)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 1) * 0.1)


def test_the_results_that_are_published_make_the_table_that_is() -> None:
    published = study.RESULTS.parent / "table.md"
    assert evidence.write_report(runs.Results(study.RESULTS).read()) == published.read_text("utf-8")


def test_seeds_come_first() -> None:
    first_round = runs.places([0, 1], ["letters", "digits"], ["paper", "random"])[:4]
    assert {place.seed for place in first_round} == {0}
    assert {(place.domain, place.condition) for place in first_round} == set(
        product(["letters", "digits"], ["paper", "random"])
    )


def test_a_line_that_was_not_finished_does_not_count(tmp_path: Path) -> None:
    results = runs.Results(tmp_path / "runs.jsonl")
    first, second = _result(0, "letters", "paper", 0.3), _result(1, "letters", "paper", 0.4)
    results.append(first)
    with results.path.open("a") as file:
        file.write(second.model_dump_json()[:40])
    assert results.read() == [first]
    results.append(second)
    assert results.read() == [first, second]


def test_studies_are_not_mixed(tmp_path: Path) -> None:
    results = runs.Results(tmp_path / "runs.jsonl")
    results.append(_result(0, "letters", "paper", 0.3))
    other = _result(1, "letters", "paper", 0.4).model_copy(update={"settings": runs.Settings(epochs=1)})
    with pytest.raises(BadInput, match="other settings"):
        results.append(other)
    with pytest.raises(BadInput, match="another backbone"):
        results.append(_result(1, "letters", "paper", 0.4).model_copy(update={"backbone_sha256": "1"}))
    with pytest.raises(BadInput, match="different settings"):
        evidence.write_report([*results.read(), other])


def test_the_report_has_every_comparison_and_the_picture_keeps_its_text() -> None:
    results = [
        _result(seed, domain, condition, 0.3 + 0.01 * row + 0.001 * seed)
        for seed in range(3)
        for domain in CLASSES
        for row, condition in enumerate(runs.CONDITIONS)
    ]
    report, picture = evidence.write_report(results), evidence.draw_errors(results)
    for question in (comparison.question for comparison in evidence.COMPARISONS):
        assert question in report
    # Seeds of 0.300, 0.301, 0.302: a half width of 4.303 * 0.001 / sqrt(3).
    assert "| one branch | 30.1 ± 0.2 |" in report
    for word in (*CLASSES, *runs.CONDITIONS):
        assert f">{word}<" in picture
    assert evidence._INK not in picture.replace(f"--ink:{evidence._INK}", "")


def test_the_pace_is_what_was_seen() -> None:
    todo = runs.places([0], ["letters"], ["paper", "coherent", "random"])
    clock = study.Clock(todo, runs.Settings(), known=set())
    whole = clock.left_s
    clock.advance(2 * (whole - clock.left_s + clock.next_s))
    # Twice as slow as thought, with two equal runs left.
    assert clock.left_s == pytest.approx(2 * clock.next_s)
    assert clock.left_s == pytest.approx(4 * study._run_s("letters", runs.Settings()))


def test_a_study_goes_on_where_it_stopped_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, cache = tmp_path / "runs.jsonl", tmp_path / "cache"
    command = ["run", "--quick", "--domains", "digits", "--seeds", "0", "--cache", str(cache), "-o", str(out)]
    assert study.main([*command, "--conditions", "one branch;random"]) == 0
    kept = out.read_text()
    capsys.readouterr()
    assert study.main([*command, "--conditions", "one branch;random;coherent"]) == 0
    assert f"2 runs are in {out}, 1 to do" in capsys.readouterr().out
    assert out.read_text().startswith(kept)
    finished = runs.Results(out).read()
    assert [result.condition for result in finished] == ["one branch", "random", "coherent"]
    assert len({(result.backbone_sha256, result.data_sha256) for result in finished}) == 1
    assert all(result.images == 20 for result in finished)
    assert study.main(["report", "--results", str(out)]) == 0
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "errors.svg").is_file()


def test_no_run_begins_that_would_not_end_in_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs.jsonl"
    assert study.main(["run", "--budget-minutes", "0.1", "--cache", str(tmp_path / "cache"), "-o", str(out)]) == 0
    assert "Stopped before seed 0, letters, one branch" in capsys.readouterr().out
    assert not out.exists()


def test_the_tasks_are_data_sets_with_a_recipe_for_each_method(tmp_path: Path) -> None:
    for split, count in (("train", 2), ("test", 1)):
        tasks._write_pictures(tmp_path / "letters", "letters", split, count, 32)  # type: ignore[arg-type]
    layout, splits = find_layout(tmp_path / "letters")
    assert layout == "splits"
    assert {split: sum(map(len, classes.values())) for split, classes in splits.items()} == {"train": 40, "test": 20}
    recipes = sorted((STUDY / "recipes").glob("*.toml"))
    chain = f"{STUDY / 'recipes' / 'coherent.toml'}+{STUDY / 'recipes' / 'basis.toml'}"
    named = read_methods([*map(str, recipes), chain], {})
    assert len(named) == 10
    assert named[-1].name == "coherent+basis"


def test_a_resnet18_of_the_other_domains_is_what_nettailor_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: object, **__: object) -> runs.Examples:
        return runs.Examples(np.zeros((4, 32, 32, 3), np.uint8), np.array([0, 1, 2, 3]))

    monkeypatch.setattr(runs, "draw_examples", draw)
    learned = runs.pretrain("letters", study.QUICK, cache=tmp_path, resnet18=True)
    trunk, info = load_weights(learned.path, backbone="resnet18")
    assert "holds a ResNet18" in info.found
    assert {name.partition(".")[0] for name in load_file(learned.path).keys() - trunk.keys()} == {"fc"}
    begun = begin(whole_network("resnet18", CLASSES["letters"]), trunk, seed=0).state_dict()
    assert all(torch.equal(begun[name], tensor) for name, tensor in trunk.items())


def test_backbones_are_written_once_and_resnet18s_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def pretrain(target: str, *_: object, resnet18: bool, **__: object) -> runs.Backbone:
        asked.append((target, resnet18))
        (tmp_path / "learned").touch()
        return runs.Backbone(tmp_path / "learned", "", 0.5)

    monkeypatch.setattr(tasks, "pretrain", pretrain)
    monkeypatch.setattr(tasks, "_write_pictures", lambda *_: None)
    tasks.write_tasks(tmp_path, study.QUICK)
    assert asked == [(target, False) for target in domains.DOMAINS]
    tasks.write_tasks(tmp_path, study.QUICK, resnet18=True)
    assert asked[len(CLASSES) :] == [(target, True) for target in domains.DOMAINS]
    names = {f"{prefix}{target}.safetensors" for prefix in ("", "resnet18-") for target in CLASSES}
    assert {file.name for file in (tmp_path / "backbones").iterdir()} == names
    ((_, (recipe,)),) = read_methods([str(STUDY / "recipes" / "nettailor.toml")], {})
    assert Path(recipe.weights.format(data="letters")).name in names


def test_a_mistake_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.main(["run", "--quick", "--domains", "leters", "-o", str(tmp_path / "runs.jsonl")]) == 2
    assert "Did you mean 'letters'?" in capsys.readouterr().err


def test_a_target_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def draw(domain: str, *arguments: object, **options: object) -> runs.Examples:
        drawn.append(domain)
        return runs.Examples(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int64))

    def stop(*arguments: object, **options: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(runs, "draw_examples", draw)
    monkeypatch.setattr(runs, "train", stop)
    monkeypatch.setattr(runs, "minimise", stop)
    for target, resnet18 in product(CLASSES, (False, True)):
        drawn.clear()
        with pytest.raises(InterruptedError):
            runs.pretrain(target, study.QUICK, cache=tmp_path, resnet18=resnet18)
        assert set(drawn) == set(CLASSES) - {target}


def _result(seed: int, domain: str, condition: str, error: float) -> runs.Result:
    return runs.Result(
        seed=seed,
        domain=domain,
        condition=condition,
        settings=runs.Settings(),
        images=800,
        error=error,
        branch_error=error,
        loss=1.0,
        backbone_sha256="0",
        backbone_error=0.2,
        data_sha256="0",
        seconds=1.0,
        precision="32-true",
        environment=Environment.here(threads=1, versions={"torch": "2"}),
    )


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(STUDY.parent.parent), "OMP_NUM_THREADS": "1"}
