"""What a calibrated engine promises, what it keeps, and which doubt is worth something.

    python tests/benchmarks/doubt.py [--tasks digits,letters,shapes] [--seeds 3] [--splits 200] [--out FOLDER]

Three tasks: scikit-learn's digits, and letters and shapes of examples/study, each without its last quarter of classes,
whose pictures are the foreign ones. The backbone has learned the study's textures. For each seed a network of eight
branches and one of one branch are compressed and compiled in FP32 and INT8, and answer pictures that they have not
learned from; the answers are kept in FOLDER, and what is there is not made again. Then, of the INT8 engine:

- how often the promised error is broken, over drawings from all pictures, whose error is then the true one, and over
  random splits, on the rest; the share that is answered, how often nothing is promised, the coverage of conformal sets;
- the expected calibration error before and after, in FP32 and INT8, of the rest of each split;
- the area under the ROC curve of each measure for mistakes and for foreign pictures, with eight branches and with one.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import stats
from sklearn.datasets import load_digits

from rrr_edge.bundle.doubt import MEASURES, tempered
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.evaluation import calibration_error
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import RRR, Training
from rrr_edge.bundle.spec import SMALLEST_DEPTHS, ResNetSpec
from rrr_edge.compile import compile_bundle
from rrr_edge.compress import compress
from rrr_edge.networks import build
from rrr_edge.profile.calibration import best_measure, rank
from rrr_edge.profile.calibration.selective import Judged, Wanted, divide, find_threshold
from rrr_edge.profile.calibration.sets import find_levels
from rrr_edge.profile.calibration.temperature import fit_temperature
from rrr_edge.report.doubt import NAMES
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.runtime.verify import answer
from rrr_edge.timing.progress import silent
from rrr_edge.timing.ranking import auroc
from rrr_edge.training import Examples, Run, train

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))
from domains import CLEAR, DOMAINS, draw_examples

SIZE, EPOCHS, VIEWS = 64, 12, 4
LEARNED, ASKED, FOREIGN = 25, 120, 60
BRANCHES = (8, 1)
PRECISIONS = ("fp32", "int8")
COVERAGE = 0.9
CONFIDENCE = 0.95
Floats = np.ndarray


class Answers(NamedTuple):
    """Of one engine: probabilities [N, K] and [N, B, K] with labels [N], and those for foreign pictures."""

    probabilities: Floats
    branches: Floats
    labels: Floats
    foreign: Floats
    foreign_branches: Floats

    @property
    def wrong(self) -> Floats:
        return self.probabilities.argmax(1) != self.labels

    def doubts(self, *, of_foreign: bool = False) -> dict[str, Floats]:
        own = (self.foreign, self.foreign_branches) if of_foreign else (self.probabilities, self.branches)
        return {name: measure(*own) for name, measure in MEASURES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="digits,letters,shapes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("doubt"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for seed in range(options.seeds):
        for task in options.tasks.split(","):
            for branches in BRANCHES:
                for precision, answers in answered(options.out, task, seed, branches):
                    found[task, seed, branches, precision] = answers
    tasks, seeds = options.tasks.split(","), range(options.seeds)
    promises(found, tasks, seeds, options.splits)
    calibration_errors(found, tasks, seeds, options.splits)
    areas(found, tasks, seeds)
    here = Environment.here(threads=1, versions={"torch": torch.__version__, "numpy": np.__version__})
    print(f"\n{here.cpu}, {here.cores} cores, {here.os}, {here.versions}")


def answered(out: Path, task: str, seed: int, branches: int) -> Iterator[tuple[str, Answers]]:
    """The answers of the engines of one network, made where they are not in `out` yet."""
    files = {precision: out / f"{task}-{seed}-{branches}-{precision}.npz" for precision in PRECISIONS}
    if not all(file.is_file() for file in files.values()):
        pool, foreign = pictures(task)
        folder = out / f"{task}-{seed}-{branches}.rrr"
        if not folder.is_dir():
            recipe = RRR(
                weights=str(backbone(out)),
                image_size=SIZE,
                branches=branches,
                seed=seed,
                training=Training(epochs=EPOCHS, feature_views=VIEWS),
            )
            compress(photos(out, task), folder, recipe=recipe)
        bundle = Bundle.open(folder)
        for precision, file in files.items():
            compile_bundle(bundle, "openvino", precision=precision)
            with Classifier.open(folder, precision=precision) as classifier:
                own, others = (answer(classifier.session, images, silent) for images in (pool.images, foreign))
            np.savez(file, **Answers(*own, pool.labels, *others)._asdict())
        print(f"{task}, seed {seed}, {branches} branches: done", file=sys.stderr, flush=True)
    for precision, file in files.items():
        with np.load(file) as arrays:
            yield precision, Answers(**arrays)


def classes_of(task: str) -> int:
    """The classes that are learned: the others' pictures are foreign."""
    return 3 * len(DOMAINS[task].classes) // 4


def pictures(task: str) -> tuple[Examples, Floats]:
    """Labelled pictures that no network learned from, and foreign ones."""
    known = classes_of(task)
    if task == "digits":
        every, rest = _digits(), slice(LEARNED + 5, None)
        own = [every[label][rest] for label in range(known)]
        labels = np.repeat(np.arange(known), [len(images) for images in own])
        return Examples(np.concatenate(own), labels), np.concatenate([every[k][:FOREIGN] for k in range(known, 10)])
    drawn = draw_examples(task, "test", ASKED, size=SIZE)
    mine, first = drawn.labels < known, np.arange(len(drawn.labels)) % ASKED < FOREIGN
    return Examples(drawn.images[mine], drawn.labels[mine]), drawn.images[~mine & first]


def _digits() -> list[Floats]:
    """Of each class, in an order drawn once: uint8 [N, SIZE, SIZE, 3]."""
    bunch, order = load_digits(), np.random.default_rng(0).permutation(1797)
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    resized = (Image.fromarray(pixels[i]).resize((SIZE, SIZE), Image.Resampling.BILINEAR) for i in order)
    images = np.stack([np.asarray(image.convert("RGB")) for image in resized])
    return [images[bunch.target[order] == label] for label in range(10)]


def photos(out: Path, task: str) -> Path:
    """train/ and, of a few pictures, test/ as files."""
    folder = out / f"{task}-photos"
    if folder.is_dir():
        return folder
    known = classes_of(task)
    drawn = None if task == "digits" else draw_examples(task, "train", LEARNED + 5, size=SIZE)
    every = _digits() if drawn is None else [drawn.images[drawn.labels == label] for label in range(known)]
    for label in range(known):
        for number, image in enumerate(every[label][: LEARNED + 5]):
            place = folder / ("train" if number < LEARNED else "test") / f"{label:02}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number}.png")
    return folder


def backbone(out: Path) -> Path:
    """The weights of a ResNet_1_1_1_1 that has learned clear textures."""
    path = out / "textures.safetensors"
    if not path.is_file():
        examples = draw_examples("textures", "train", 120, size=SIZE, spoiling=CLEAR)
        torch.manual_seed(0)
        network = build(ResNetSpec(depths=SMALLEST_DEPTHS, num_classes=20))
        training = Training(epochs=6, batch_size=64, shared_batches=True)
        preprocess = Preprocess(image_size=SIZE)
        trained = train(network, examples, training=training, preprocess=preprocess, run=Run(device="cpu"))
        print(f"backbone: {trained.history[-1].train_accuracy:.1%} right", file=sys.stderr, flush=True)
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return path


def promises(found: dict, tasks: list[str], seeds: range, splits: int) -> None:
    """A row a task and seed: a third of the pictures, but at least 450, calibrate.

    The rest of a split is a sample itself: its error is above the promised one at times when the true one is not. So
    pictures are also drawn with replacement, from all of them, whose error is then the true one.
    """
    print("\n| task | seed | error | promised | broken, drawn | exact 95% | broken, split | exact 95% | ", end="")
    print("refused | answered | sets hold |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for task in tasks:
        for seed in seeds:
            answers = found[task, seed, BRANCHES[0], "int8"]
            doubts, count = answers.doubts(), len(answers.labels)
            wanted = Wanted(max(0.02, round(float(answers.wrong.mean()) / 2, 2)), CONFIDENCE)
            rng, every, drawn, split, held = np.random.default_rng(1), np.arange(count), [], [], []
            for calibrate, rest in divisions(count, splits):
                split.append(kept(answers, doubts, calibrate, rest, wanted))
                drawn.append(kept(answers, doubts, rng.choice(count, len(calibrate)), every, wanted))
                levels = find_levels(answers.probabilities[calibrate], answers.labels[calibrate], COVERAGE).levels
                own = answers.labels[rest]
                held.append((answers.probabilities[rest, own] >= np.array(levels)[own]).mean())
            shares = np.array([share for share, _ in split])
            broken = [
                f"{sum(e > wanted.max_error for _, e in each)} of {splits} | {exact(each, wanted)}"
                for each in (drawn, split)
            ]
            answered = f"{shares[shares > 0].mean():.1%}" if shares.any() else ""
            print(
                f"| {task} | {seed} | {answers.wrong.mean():.1%} | {wanted.max_error:.0%} | {' | '.join(broken)} | "
                f"{(shares == 0).sum()} | {answered} | {np.mean(held):.1%} |",
                flush=True,
            )


def exact(kept: list[tuple[float, float]], wanted: Wanted) -> str:
    """The binomial's own interval of the share of broken promises."""
    broken = sum(error > wanted.max_error for _, error in kept)
    low, high = stats.binomtest(broken, len(kept)).proportion_ci(method="exact")
    return f"{low:.1%} to {high:.1%}"


def divisions(count: int, splits: int) -> Iterator[tuple[Floats, Floats]]:
    rng = np.random.default_rng(0)
    for _ in range(splits):
        order = rng.permutation(count)
        some = max(450, count // 3)
        yield order[:some], order[some:]


def kept(
    answers: Answers, doubts: dict[str, Floats], calibrate: Floats, judge: Floats, wanted: Wanted
) -> tuple[float, float]:
    """The share of the pictures in `judge` that is answered by a calibration, and how much of that is wrong."""
    wrong = answers.wrong
    planning, testing = (calibrate[rows] for rows in divide(len(calibrate)))
    measure = best_measure(rank(doubts, wrong, planning))
    parts = [Judged(doubts[measure][rows], wrong[rows]) for rows in (planning, testing)]
    found = find_threshold(*parts, wanted)
    if found is None:
        return 0.0, 0.0
    given = doubts[measure][judge] <= found.threshold
    return float(given.mean()), float(wrong[judge][given].mean()) if given.any() else 0.0


def calibration_errors(found: dict, tasks: list[str], seeds: range, splits: int) -> None:
    print("\n| task | branches | precision | error | calibration error before | after | temperature |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for task in tasks:
        for branches in BRANCHES:
            for precision in PRECISIONS:
                rows = []
                for seed in seeds:
                    answers = found[task, seed, branches, precision]
                    right = ~answers.wrong
                    for calibrate, rest in divisions(len(right), max(1, splits // 20)):
                        temperature = fit_temperature(answers.probabilities[calibrate], answers.labels[calibrate])
                        after = tempered(answers.probabilities[rest], temperature).max(1)
                        before = calibration_error(answers.probabilities[rest].max(1), right[rest])
                        rows.append((before, calibration_error(after, right[rest]), temperature))
                before, after, temperature = np.mean(rows, 0)
                wrong = np.mean([found[task, seed, branches, precision].wrong.mean() for seed in seeds])
                errors = f"{wrong:.1%} | {before:.3f} | {after:.3f} | {temperature:.2f}"
                print(f"| {task} | {branches} | {precision} | {errors} |")


def areas(found: dict, tasks: list[str], seeds: range) -> None:
    """Means over seeds, and how far the best measure of the branches is ahead of the maximum probability."""
    for title, of_foreign in (("mistakes", False), ("foreign pictures", True)):
        print(f"\n| area for {title} | " + " | ".join(f"{t}, {b}" for t in tasks for b in BRANCHES) + " |")
        print("|---|" + "---:|" * (len(tasks) * len(BRANCHES)))
        table = {
            (task, seed, branches): areas_of(found[task, seed, branches, "int8"], of_foreign=of_foreign)
            for task in tasks
            for seed in seeds
            for branches in BRANCHES
        }
        for name in MEASURES:
            cells = []
            for task in tasks:
                for branches in BRANCHES:
                    values = [table[task, seed, branches][name] for seed in seeds]
                    cells.append(f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
            print(f"| {NAMES[name]} | " + " | ".join(cells) + " |")
        places = [(task, seed) for task in tasks for seed in seeds]
        eight, one = BRANCHES
        for name in ("mutual_information", "variation_ratio", "disagreement"):
            told(
                [table[*at, eight][name] - table[*at, eight]["max_probability"] for at in places],
                f"{NAMES[name]} - maximum probability, both of eight branches",
            )
        told(
            [table[*at, eight]["max_probability"] - table[*at, one]["max_probability"] for at in places],
            "maximum probability, eight branches - one branch",
        )


def told(differences: list[float], what: str) -> None:
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences) if len(differences) > 1 else np.nan
    ahead = sum(difference > 0 for difference in differences)
    print(f"{what}: {np.mean(differences):+.3f} ± {half:.3f} (95%, t), ahead in {ahead} of {len(differences)}")


def areas_of(answers: Answers, *, of_foreign: bool) -> dict[str, float]:
    """Foreign pictures beside rightly answered ones, or mistakes beside them."""
    doubts, right = answers.doubts(), ~answers.wrong
    if of_foreign:
        others = answers.doubts(of_foreign=True)
        positive = np.repeat([False, True], [right.sum(), len(answers.foreign)])
        return {name: auroc(np.append(doubts[name][right], others[name]), positive) for name in MEASURES}
    return {name: auroc(doubts[name], ~right) for name in MEASURES}


if __name__ == "__main__":
    main()
