"""`rrr-edge predict`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import UNSURE, Display
from rrr_edge.cli.options import (
    AsJson,
    BundleFolder,
    PrecisionName,
    Quiet,
    RegionText,
    TargetName,
    Verbose,
    chosen_engine,
)
from rrr_edge.errors import BadInput, RRREdgeError, UsageError, counted, require_local

if TYPE_CHECKING:
    from rrr_edge.bundle.verification import Accuracy


@command
def predict(
    bundle: BundleFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Image files, or folders of them.")],
    target: TargetName = "openvino",
    precision: PrecisionName = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Verify an engine that has not run on such a GPU yet.")
    ] = True,
    roi: RegionText = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Classify images and folders. An unreadable file that was named makes the exit code 5."""
    import numpy as np

    from rrr_edge.bundle.commands import command_line
    from rrr_edge.bundle.evaluation import judge
    from rrr_edge.bundle.folder import Bundle
    from rrr_edge.images.fit import Region
    from rrr_edge.images.names import nfc
    from rrr_edge.runtime.classifier import Classifier

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    for image in images:
        if not os.path.exists(image):
            require_local(image)
    rows, unreadable, judged = [], [], []
    chosen = chosen_engine(Bundle.open(bundle), target, precision, display)
    region = None if roi is None else Region.of(roi)
    with display.progress() as on_progress:
        opened = Classifier.open(bundle, chosen, roi=region, verify=verify, on_progress=on_progress)
    with opened as classifier:
        files = [file for path in images for file in (_files_in(path, display) if path.is_dir() else [path])]
        if not files:
            raise UsageError(f"There is no image in {', '.join(map(str, images))}.")
        display.say(f"engine: {chosen.engine_name}")
        for file in files:
            try:
                answer = classifier.predict(file)
            except RRREdgeError as error:
                if len(files) == 1:
                    raise
                unreadable.append({"image": str(file), "error": str(error)})
                continue
            figures = {"probability": round(answer.probability, 6), "uncertainty": round(answer.uncertainty, 6)}
            row = {"image": str(file), "label": answer.label, "index": answer.index, **figures, **answer.record()}
            rows.append(row)
            if file not in images and (label := nfc(file.parent.name)) in opened.labels:
                judged.append((opened.labels.index(label), answer.probabilities))
    display.table("", [_shown(row, opened.labels) for row in rows])
    for bad in unreadable:
        display.warn(bad["error"])
    document = {"engine": chosen.engine_name, "predictions": rows, "unreadable": unreadable}
    said = ""
    if judged:
        labels, probabilities = zip(*judged, strict=True)
        found = judge(np.stack(probabilities), np.array(labels), opened.labels)
        document["summary"] = found.document()
        classes = [{"class": label, "right": f"{share:.1%}"} for label, share in found.per_class.items()]
        display.table("By class, as the folders are named", classes)
        photos = images[0] if len(images) == 1 else "PHOTOS"
        beside = len(files) - len(judged) - len(unreadable)
        said = _summary(found, beside=beside, again=command_line("evaluate", bundle, photos))
    display.result(document, said)
    if not rows or {bad["image"] for bad in unreadable} & set(map(str, images)):
        raise typer.Exit(BadInput.exit_code)


def _shown(row: dict[str, Any], labels: tuple[str, ...]) -> dict[str, str]:
    """A line for people: a label only where it is the answer."""
    sets = {"one of": ", ".join(labels[index] for index in row["candidates"])} if "candidates" in row else {}
    return {
        "image": row["image"],
        "label": row["label"] if row["answered"] else UNSURE,
        "index": str(row["index"]),
        **{name: f"{row[name]:.3f}" for name in ("probability", "confidence", "uncertainty")},
        **sets,
    }


def _summary(found: "Accuracy", *, beside: int, again: str) -> str:
    """How often the answer is the name of the folder that the photo lies in; `beside` lie in others."""
    low, high = found.interval
    others = f"; {beside} more lie in no folder of a class" if beside else ""
    return (
        f"{found.correct} of {found.images} photos are what their folder is named: {found.accuracy:.1%} (95% interval "
        f"{low:.1%} to {high:.1%}){others}. To leave out those that were trained on: {again}"
    )


def _files_in(folder: Path, display: Display) -> list[Path]:
    """The pictures in `folder`; those that only links in it lead to are left out, which is said."""
    from rrr_edge.images.layouts import image_files, passed_over

    if unknown := passed_over(folder):
        display.warn(unknown)
    found, root = image_files(folder), folder.resolve()
    inside = [file for file in found if file.resolve().is_relative_to(root)]
    if len(inside) < len(found):
        display.warn(f"{counted(len(found) - len(inside), 'picture')} left out, to which links lead out of {folder}")
    return inside
