"""`rrr-edge calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, BundleFolder, PrecisionName, Quiet, TargetName, Verbose, chosen_engine
from rrr_edge.errors import UsageError

_CONFIDENCE = 0.95
_TESTED = (
    "these are the bundle's test photos: accuracies that are measured on them have no photos left that took no part in "
    "the calibration"
)

_CHOSEN = (
    "validation photos chose the blocks or the epoch of this network: if they are among these photos, its answers to "
    "them flatter a little, and so does the promise"
)


@command
def calibrate(
    bundle: BundleFolder,
    photos: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PHOTOS]",
            help="Photos in a folder for each class that the training has not seen; of train/, val/ and test/ it is "
            "val/.",
        ),
    ] = None,
    target: TargetName = "openvino",
    precision: PrecisionName = None,
    max_error: Annotated[
        float | None, typer.Option(help="Answer only so surely that at most this share of the answers is wrong.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help=f"--max-error: with so much confidence (default: {_CONFIDENCE}).")
    ] = None,
    sets: Annotated[
        float | None,
        typer.Option(metavar="P", help="Sets of labels that hold the right one with this probability, such as 0.95."),
    ] = None,
    test_photos: Annotated[
        bool, typer.Option("--test-photos", help="Take the test photos in the bundle, in place of PHOTOS.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Teach an engine when not to answer, by labelled photos. The exit code is 3 where they cannot promise it."""
    from rrr_edge.bundle.folder import BASIS, SELECTION, TAILORING, Bundle
    from rrr_edge.images.labelled import photos_of, read_labelled, require_unseen
    from rrr_edge.profile.calibration import Asked, calibrate_engine
    from rrr_edge.profile.calibration.selective import Wanted
    from rrr_edge.report.doubt import calibration_tables
    from rrr_edge.runtime.classifier import Classifier

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    if confidence is not None and max_error is None:
        raise UsageError("--confidence means nothing without --max-error.")
    if (photos is None) != test_photos:
        raise UsageError(
            "Which photos? Give a folder of labelled photos that the training has not seen, or --test-photos."
        )
    wanted = None if max_error is None else Wanted(max_error, _CONFIDENCE if confidence is None else confidence)
    asked = Asked(wanted, sets)
    asked.require_shares()
    opened = Bundle.open(bundle)
    chosen = chosen_engine(opened, target, precision, display)
    engine = opened.engine(chosen)
    with display.progress() as on_progress:
        if photos is None:
            display.say(f"note: {_TESTED}")
            found = photos_of(opened)
        else:
            found = read_labelled(photos, opened, split="val", on_progress=on_progress)
            require_unseen(found, opened)
            names, recipe = {entry.name for entry in opened.manifest.files}, opened.manifest.recipe
            if names & {SELECTION, TAILORING, BASIS} or recipe.training.keep == "best":
                display.warn(_CHOSEN)
        with Classifier.open(bundle, chosen, unsure=False, on_progress=on_progress) as classifier:
            record = calibrate_engine(opened, engine, classifier.session, found, asked=asked, on_progress=on_progress)
    for caption, header, rows in calibration_tables(record):
        display.table(caption, [dict(zip(header, row, strict=True)) for row in rows])
    for note in record.notes:
        display.say(f"note: {note}")
    display.result(record.document(), record.words)
