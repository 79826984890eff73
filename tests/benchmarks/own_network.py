"""A ResNet152 with a classifier of 20 classes beside a bundle: `python tests/benchmarks/own_network.py`.

Drawn photos of 20 classes, random features with a fitted classifier. Its accuracy in evaluate, profile, report and gate
must be that of torchvision's own evaluation. Takes some minutes and 1 GB of disk.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet152
from torchvision.transforms.v2 import functional as vision

from rrr_edge.bundle.folder import Bundle

CLASSES, SIZE = 20, 32
NAMES = [f"class{i:02}" for i in range(CLASSES)]


def write_photos(folder: Path) -> None:
    """Noisy squares, of which the class tells the place and the colour."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 6)):
        for index, name in enumerate(NAMES):
            (folder / split / name).mkdir(parents=True)
            for photo in range(count):
                pixels = rng.integers(0, 140, (SIZE, SIZE, 3))
                y, x = 4 + 6 * (index % 4), 4 + 5 * (index // 4)
                pixels[y : y + 6, x : x + 6] += np.array([90 * (index % 2), 50, 110 * (index % 3 == 0)])
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / split / name / f"{photo}.png")


def pixels_of(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    files = [(file, label) for label, name in enumerate(NAMES) for file in sorted((folder / name).iterdir())]
    images = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file, _ in files])).permute(0, 3, 1, 2) / 255
    normalised = vision.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return normalised, torch.tensor([label for _, label in files])


def make_own(photos: Path, out: Path) -> nn.Module:
    torch.manual_seed(0)
    network = resnet152(num_classes=CLASSES)
    head, network.fc = network.fc, nn.Identity()
    images, labels = pixels_of(photos / "train")
    with torch.no_grad():
        network.train()(images)
        features = network.eval()(images)
        ones = torch.cat([features, torch.ones(len(features), 1)], 1)
        solved = torch.linalg.lstsq(ones, torch.eye(CLASSES)[labels], driver="gelsd").solution
        head.weight.copy_(solved[:-1].T)
        head.bias.copy_(solved[-1])
    network.fc = head
    torch.save(network.state_dict(), out)
    return network


def rrr_edge(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rrr_edge", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    print(" ".join(("rrr-edge", *words)))
    return done.stdout


def main() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos")
        network = make_own(folder / "photos", folder / "own.pth")
        (folder / "labels.txt").write_text("\n".join(NAMES))
        images, labels = pixels_of(folder / "photos" / "test")
        with torch.no_grad():
            expected = float((network(images).argmax(1) == labels).float().mean())
        print(f"torchvision: {expected:.4f}")
        own = ("--weights", "own.pth", "--labels", "labels.txt", "--image-size", str(SIZE), "--epochs", "2")
        rrr_edge(folder, "compress", "photos", "-o", "x.rrr", *own, "--branches", "2", "--json")
        target = ("--target", "openvino", "--precision", "fp32")
        rrr_edge(folder, "compile", "x.rrr", *target)
        found = {"evaluate": json.loads(rrr_edge(folder, "evaluate", "x.rrr", *target, "--json"))["reference"]}
        profile = rrr_edge(folder, "profile", "x.rrr", *target, "--runs", "20", "--no-anatomy", "--json")
        found["profile"] = json.loads(profile)["reference"]
        engine = "x.rrr:fp32"
        gate = (
            "gate",
            "--baseline",
            engine,
            "--candidate",
            engine,
            "--target",
            "openvino",
            "--budget-s",
            "0",
            "--json",
        )
        found["gate"] = json.loads(rrr_edge(folder, *gate, code=3))["drop"]["reference"]
        rrr_edge(folder, "report", "x.rrr", "-o", "report.html")
        said = f">{expected:.1%}</td>"
        assert (folder / "report.html").read_text().count(said) >= 2, "the report has another accuracy"
        for place, reference in found.items():
            print(f"{place}: {reference['accuracy']:.4f}, engine's {reference['paired']}")
            assert abs(reference["accuracy"] - expected) < 1e-6, place
        assert Bundle.open(folder / "x.rrr").reference_network.is_file()
    print("The accuracy is torchvision's in all four places.")


if __name__ == "__main__":
    main()
