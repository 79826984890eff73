"""Tailored ResNet18s for the study's drawn tasks: what each task does without, and what that costs it.

    python tests/benchmarks/tailored_tasks.py [--domains digits,letters,shapes,textures] [--seeds 3] [--size 32]
                                              [--epochs 8] [--out FOLDER]

ImageNet's place is taken by a ResNet18 that has learned two of the four domains of examples/study, and is tailored to
the other two: photos of train/ are learned from, those of val/ decide how many blocks go, those of test/ (other fonts,
other writers) do not. Every finished task is a line of FOLDER/results.jsonl, and what is there is not run again. Prints
the table of the tasks, whether each network is within half a point of its teacher on val/, and whether easier tasks
lose more MACs (Morgado and Vasconcelos 2019, figure 4).
"""

import argparse
import csv
import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import NetTailor, TailorTraining
from rrr_edge.bundle.tailored import whole_network
from rrr_edge.compress.method import Inputs
from rrr_edge.compress.nettailor import NETTAILOR
from rrr_edge.compress.nettailor.objective import Tailoring
from rrr_edge.images.dataset import Dataset, scan
from rrr_edge.networks import Tailored, build
from rrr_edge.timing.progress import Step
from rrr_edge.training import Examples, Run, minimise, predict

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))
from domains import CLEAR, DOMAINS, draw_examples

BACKBONE = "resnet18"
# Who learns what another is tailored to.
SOURCES = {"digits": ("letters", "textures"), "shapes": ("letters", "textures")}
SOURCES |= {"letters": ("digits", "shapes"), "textures": ("digits", "shapes")}
TRAIN, VAL, TEST, SOURCE_PHOTOS, SOURCE_EPOCHS = 20, 20, 20, 150, 16
WITHIN = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", default=",".join(SOURCES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=8, help="of the teacher and the student; each tuning has half")
    parser.add_argument("--out", type=Path, default=Path("tailored-tasks"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = options.out / "results.jsonl"
    found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    settings = {"size": options.size, "epochs": options.epochs}
    for seed in range(options.seeds):
        for domain in options.domains.split(","):
            place = {"domain": domain, "seed": seed, **settings}
            if not any(place.items() <= result.items() for result in found):
                found.append(place | tailor(options.out, domain, seed, options.size, options.epochs))
                lines.write_text("".join(f"{json.dumps(result)}\n" for result in found))
                print(json.dumps(found[-1]), flush=True)
    report([result for result in found if settings.items() <= result.items()])


def tailor(out: Path, domain: str, seed: int, size: int, epochs: int) -> dict[str, Any]:
    """One task's tailoring, told in numbers; accuracies are shares, MACs and parameters those of the network left."""
    since = time.perf_counter()
    recipe = NetTailor(
        backbone=BACKBONE,
        weights=str(source_network(out, SOURCES[domain], size)),
        image_size=size,
        seed=seed,
        training=TailorTraining(epochs=epochs, batch_size=32),
        tune_epochs=max(1, epochs // 2),
        within=WITHIN,
    )
    dataset = scan(photos(out, domain, size), Preprocess.of(recipe), seed=seed)
    work = out / f"{domain}-{seed}-{size}-{epochs}"
    run = Run(device="cpu", checkpoints=work, resume=True, on_progress=shown)
    train = Examples(dataset.train.images, dataset.train.labels)
    made = NETTAILOR.make(NETTAILOR.resolve(recipe), Inputs(dataset, train, Preprocess.of(recipe), run))
    assert isinstance(made.network, Tailored)
    teacher = build(whole_network(BACKBONE, len(dataset.labels)))
    teacher.load_state_dict(load_file(work / "teacher" / "weights.safetensors"))
    rows = list(csv.DictReader(io.StringIO(made.files["tailoring.csv"])))
    own, whole = (cost(network.spec, size) for network in (made.network, teacher))
    return {
        "teacher_val": right(teacher, dataset, "val"),
        "val": right(made.network, dataset, "val"),
        "teacher_test": right(teacher, dataset, "test"),
        "test": right(made.network, dataset, "test"),
        "blocks": made.network.spec.blocks,
        "proxies": sum(len(node.proxies) for node in made.network.spec.nodes),
        "macs": own.macs / whole.macs,
        "params": own.params / whole.params,
        "own_params": own.params - own.shared_params,
        "tried": len(rows),
        "seconds": round(time.perf_counter() - since),
    }


def right(network: Tailored, dataset: Dataset, split: str) -> float:
    photos = getattr(dataset, split)
    answers = predict(network, photos.images, preprocess=Preprocess(image_size=photos.images.shape[1]))
    return float(np.mean(answers.probabilities.argmax(1) == photos.labels))


def photos(out: Path, domain: str, size: int) -> Path:
    """train/, val/ and test/ of a domain as files."""
    folder = out / f"{domain}-photos-{size}"
    if folder.is_dir():
        return folder
    drawn = draw_examples(domain, "train", TRAIN + VAL, size=size)
    judged = draw_examples(domain, "test", TEST, size=size)
    for label, name in enumerate(DOMAINS[domain].classes):
        own, test = (each.images[each.labels == label] for each in (drawn, judged))
        for split, images in {"train": own[:TRAIN], "val": own[TRAIN:], "test": test}.items():
            place = folder / split / f"{label:02} {name if name.isalnum() else ''}".strip()
            place.mkdir(parents=True)
            for number, image in enumerate(images):
                Image.fromarray(image).save(place / f"{number}.png")
    return folder


def source_network(out: Path, domains: Sequence[str], size: int) -> Path:
    """The weights of a ResNet18 that has learned clear pictures of `domains`."""
    path = out / f"{'-'.join(domains)}-{size}.safetensors"
    if path.is_file():
        return path
    examples = draw_source(domains, SOURCE_PHOTOS, size)
    torch.manual_seed(0)
    network = build(whole_network(BACKBONE, int(examples.labels.max()) + 1))
    training = TailorTraining(epochs=SOURCE_EPOCHS, batch_size=32, learning_rate=0.05)
    run = Run(device="cpu", checkpoints=path.with_suffix(".checkpoints"), resume=True, on_progress=shown)
    trained = minimise(Tailoring(network), examples, training=training, preprocess=Preprocess(image_size=size), run=run)
    print(f"{path.name}: {trained.history[-1].train_accuracy:.1%} of what it learned, in the last epoch", flush=True)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return path


def draw_source(domains: Sequence[str], per_class: int, size: int) -> Examples:
    """Clear pictures of several domains as one task, the classes of each after those of the one before."""
    parts = [draw_examples(domain, "train", per_class, size=size, spoiling=CLEAR) for domain in domains]
    shifts = np.cumsum([0, *(int(part.labels.max()) + 1 for part in parts)])
    labels = np.concatenate([part.labels + shift for part, shift in zip(parts, shifts, strict=False)])
    return Examples(np.concatenate([part.images for part in parts]), labels)


def shown(step: Step) -> None:
    """A line to stderr now and then."""
    if step.done == step.total or step.done % 20 == 0:
        print(f"{step.stage} {step.done} of {step.total} {step.note}", file=sys.stderr, flush=True)


def report(results: Sequence[dict[str, Any]]) -> None:
    columns = ("teacher_val", "val", "teacher_test", "test", "macs", "params")
    print("\n| task | seed | " + " | ".join(columns) + " | blocks |\n|---|---:|" + "---:|" * (len(columns) + 1))
    for result in sorted(results, key=lambda r: (r["domain"], r["seed"])):
        shares = " | ".join(f"{result[column]:.1%}" for column in columns)
        print(f"| {result['domain']} | {result['seed']} | {shares} | {result['blocks']} of 8 |")
    late = [r for r in results if r["val"] < r["teacher_val"] - WITHIN - 1e-9]
    print(f"\nwithin {WITHIN:.1%} of the teacher on val: {len(results) - len(late)} of {len(results)}")
    means = {
        domain: tuple(np.mean([[r["teacher_val"], r["macs"]] for r in results if r["domain"] == domain], axis=0))
        for domain in {result["domain"] for result in results}
    }
    for domain, (accuracy, macs) in sorted(means.items(), key=lambda item: -item[1][0]):
        print(f"{domain}: teacher right on {accuracy:.1%}, {1 - macs:.1%} of the MACs gone")
    (easy, hard) = max(means, key=lambda d: means[d][0]), min(means, key=lambda d: means[d][0])
    pairs = [
        (a["macs"], b["macs"])
        for a in results
        for b in results
        if (a["domain"], b["domain"]) == (easy, hard) and a["seed"] == b["seed"]
    ]
    held = sum(mine < other for mine, other in pairs)
    print(f"{easy} (easiest) lost more MACs than {hard} (hardest) in {held} of {len(pairs)} seeds")


if __name__ == "__main__":
    main()
