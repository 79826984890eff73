"""The one training loop: every branch learns its own cross-entropy, and nothing that was learned is lost.

The naive ensemble of Sun et al. 2023, Appendix C. The branches' losses are added, so branch i's parameters get the
gradient of branch i's loss alone; and AdamW works element by element, so that one AdamW over the fused parameters is
one AdamW a branch. Deviations: the branches take each step together instead of epochs in turn, which changes nothing,
as they share no trainable parameter; a last batch of a single image joins the batch before it.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Training
from rrr_edge.errors import BadInput, CannotRunHere, Interrupted, UsageError
from rrr_edge.networks import Network
from rrr_edge.timing.machine import cpu_info, usable_cores
from rrr_edge.timing.progress import OnProgress, Step, silent
from rrr_edge.training.batches import Batches, Examples, normalise, rng, steps_of
from rrr_edge.training.checkpoint import EpochRow, Identity, TrainingProgress
from rrr_edge.training.evaluate import predict
from rrr_edge.training.schedule import cycles
from rrr_edge.training.share import Share, processes
from rrr_edge.training.signals import stop_requests
from rrr_edge.training.state import State
from rrr_edge.training.views import make_views

Device = Literal["auto", "cpu", "cuda"]

STUMP_PASSES = 10

_NATIVE_BF16 = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class Run:
    """How a training is carried out. Only `device` and `precision` touch the numbers, and those by roundings.

    "auto" precision is bf16-mixed where the hardware has bfloat16. `checkpoints` is a folder of this training's own.
    `validation` is judged every `validate_every` epochs and after the last. `after_step` is called with the number of
    finished steps and of all, before the state is kept; it may look at the network, but not change it.
    """

    device: Device = "auto"
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    checkpoints: Path | None = None
    resume: bool = False
    validation: Examples | None = None
    validate_every: int = 10
    on_progress: OnProgress = silent
    after_step: Callable[[int, int], None] | None = None


@dataclass(frozen=True)
class Trained:
    """What there is to record of a finished training."""

    history: tuple[EpochRow, ...]
    precision: str
    device: str


def train(
    network: Network,
    examples: Examples,
    *,
    training: Training,
    preprocess: Preprocess,
    seed: int = 0,
    run: Run = Run(),
) -> Trained:
    """Train `network` in place; at the end it has the averaged weights, with its own batch statistics.

    A frozen stump stays as it is, bit for bit. A network whose stump is not frozen is trained whole; if it has several
    branches, these must share their batches. With `run.checkpoints` the state is kept after every epoch, and
    `run.resume` goes on from it: on a CPU with the same number of threads, to the same bits. Where torchrun started
    several processes that all call this, each trains its share of the branches, all end with the whole network, the
    first one reports and keeps, and any number of them can go on.

    On a CPU the same seed gives the same bits. torch's deterministic mode is not needed for it, and not switched on:
    nothing here raises in it or changes by it, and it was measured to cost 4 to 6 % of the time.

    Raises UsageError, BadInput (labels, too few images, another training's checkpoint), CorruptArtifact, CannotRunHere,
    GateFailed (the loss is not finite) and, after SIGINT or SIGTERM and with the state kept, Interrupted.
    """
    require_training(network, training, images=len(examples))
    _check_labels(network, examples)
    fabric = open_fabric(run)
    share = Share(fabric, network)
    batches = Batches(
        examples,
        seed,
        training.batch_size,
        streams=range(1) if training.shared_batches else share.branches,
        augment=training.augment,
        workers=_workers(fabric),
    )
    identity = Identity(
        training=training,
        seed=seed,
        precision=precision_of(run, fabric.device),
        data_sha256=examples.sha256,
        network_sha256=_structure_sha256(network),
    )
    start = TrainingProgress(identity=identity, steps_per_epoch=batches.steps)
    total = training.epochs * batches.steps
    on_progress = run.on_progress if share.is_first else silent
    with _on_device(network, fabric), ExitStack() as until_end:
        state = State(share, training, preprocess=preprocess, progress=start)
        if run.resume and run.checkpoints:
            state.restore(run.checkpoints)
        if training.feature_views and state.progress.step < total:
            batches = replace(batches, views=keep_views(state, batches, run))
        stop = until_end.enter_context(stop_requests())
        since = time.perf_counter()
        for batch in batches.run(state.progress.step, total):
            torch.manual_seed(int(rng(seed, "dropout", state.progress.step).integers(2**63)))
            state.learn(batch, since=since)
            if run.after_step:
                run.after_step(state.progress.step, total)
            done = state.progress
            if done.between_epochs:
                state.progress = done.after_epoch(_validation_accuracy(state, preprocess, run, training))
            on_progress(Step("train", done.step, total, _note(done, training.epochs, state.progress.history)))
            signal = share.most(stop.signal)
            if run.checkpoints and (state.progress.between_epochs or signal):
                state.keep(run.checkpoints)
            if signal:
                raise _interrupted(run, state.progress, signal)
            since = time.perf_counter()
        state.finish()
    return Trained(state.progress.history, identity.precision, fabric.device.type)


def reestimate_stump(
    network: Network,
    examples: Examples,
    *,
    training: Training,
    preprocess: Preprocess,
    seed: int = 0,
    run: Run = Run(),
) -> None:
    """Let the stump's batch statistics forget ImageNet in 10 passes over the augmented images, then freeze the stump.

    No weight changes; the momentum is the layers' own 0.1; full precision. In the authors' code, not in the paper.
    """
    if network.stump_frozen:
        raise ValueError("the stump is frozen: its statistics can no longer be estimated")
    fabric = open_fabric(run)
    batches = Batches(
        examples, seed, training.batch_size, augment=training.augment, role="stump", workers=_workers(fabric)
    )
    total = STUMP_PASSES * batches.steps
    with _on_device(network, fabric), torch.no_grad():
        for step, batch in enumerate(batches.run(0, total), start=1):
            network.stump(normalise(batch.inputs.flatten(0, 1).to(fabric.device), preprocess))
            run.on_progress(Step("adapt stump", step, total))
    network.freeze_stump()


def require_training(network: Network, training: Training, *, images: int) -> None:
    """Raise UsageError where a network, frozen as this one is, cannot be trained so on that many images."""
    spec = network.spec
    cycles(training.schedule, training.epochs * steps_of(images, training.batch_size))
    if spec.branches > 1 and not (network.stump_frozen or training.shared_batches):
        raise UsageError(
            f"{spec.branches} branches cannot each have their own batches while they train the stump that they share.",
            advice="Set shared_batches = true, or freeze the stump.",
        )
    if training.feature_views and not network.stump_frozen:
        raise UsageError(
            "The features of a stump that is still trained cannot be kept.",
            advice="Set feature_views = 0, or freeze the stump.",
        )


def _check_labels(network: Network, examples: Examples) -> None:
    classes = network.spec.num_classes
    wrong = sorted(set(np.unique(examples.labels).tolist()) - set(range(classes)))
    if wrong:
        raise BadInput(f"Labels {wrong[:5]} do not lie between 0 and {classes - 1}.")


def keep_views(state: State, batches: Batches, run: Run) -> Tensor:
    """Recomputed by a resumed training, to the same bits."""
    numbered = Examples(batches.examples.images, np.arange(len(batches.examples)))
    alone = replace(batches, examples=numbered, streams=range(1), role="views")
    # Autocast's own type, or the half of float32 that keeps more digits.
    dtype = torch.bfloat16 if state.progress.identity.precision == "bf16-mixed" else torch.float16
    return make_views(state.features, alone, state.training.feature_views, dtype=dtype, on_progress=run.on_progress)


def require_device(device: Device) -> None:
    """Raise CannotRunHere where torch cannot train on `device`."""
    if device == "cuda" and not torch.cuda.is_available():
        raise CannotRunHere("torch finds no CUDA GPU on this machine.", advice="Use --device cpu.")


def open_fabric(run: Run) -> Fabric:
    require_device(run.device)
    device = "cuda" if run.device != "cpu" and torch.cuda.is_available() else "cpu"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    precision = precision_of(run, torch.device(device))
    if processes() == 1:
        return Fabric(accelerator=device, devices=1, precision=precision)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes()))
    fabric = Fabric(
        accelerator=device, strategy="ddp", devices=here, num_nodes=processes() // here, precision=precision
    )
    fabric.launch()
    return fabric


def precision_of(run: Run, device: torch.device) -> Literal["bf16-mixed", "32-true"]:
    if run.precision != "auto":
        return run.precision
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else not _NATIVE_BF16.isdisjoint(cpu_info()[1])
    return "bf16-mixed" if native else "32-true"


def _workers(fabric: Fabric) -> int:
    """Threads that augment: all cores beside a GPU, one where the network itself computes on the cores."""
    return 1 if fabric.device.type == "cpu" else usable_cores()


@contextmanager
def _on_device(network: Network, fabric: Fabric) -> Iterator[None]:
    """The network in training mode, channels last and on its device; torch's global random state as it was after."""
    was_training = network.training
    fabric.to_device(network)
    network.to(memory_format=torch.channels_last)
    network.train()
    try:
        with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
            yield
    finally:
        network.to(memory_format=torch.contiguous_format)
        network.train(was_training)


def _structure_sha256(network: Network) -> str:
    shapes = [(name, tuple(p.shape), p.requires_grad) for name, p in network.named_parameters()]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()


def _validation_accuracy(state: State, preprocess: Preprocess, run: Run, training: Training) -> float | None:
    epoch = state.progress.epochs_done
    if run.validation is None or (epoch % run.validate_every and epoch != training.epochs):
        return None
    outputs = predict(state.judged(), run.validation.images, preprocess=preprocess)
    return float(np.mean(outputs.probabilities.argmax(1) == run.validation.labels))


def _note(progress: TrainingProgress, epochs: int, history: tuple[EpochRow, ...]) -> str:
    """The epoch so far, and the last judgement of the validation photos among the finished epochs."""
    epoch = (progress.step - 1) // progress.steps_per_epoch + 1
    loss, right = progress.loss_sum / progress.images, progress.right_sum / progress.images
    judged = [row for row in history if row.validation_accuracy is not None]
    validation = [f"validation right {row.validation_accuracy:.1%} after epoch {row.epoch}" for row in judged[-1:]]
    return ", ".join([f"epoch {epoch} of {epochs}, loss {loss:.3f}, branches right {right:.1%}", *validation])


def _interrupted(run: Run, progress: TrainingProgress, signal: int) -> Interrupted:
    kept = f"step {progress.step} is kept in {run.checkpoints}" if run.checkpoints else "nothing was kept"
    error = Interrupted(
        f"The training was stopped in epoch {progress.epochs_done + 1}; {kept}.",
        advice="Run the same command with --resume to go on." if run.checkpoints else "",
    )
    error.exit_code = 128 + signal
    return error
