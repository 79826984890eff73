"""Compression, from photos to a bundle; the recipe's type picks the method."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.manifest import Ancestor, Preprocess
from rrr_edge.bundle.recipe import RRR, BasisScaling, Block, Channel, Element, FineTune, LinearProbe, NetTailor, Recipe
from rrr_edge.bundle.reference_network import ReferenceNetwork, RunnableNetwork
from rrr_edge.bundle.sources import SOURCES, PhaseDepths
from rrr_edge.bundle.spec import SMALLEST_DEPTHS
from rrr_edge.compress.basis import BASIS_SCALING
from rrr_edge.compress.chain import lineage, reference_of, require_reading, start_of, words_of
from rrr_edge.compress.estimate import Estimate, estimate_of
from rrr_edge.compress.method import Inputs, Method, cost_of
from rrr_edge.compress.nettailor import NETTAILOR
from rrr_edge.compress.own_network import open_own
from rrr_edge.compress.plan import Plan
from rrr_edge.compress.prune import BLOCK, CHANNEL, ELEMENT
from rrr_edge.compress.rrr import RECYCLE
from rrr_edge.compress.rrr.selection import path_of
from rrr_edge.compress.transfer import FINE_TUNE, LINEAR_PROBE
from rrr_edge.compress.validation import MayBeGuessing, as_held_out, going_on_from, too_few_to_decide
from rrr_edge.compress.weights import check_weights, require_source
from rrr_edge.compress.workdir import Task, Workdir
from rrr_edge.compress.write import image_counts, reference_rows, write_bundle
from rrr_edge.errors import BadInput, MissingLibrary, UsageError
from rrr_edge.images.dataset import Dataset, scan
from rrr_edge.images.held_out import held_out_of
from rrr_edge.images.layouts import require_folder
from rrr_edge.images.reading import read_pictures
from rrr_edge.networks import Network, build
from rrr_edge.timing.progress import OnProgress, silent
from rrr_edge.training import Device, Examples, open_fabric, require_device
from rrr_edge.training import Run as TrainingRun
from rrr_edge.training.share import first_does, processes

METHODS: dict[type[Recipe], Method[Any]] = {
    RRR: RECYCLE,
    LinearProbe: LINEAR_PROBE,
    FineTune: FINE_TUNE,
    Element: ELEMENT,
    Channel: CHANNEL,
    Block: BLOCK,
    NetTailor: NETTAILOR,
    BasisScaling: BASIS_SCALING,
}
# What is needed once the training is over.
_EXPORT = ("onnx", "onnxscript", "onnxsim", "onnxruntime")


@dataclass(frozen=True)
class Run:
    """How a compression is carried out; none of it decides the result.

    `max_bad` is the share of unreadable images that is skipped; `resume` goes on with an interrupted run of the same
    recipe and photos; `force` replaces an existing bundle or an interrupted run. Before anything is trained,
    `after_weights` is told in one sentence what a file of weights holds, and `after_scan` what was found in the photos;
    `warn` is told what makes a good result unlikely.

    A plan may `try_steps` of the training, to estimate what it takes.

    `labels` tells what the outputs of the user's own network mean, whose file the recipe's weights are (`open_own`). It
    is then measured on the test photos, at `own_size` pixels (None: the recipe's), before anything is trained;
    `after_own` is told what was found, and the bundle has it as its reference network.
    """

    device: Device = "auto"
    max_bad: float = 0.01
    resume: bool = False
    force: bool = False
    try_steps: bool = False
    after_weights: Callable[[str], None] | None = None
    after_scan: Callable[[Dataset], None] | None = None
    labels: str | None = None
    own_size: int | None = None
    after_own: Callable[[str], None] | None = None
    warn: Callable[[str], None] | None = None

    def workdir(self, out: str | Path) -> Workdir:
        return Workdir(Path(out), resume=self.resume, force=self.force)


def compress(
    data: str | Path,
    out: str | Path,
    *,
    recipe: Recipe = RRR(),  # noqa: B008  (frozen)
    run: Run = Run(),
    on_progress: OnProgress = silent,
) -> Bundle:
    """Turn a ResNet into the network that `recipe` describes, trained on the photos in `data`, as the bundle `out`.

    Until the bundle is whole, everything is in a hidden folder beside it, which an interruption leaves for `resume`. It
    goes where the network may only guess, as what helps is another task.
    Where torchrun started several processes, the first one writes, and all train.

    Photos in val/, or held out of the training photos, are judged now and then while the training goes on. They decide
    nothing unless the recipe keeps the best weights or chooses depths or sizes by them.

    Raises UsageError (something is there already, settings that contradict each other), BadInput (photos, weights),
    MissingLibrary, CannotRunHere, GateFailed (the training diverged, the accuracy that pruning is to keep may be
    chance, or the exported graph answers differently), Interrupted.
    """
    workdir = run.workdir(out)
    fabric = open_fabric(TrainingRun(device=run.device))
    first_does(fabric, workdir.check)
    recipe, _, dataset, _ = _prepare(data, recipe=recipe, run=run, on_progress=on_progress)
    chain = lineage(start_of(recipe))
    task = _task(recipe, dataset, chain)
    training = TrainingRun(
        device=run.device,
        checkpoints=workdir.training,
        resume=run.resume,
        validation=Examples(dataset.val.images, dataset.val.labels) if dataset.val else None,
        on_progress=on_progress,
    )
    with ExitStack() as until_end:
        if first_does(fabric, lambda: workdir.claim(task, until_end)):
            own = first_does(fabric, lambda: measure_own(recipe, dataset, run=run, on_progress=on_progress))
            examples = Examples(dataset.train.images, dataset.train.labels)
            inputs = Inputs(dataset, examples, Preprocess.of(recipe), training)
            try:
                made = replace(METHODS[type(recipe)].make(recipe, inputs), chain=chain)
            except MayBeGuessing:
                shutil.rmtree(workdir.training, ignore_errors=True)
                raise
            first_does(
                fabric,
                lambda: write_bundle(workdir, dataset, made=made, recipe=recipe, own=own, on_progress=on_progress),
            )
    return Bundle.open(workdir.out)


def measure_own(recipe: Recipe, dataset: Dataset, *, run: Run, on_progress: OnProgress) -> ReferenceNetwork | None:
    """The user's own network on the test photos that the bundle will hold, where `run` has labels.

    Else that of the bundle that is begun with, if it has one and the same test photos. Raises CorruptArtifact, and
    BadInput (see `open_own`; its outputs seem to be in another order).
    """
    if run.labels is None:
        start = start_of(recipe)
        return reference_of(start, dataset, reference_rows(dataset, recipe)) if start else None
    network = _open_own(recipe, dataset.labels, run)
    fitted = network.about.preprocess
    golden = reference_rows(dataset, recipe)
    images, labels = dataset.test.images[golden], dataset.test.labels[golden]
    if fitted != Preprocess.of(recipe):
        files = [dataset.test.files[row] for row in golden]
        images, _, bad, _ = read_pictures(dataset.path, files, fitted, on_progress)
        if bad:
            raise BadInput(f"{dataset.path / bad[0].path} cannot be read any more: {bad[0].reason}.")
    probabilities = network.answer(images, on_progress)
    found = ReferenceNetwork.judged(network, probabilities, labels, names=dataset.labels, images="")
    if run.after_own:
        run.after_own(found.words)
    return found


def _open_own(recipe: Recipe, classes: tuple[str, ...], run: Run) -> RunnableNetwork:
    assert run.labels is not None
    preprocess = Preprocess.of(recipe)
    fitted = preprocess.model_copy(update={"image_size": run.own_size or recipe.image_size})
    return open_own(Path(recipe.weights), run.labels, classes, preprocess=fitted)


def plan(
    data: str | Path,
    out: str | Path,
    *,
    recipe: Recipe = RRR(),  # noqa: B008  (frozen)
    run: Run = Run(),
    on_progress: OnProgress = silent,
) -> Plan:
    """What `compress` would do, found out without training or writing. Raises as `compress` does before it trains."""
    workdir = run.workdir(out)
    workdir.check()
    recipe, found, dataset, network = _prepare(data, recipe=recipe, run=run, on_progress=on_progress)
    workdir.require_task(_task(recipe, dataset, lineage(start_of(recipe))))
    if run.labels is not None:
        _open_own(recipe, dataset.labels, run)
    estimated = _estimate(recipe, dataset, run) if run.try_steps and processes() == 1 else None
    return Plan(
        bundle=str(out),
        photos=image_counts(dataset),
        classes=len(dataset.labels),
        photos_per_class=dataset.counts,
        unreadable=tuple(f"{bad.path}: {bad.reason}" for bad in dataset.bad),
        duplicates=tuple(f"{train} = {test}" for train, test in dataset.duplicates),
        weights=found,
        network=network.spec,
        cost=cost_of(network, recipe.image_size),
        recipe=recipe,
        estimate=estimated,
    )


def _estimate(recipe: Recipe, dataset: Dataset, run: Run) -> Estimate | None:
    method = METHODS[type(recipe)]
    with torch.random.fork_rng(devices=[]):
        network = build(method.spec(recipe, len(dataset.labels)))
    method.freeze(recipe, network)
    return estimate_of(recipe, network, dataset, TrainingRun(device=run.device))


class _Prepared(NamedTuple):
    """The resolved recipe, what a file of weights holds, the photos, and the network as it will learn, on no device."""

    recipe: Recipe
    found: str
    dataset: Dataset
    network: Network


def _prepare(data: str | Path, *, recipe: Recipe, run: Run, on_progress: OnProgress) -> _Prepared:
    """All that can be refused is refused here, what does not need the photos before they are read."""
    _check_libraries()
    require_device(run.device)
    start = start_of(recipe)
    if start is None:
        require_source(recipe.weights, recipe.backbone)
    method = METHODS[type(recipe)]
    recipe = method.resolve(recipe)
    _require_own(recipe, run)
    require_folder(Path(data))
    if start is None:
        found = check_weights(recipe.weights, recipe.backbone, depths=_blocks_read(recipe))
    else:
        found = words_of(start)
        recipe = going_on_from(start, recipe)
    if found and run.after_weights:
        run.after_weights(found)
    preprocess = Preprocess.of(recipe)
    dataset = scan(
        data,
        preprocess,
        seed=recipe.seed,
        held_out=held_out_of(recipe),
        max_bad=run.max_bad,
        on_progress=on_progress,
    )
    if run.after_scan:
        run.after_scan(dataset)
    if start is not None:
        require_reading(start, recipe, dataset)
    recipe = as_held_out(recipe, dataset)
    if run.warn and (doubt := too_few_to_decide(recipe, dataset)):
        run.warn(doubt)
    with torch.device("meta"):
        network = build(method.spec(recipe, len(dataset.labels)))
    method.freeze(recipe, network)
    method.check(recipe, network, len(dataset.train.labels))
    return _Prepared(recipe, found, dataset, network)


def _blocks_read(recipe: Recipe) -> PhaseDepths:
    """The blocks that the weights must have, of block pruning as far as that is known without the photos."""
    if isinstance(recipe, Block):
        return SMALLEST_DEPTHS
    if isinstance(recipe, RRR) and recipe.depths == "auto":
        return path_of(recipe)[-1].depths
    source = SOURCES.get(recipe.backbone)
    depths: PhaseDepths = getattr(recipe, "depths", None) or (source.depths if source else SMALLEST_DEPTHS)
    return depths


def _task(recipe: Recipe, dataset: Dataset, chain: tuple[Ancestor, ...]) -> Task:
    start = chain[-1].weights_sha256 if chain else ""
    return Task(recipe=recipe, data_sha256=dataset.digest, start_sha256=start)


def _require_own(recipe: Recipe, run: Run) -> None:
    if run.own_size is not None and run.labels is None:
        raise UsageError("An own size is for an own network.", advice="Say what its outputs mean: --labels FILE.")
    if run.labels is not None and not Path(recipe.weights).is_file():
        raise UsageError(
            f"Labels tell what the outputs of your own network mean, and the weights are {recipe.weights!r}.",
            advice="Give its file: --weights own.pth; or leave --labels out.",
        )


def _check_libraries() -> None:
    for name in _EXPORT:
        try:
            import_module(name)
        except ImportError as error:
            raise MissingLibrary(error.name or name, extra="compress", purpose="Exporting to ONNX") from error
