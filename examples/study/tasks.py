"""The four drawn tasks as data sets for `rrr-edge study`, and a backbone for each that learned the other three.

python examples/study/tasks.py tasks      writes tasks/data/TASK/{train,test}/CLASS/*.png and tasks/backbones/TASK.*
"""

import sys
from pathlib import Path

from domains import DOMAINS, Split, draw_examples
from PIL import Image
from runs import Settings, pretrain

from rrr_edge.bundle.files import staged_folder, write_file
from rrr_edge.timing.progress import OnProgress, Step, silent


def write_tasks(out: Path, settings: Settings, on_progress: OnProgress = silent) -> None:
    """What is there already stays; a backbone's training goes on where it was interrupted."""
    for domain in DOMAINS:
        folder = out / "data" / domain
        if not folder.exists():
            with staged_folder(folder) as stage:
                _write_pictures(stage, domain, "train", settings.train_images, settings.image_size)
                _write_pictures(stage, domain, "test", settings.test_images, settings.image_size)
        backbone = out / "backbones" / f"{domain}.safetensors"
        if not backbone.exists():
            on_progress(Step("backbone", 0, 1, f"without {domain}"))
            learned = pretrain(domain, settings, cache=out / "learning", on_progress=on_progress)
            write_file(backbone, learned.path.read_bytes())


def _write_pictures(folder: Path, domain: str, split: Split, per_class: int, size: int) -> None:
    examples = draw_examples(domain, split, per_class, size=size)
    for number, (image, label) in enumerate(zip(examples.images, examples.labels, strict=True)):
        file = folder / split / DOMAINS[domain].classes[label] / f"{number % per_class:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)


if __name__ == "__main__":
    write_tasks(Path(sys.argv[1]), Settings(), lambda step: print(step.stage, step.done, step.total, step.note))
