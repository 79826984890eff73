"""The four drawn tasks as data sets for `rrr-edge study`, and a backbone for each that learned the other three.

python examples/study/tasks.py tasks      writes tasks/data/TASK/{train,test}/CLASS/*.png and
                                          tasks/backbones/TASK.safetensors
       --resnet18                         also tasks/backbones/resnet18-TASK.safetensors, for NetTailor
"""

import argparse
from pathlib import Path

from domains import DOMAINS, Split, draw_examples
from PIL import Image
from runs import Settings, pretrain

from rrr_edge.bundle.files import staged_folder, write_file
from rrr_edge.timing.progress import OnProgress, Step, silent


def write_tasks(out: Path, settings: Settings, *, resnet18: bool = False, on_progress: OnProgress = silent) -> None:
    """What is there already stays; a backbone's training goes on where it was interrupted."""
    for domain in DOMAINS:
        folder = out / "data" / domain
        if not folder.exists():
            with staged_folder(folder) as stage:
                _write_pictures(stage, domain, "train", settings.train_images, settings.image_size)
                _write_pictures(stage, domain, "test", settings.test_images, settings.image_size)
        for prefix in ("", "resnet18-") if resnet18 else ("",):
            backbone = out / "backbones" / f"{prefix}{domain}.safetensors"
            if not backbone.exists():
                on_progress(Step("backbone", 0, 1, f"{prefix}{domain}"))
                cache = out / "learning"
                learned = pretrain(domain, settings, cache=cache, resnet18=bool(prefix), on_progress=on_progress)
                write_file(backbone, learned.path.read_bytes())


def _write_pictures(folder: Path, domain: str, split: Split, per_class: int, size: int) -> None:
    examples = draw_examples(domain, split, per_class, size=size)
    for number, (image, label) in enumerate(zip(examples.images, examples.labels, strict=True)):
        file = folder / split / DOMAINS[domain].classes[label] / f"{number % per_class:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--resnet18", action="store_true", help="a ResNet18 for each task, too")
    options = parser.parse_args()

    def tell(step: Step) -> None:
        print(step.stage, step.done, step.total, step.note)

    write_tasks(options.out, Settings(), resnet18=options.resnet18, on_progress=tell)


if __name__ == "__main__":
    main()
