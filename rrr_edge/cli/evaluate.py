"""`rrr-edge evaluate`."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from rrr_edge.cli.app import command
from rrr_edge.cli.display import Display
from rrr_edge.cli.options import AsJson, BundleFolder, PrecisionName, Quiet, Verbose, chosen_engine
from rrr_edge.errors import MissingLibrary, UsageError, choose

if TYPE_CHECKING:
    from rrr_edge.backends import Session
    from rrr_edge.bundle.folder import Bundle
    from rrr_edge.bundle.reference import Floats
    from rrr_edge.bundle.reference_network import RunnableNetwork
    from rrr_edge.bundle.target import Target
    from rrr_edge.images.labelled import LabelledPhotos
    from rrr_edge.profile.evaluate import Evaluated
    from rrr_edge.profile.reference import Beside
    from rrr_edge.timing.progress import OnProgress

_MODELS = ("engine", "onnx", "network")
_NOT_KEPT = (
    "the reference is compared on these photos, but not kept with the bundle: for its size of images the bundle's own "
    "test photos are needed, and this folder does not hold them"
)
_STAYS = (
    "the reference is compared here only: {} stays the one that profile, report and gate compare with; --force keeps "
    "this one in its place"
)
_CSV = "photo,label,answer,probability,right"


@command
def evaluate(
    bundle: BundleFolder,
    photos: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PHOTOS]",
            help="Photos in a folder for each class; train/ is left out (default: the test photos in the bundle).",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="The engine's target (default: openvino), or its TOML file.")
    ] = None,
    precision: PrecisionName = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="engine, onnx (the bundle's graph) or network (in PyTorch); default: an engine where there is one, "
            "else onnx."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="WEIGHTS|BUNDLE",
            help="A file of your own network with its classifier, or another bundle, beside it.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|folder-order",
            help="What the reference's outputs mean: a text file with a class a line, or folder-order.",
        ),
    ] = None,
    own_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images that your network takes (default: the bundle's).")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Keep the reference with the bundle in place of another network's.")
    ] = False,
    foreign: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Pictures of none of the classes: how well doubt tells them apart."),
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the answer to each photo.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Judge answers to labelled photos, beside your own network."""
    from rrr_edge.bundle.folder import Bundle
    from rrr_edge.bundle.outputs import require_output, write_output
    from rrr_edge.images.labelled import photos_of, read_labelled
    from rrr_edge.profile.doubt import read_foreign
    from rrr_edge.profile.evaluate import evaluate_bundle
    from rrr_edge.profile.reference import ask_beside
    from rrr_edge.report.doubt import doubt_tables
    from rrr_edge.report.evaluation import evaluation_tables

    display = Display(as_json=as_json, quiet=quiet, verbose=verbose)
    if csv_file:
        require_output(csv_file, _CSV)
    opened = Bundle.open(bundle)
    chosen = _chosen(opened, model, target, precision, display)
    with display.progress() as on_progress:
        network = _beside(opened, reference, labels, own_size)
        if force and not network:
            raise UsageError("--force is about the reference that is kept.", advice="Give it: --reference own.pth")
        found = read_labelled(photos, opened, on_progress=on_progress) if photos else photos_of(opened)
        for note in found.notes:
            display.warn(note)
        strangers = read_foreign(foreign, found, opened.manifest.labels, on_progress) if foreign else None
        with chosen.open(opened, on_progress) as model_open:
            beside = ask_beside(network, opened, found, on_progress) if network else None
            evaluation, probabilities = evaluate_bundle(
                opened, model_open, found, beside=beside, foreign=strangers, on_progress=on_progress
            )
    if beside:
        _keep(beside, opened, force, display)
    if csv_file:
        write_output(csv_file, _answers(found, probabilities, evaluation.labels), _CSV)
        display.say(f"answers: {csv_file}")
    for caption, header, rows in (*evaluation_tables(evaluation), *doubt_tables(evaluation)):
        display.table(caption, [dict(zip(header, row, strict=True)) for row in rows])
    display.say(f"pictures: {opened.evaluation_folder(chosen.name)}")
    doubt = f"\n{evaluation.doubt.words}" if evaluation.doubt and evaluation.doubt.promise else ""
    display.result(evaluation.document(), f"{evaluation.words}{doubt}")


class _Model(NamedTuple):
    """What is evaluated: its name, and the target of an engine."""

    name: str
    target: "Target | None" = None

    @contextmanager
    def open(self, bundle: "Bundle", on_progress: "OnProgress") -> "Iterator[Evaluated]":
        """It, ready to answer."""
        from rrr_edge.profile.evaluate import Evaluated

        session: Session
        if self.target is not None:
            from rrr_edge.backends import backend_of
            from rrr_edge.bundle.calibration import Calibration
            from rrr_edge.runtime.classifier import Classifier

            with Classifier.open(bundle.path, self.target, on_progress=on_progress) as classifier:
                calibration = Calibration.of(bundle, bundle.engine(self.target))
                yield Evaluated(self.name, classifier.session, backend_of(self.target).versions(), calibration)
            return
        if self.name == "onnx":
            from rrr_edge.backends.onnxruntime import ONNXRuntime, ONNXRuntimeSession

            session, versions = ONNXRuntimeSession(bundle.model), ONNXRuntime().versions()
        else:
            session, versions = _torchs(bundle)
        try:
            yield Evaluated(self.name, session, versions)
        finally:
            session.close()


def _torchs(bundle: "Bundle") -> "tuple[Session, dict[str, str]]":
    from importlib.metadata import version

    from rrr_edge.timing.machine import usable_cores

    try:
        from rrr_edge.networks.eager import EagerSession
        from rrr_edge.networks.stored import load_network
    except ImportError as error:
        raise MissingLibrary(error.name or "torch", extra="compress", purpose="--model network") from error
    session = EagerSession(load_network(bundle), bundle.manifest.preprocess, threads=usable_cores())
    return session, {"torch": version("torch")}


def _chosen(bundle: "Bundle", model: str | None, target: str | None, precision: str | None, display: Display) -> _Model:
    """What is asked for; where nothing is, an engine that is there, else the bundle's graph, which is said."""
    if model is not None:
        choose(model, _MODELS, "model")
    if model in ("onnx", "network"):
        if target or precision:
            raise UsageError(f"--target and --precision are about engines, and --model {model} is none.")
        return _Model(model)
    if model is None and not (target or precision or bundle.engine_names()):
        display.say("note: there is no engine; model.onnx is evaluated (--model onnx)")
        return _Model("onnx")
    chosen = chosen_engine(bundle, target or "openvino", precision, display)
    return _Model(chosen.engine_name, chosen)


def _beside(bundle: "Bundle", reference: Path | None, labels: str | None, size: int | None) -> "RunnableNetwork | None":
    """The network to compare with. Raises UsageError where the options make no sense together."""
    if reference is None or reference.is_dir():
        for option, value in (("--labels", labels), ("--own-size", size)):
            if value is not None:
                raise UsageError(f"{option} is about a file of weights.", advice="Give it: --reference own.pth")
    if reference is None:
        return None
    if reference.is_dir():
        from rrr_edge.profile.reference import bundle_beside

        return bundle_beside(bundle, reference)
    if labels is None:
        raise UsageError(
            f"What do the outputs of {reference} mean?",
            advice="Add --labels with a text file of a class a line, in their order; or --labels folder-order where "
            "they were numbered as their folders are sorted (torchvision's ImageFolder).",
        )
    if not reference.is_file():
        raise UsageError(f"There is no file {reference}.", advice="Give a file of weights, or a bundle.")
    try:
        from rrr_edge.compress.own_network import open_own
    except ImportError as error:
        raise MissingLibrary(error.name or "torch", extra="compress", purpose="--reference with weights") from error
    preprocess = bundle.manifest.preprocess
    if size is not None:
        preprocess = preprocess.model_copy(update={"image_size": size})
    return open_own(reference, labels, bundle.manifest.labels, preprocess=preprocess)


def _keep(beside: "Beside", bundle: "Bundle", force: bool, display: Display) -> None:
    """Keep the reference's answers to the test photos in `bundle`, and say so, or why not."""
    from rrr_edge.profile.reference import keep_reference

    if beside.stored is None:
        display.say(f"note: {_NOT_KEPT}")
        return
    display.say(f"note: {beside.stored.words}")
    if other := keep_reference(beside.stored, bundle, force=force):
        display.say(f"note: {_STAYS.format(other.name)}")


def _answers(photos: "LabelledPhotos", probabilities: "Floats", labels: tuple[str, ...]) -> str:
    """A line of CSV for each photo."""
    text = io.StringIO()
    text.write(f"{_CSV}\n")
    writer = csv.writer(text, lineterminator="\n")
    for name, label, row in zip(photos.names, photos.labels, probabilities, strict=True):
        answer = int(row.argmax())
        writer.writerow([name, labels[label], labels[answer], f"{row[answer]:.6f}", int(answer == label)])
    return text.getvalue()
