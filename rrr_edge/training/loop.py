"""The one training loop: steps of any objective, from batch to checkpoint."""

import time

import numpy as np
import torch

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Training
from rrr_edge.errors import BadInput, Interrupted, UsageError
from rrr_edge.networks import Network, ResNet
from rrr_edge.timing.progress import Step, silent
from rrr_edge.training.batches import Batches, Examples, rng
from rrr_edge.training.branches import BranchCrossEntropy, require_branches
from rrr_edge.training.checkpoint import Identity, Judged, TrainingProgress, structure_sha256
from rrr_edge.training.evaluate import predict
from rrr_edge.training.objective import Computation, Objective
from rrr_edge.training.run import Run, Trained, augmenting_threads, on_device, open_fabric, precision_of
from rrr_edge.training.share import Share
from rrr_edge.training.signals import stop_requests
from rrr_edge.training.state import State


def train(
    network: ResNet,
    examples: Examples,
    *,
    training: Training,
    preprocess: Preprocess,
    seed: int = 0,
    run: Run = Run(),  # noqa: B008  (frozen)
) -> Trained:
    """`minimise` each branch's own cross-entropy.

    It computes in the type of the network's weights. A frozen stump stays as it is, bit for bit. A network whose stump
    is not frozen is trained whole; if it has several branches, these must share their batches. Raises UsageError, and
    what `minimise` raises.
    """
    require_branches(network, training, images=len(examples))
    return minimise(BranchCrossEntropy(network), examples, training=training, preprocess=preprocess, seed=seed, run=run)


def minimise(
    objective: Objective,
    examples: Examples,
    *,
    training: Training,
    preprocess: Preprocess,
    seed: int = 0,
    run: Run = Run(),  # noqa: B008  (frozen)
) -> Trained:
    """Train the objective's network in place; at the end it has the averaged weights, with its own batch statistics.

    With `run.checkpoints` the state is kept after every epoch, and `run.resume` goes on from it: on a CPU with the same
    number of threads, to the same bits. Where torchrun started several processes that all call this, each trains its
    share of the branches, all end with the whole network, the first one reports and keeps, and any number of them can
    go on.

    On a CPU the same seed gives the same bits. torch's deterministic mode is not needed for it, and not switched on:
    nothing here raises in it or changes by it, and it was measured to cost 4 to 6% of the time.

    Raises UsageError (also where the best weights are to be kept and nothing tells them), BadInput (labels, too few
    images, another training's checkpoint), CorruptArtifact, CannotRunHere, GateFailed (the loss is not finite) and,
    after SIGINT or SIGTERM and with the state kept, Interrupted.
    """
    network = objective.network
    _check_labels(network, examples)
    fabric = open_fabric(run)
    share = Share(fabric, network)
    batches = Batches(
        examples,
        seed,
        training.batch_size,
        streams=range(1) if training.shared_batches else share.branches,
        augment=training.augment,
        balance=training.balance,
        workers=augmenting_threads(fabric),
    )
    identity = Identity(
        training=training,
        seed=seed,
        precision=precision_of(run, fabric.device),
        data_sha256=examples.sha256,
        network_sha256=structure_sha256(network),
    )
    start = TrainingProgress(identity=identity, steps_per_epoch=batches.steps)
    with on_device(network, fabric):
        at = Computation(fabric, identity.precision, preprocess)
        state = State(objective, share, at, training=training, progress=start)
        if run.resume and run.checkpoints:
            state.restore(run.checkpoints)
        if training.keep == "best" and run.validation is None:
            raise UsageError("Nothing tells the best weights without validation photos.")
        _take_steps(state, batches, run)
        state.finish()
    return Trained(state.progress.history, identity.precision, fabric.device.type)


def _take_steps(state: State, batches: Batches, run: Run) -> None:
    """All steps that are left, each reported, each epoch kept; none where the training has ended before."""
    if state.progress.step == state.total or state.progress.has_ended_early:
        return
    share, epochs = state.share, state.training.epochs
    on_progress = run.on_progress if share.is_first else silent
    batches = state.objective.prepare(batches, state.training, state.at, run.on_progress)
    with stop_requests() as stop:
        since = time.perf_counter()
        for batch in batches.run(state.progress.step, state.total):
            torch.manual_seed(int(rng(batches.seed, "dropout", state.progress.step).integers(2**63)))
            state.learn(batch, since=since)
            if run.after_step:
                run.after_step(state.progress.step, state.total)
            done = state.progress
            if done.between_epochs:
                state.end_epoch(_judge(state, run))
            on_progress(Step("train", done.step, state.total, _note(done, epochs, state)))
            signal = share.most(stop.signal)
            if run.checkpoints and (state.progress.between_epochs or signal):
                state.keep(run.checkpoints)
            if signal:
                raise _interrupted(run, state.progress, signal)
            if state.progress.between_epochs and state.progress.has_ended_early:
                on_progress(Step("train", state.total, state.total, f"ended after epoch {state.progress.epochs_done}"))
                return
            since = time.perf_counter()


def _check_labels(network: Network, examples: Examples) -> None:
    classes = network.spec.num_classes
    wrong = sorted(set(np.unique(examples.labels).tolist()) - set(range(classes)))
    if wrong:
        raise BadInput(f"Labels {wrong[:5]} do not lie between 0 and {classes - 1}.")


def _judge(state: State, run: Run) -> Judged | None:
    """The validation photos' verdict, where it is their turn: after every epoch if it decides."""
    epoch, every = state.progress.epochs_done, 1 if state.training.keep == "best" else run.validate_every
    if run.validation is None or (epoch % every and epoch != state.training.epochs):
        return None
    probabilities = predict(state.judged(), run.validation.images, preprocess=state.at.preprocess).probabilities
    labels = run.validation.labels
    own = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
    # What all processes agree on.
    return Judged(*state.share.mean(float(np.mean(probabilities.argmax(1) == labels)), float(-np.log(own).mean())))


def _note(progress: TrainingProgress, epochs: int, state: State) -> str:
    """The epoch so far, and the last judgement of the validation photos among the finished epochs."""
    epoch = (progress.step - 1) // progress.steps_per_epoch + 1
    loss, right = progress.loss_sum / progress.images, progress.right_sum / progress.images
    judged = [row for row in state.progress.history if row.validation_accuracy is not None]
    validation = [f"validation right {row.validation_accuracy:.1%} after epoch {row.epoch}" for row in judged[-1:]]
    who = "branches" if state.branches > 1 else "training"
    return ", ".join([f"epoch {epoch} of {epochs}, loss {loss:.3f}, {who} right {right:.1%}", *validation])


def _interrupted(run: Run, progress: TrainingProgress, signal: int) -> Interrupted:
    kept = f"step {progress.step} is kept in {run.checkpoints}" if run.checkpoints else "nothing was kept"
    error = Interrupted(
        f"The training was stopped in epoch {progress.epochs_done + 1}; {kept}.",
        advice="Run the same command with --resume to go on." if run.checkpoints else "",
    )
    error.exit_code = 128 + signal
    return error
