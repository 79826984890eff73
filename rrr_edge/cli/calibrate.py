"""`rrr-edge calibrate`."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, BundleFolder, PrecisionName, Quiet, TargetName, Verbose, chosen_engine
from rrr_edge.errors import CorruptArtifact, GateFailed, UsageError

if TYPE_CHECKING:
    from rrr_edge.bundle.engine import Engine
    from rrr_edge.bundle.folder import Bundle

_CONFIDENCE = 0.95
_TESTED = (
    "These are the bundle's test photos: accuracies that are measured on them have no photos left that took no part in "
    "the calibration."
)

_CHOSEN = (
    "Validation photos chose the blocks or the epoch of this network: if they are among these photos, its answers to "
    "them flatter a little, and so does the promise."
)
_PARTLY = (
    "That none of these photos was trained on was seen for {} of the {} training photos: the bundle holds no more."
)


@command
def calibrate(
    bundle: BundleFolder,
    photos: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PHOTOS]",
            help="Photos in a folder for each class that the training has not seen; of train/, val/ and test/ it is "
            "val/, of what the bundle was made from what was held out to validate.",
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
    from rrr_edge.images.labelled import photos_of, read_labelled, require_unseen, without_copies
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
    before = _promised_before(opened, engine)
    with display.progress() as on_progress:
        if photos is None:
            found = photos_of(opened)
            notes = [_TESTED]
        else:
            found = read_labelled(photos, opened, split="val", on_progress=on_progress)
            require_unseen(found, opened)
            names, recipe = {entry.name for entry in opened.manifest.files}, opened.manifest.recipe
            chose = names & {SELECTION, TAILORING, BASIS} or recipe.training.keep == "best"
            held, learned = len(opened.calibration), opened.manifest.provenance.images["train"]
            notes = [_CHOSEN] if chose else []
            notes += [_PARTLY.format(held, learned)] if held < learned and not found.are_held_out else []
        found = without_copies(replace(found, notes=(*found.notes, *notes)))
        with Classifier.open(bundle, chosen, unsure=False, on_progress=on_progress) as classifier:
            try:
                record = calibrate_engine(
                    opened, engine, classifier.session, found, asked=asked, on_progress=on_progress
                )
            except GateFailed as error:
                raise GateFailed(
                    f"{error}{before and f' What was promised before stays: {before}.'}", advice=error.advice
                ) from error
    if before:
        display.say(f"note: this replaces what was promised before: {before}")
    for caption, header, rows in calibration_tables(record):
        display.table(caption, [dict(zip(header, row, strict=True)) for row in rows])
    for note in record.notes:
        display.say(f"note: {note}")
    display.result(record.document(), record.words)


def _promised_before(bundle: "Bundle", engine: "Engine") -> str:
    """What a calibration that is there promises, or ""."""
    from rrr_edge.bundle.calibration import Calibration

    with suppress(CorruptArtifact):
        found = Calibration.of(bundle, engine)
        return found.promise.words if found and found.promise else ""
    return ""
