"""The drawn tasks as data sets for `rrr-edge study`, and a backbone for each that learned other ones.

    python examples/study/tasks.py write tasks [--resnet18]      tasks/data/TASK/{train,test}/CLASS/*.png, kept-back
                                                                 likewise, and backbones/TASK.safetensors
    python examples/study/tasks.py draw letters -o letters.png   what a task looks like

`write` takes about an hour on two cores, and goes on where it was stopped. tasks/data holds letters, textures, digits
and shapes, tasks/kept-back greek letters, signs and curves.
"""

import argparse
from pathlib import Path

from backbones import Pictures, pretrain
from domains import ALL, DOMAINS, KEPT_BACK, Split, contact_sheet, draw_examples
from PIL import Image

from rrr_edge.bundle.files import staged_folder, write_file
from rrr_edge.timing.progress import OnProgress, Step, silent

COUNTS: dict[Split, int] = {"train": 20, "test": 40}
# Whose backbone a kept-back task begins with: one without letters before other glyphs, without outlines before curves.
BACKBONES = {"greek": "letters", "signs": "letters", "curves": "shapes"}


def write_tasks(out: Path, pictures: Pictures, *, resnet18: bool = False, on_progress: OnProgress = silent) -> None:
    """What is there already stays; a backbone's training goes on where it was interrupted."""
    for folder, domains in (("data", DOMAINS), ("kept-back", KEPT_BACK)):
        for domain in domains:
            write_pictures(out / folder / domain, domain)
    for prefix in ("", "resnet18-") if resnet18 else ("",):
        for domain in ALL:
            backbone = out / "backbones" / f"{prefix}{domain}.safetensors"
            if not backbone.exists():
                on_progress(Step("backbone", 0, 1, f"{prefix}{domain}"))
                learned = pretrain(
                    BACKBONES.get(domain, domain),
                    pictures,
                    cache=out / "learning",
                    resnet18=bool(prefix),
                    on_progress=on_progress,
                )
                write_file(backbone, learned.read_bytes())


def write_pictures(folder: Path, domain: str) -> None:
    """train/CLASS/*.png and test/CLASS/*.png, unless the folder is there."""
    if folder.exists():
        return
    with staged_folder(folder) as stage:
        for split, per_class in COUNTS.items():
            examples = draw_examples(domain, split, per_class)
            names = ALL[domain].classes
            for number, (image, label) in enumerate(zip(examples.images, examples.labels, strict=True)):
                file = stage / split / names[label] / f"{number % per_class:03}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write")
    write.add_argument("out", type=Path)
    write.add_argument("--resnet18", action="store_true", help="a ResNet18 for each task, too")
    draw = commands.add_parser("draw")
    draw.add_argument("domain", choices=tuple(ALL))
    draw.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "draw":
        contact_sheet(options.domain).save(options.out)
        return

    def tell(step: Step) -> None:
        print(step.stage, step.done, step.total, step.note)

    write_tasks(options.out, Pictures(), resnet18=options.resnet18, on_progress=tell)


if __name__ == "__main__":
    main()
