"""The method `nettailor` (Morgado and Vasconcelos 2019): frozen blocks, small proxies, and only what the task needs.

A teacher is fine-tuned; a student of frozen blocks and proxies learns to imitate it at a low expected complexity; its
weakest proxies and blocks go; what is left is tuned. Deviations from the paper and its code: photos are augmented and
fitted as in all methods here, the schedules are steps after 40 and 80% of the epochs, the teacher learns in batches of
the student's size (the code: 64 and 32), and the search for the number of blocks ends with the first network that is
not accurate enough, where the paper tries several numbers.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from rrr_edge.bundle.folder import NETWORK_PLOT
from rrr_edge.bundle.recipe import RANDOM, NetTailor, Training
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.tailored import TailoredSpec, whole_network, with_proxies
from rrr_edge.bundle.verification import Accuracy
from rrr_edge.compress.method import CompressedNetwork, Inputs, Method, cost_of
from rrr_edge.compress.nettailor.complexity import ExpectedComplexity
from rrr_edge.compress.nettailor.objective import Tailoring, Teacher
from rrr_edge.compress.nettailor.search import Found, drop_as_many_as_go, drop_so_many
from rrr_edge.compress.nettailor.teacher import (
    begin,
    doubt_of,
    load_teacher,
    require_same_teacher,
    require_teacher,
    require_unseen_by,
)
from rrr_edge.compress.stages import Stage, Stages
from rrr_edge.compress.validation import require_better_than_guessing, validation_photos
from rrr_edge.compress.weights import load_weights
from rrr_edge.errors import UsageError
from rrr_edge.networks import Network
from rrr_edge.networks.tailored import Tailored
from rrr_edge.report.tailoring import draw_network
from rrr_edge.training.batches import steps_of
from rrr_edge.training.schedule import cycles

_RANDOM_BLOCKS = (
    "The weights are random, so the frozen blocks compute random features. With --weights imagenet they mean more."
)


def _resolve(recipe: NetTailor) -> NetTailor:
    """The epochs that were left open, and what can be refused before the photos are read."""
    blocks = sum(SOURCES[recipe.backbone].depths)
    if recipe.drop_blocks != "auto" and recipe.drop_blocks > blocks:
        raise UsageError(
            f"{recipe.drop_blocks} blocks cannot be dropped: {SOURCES[recipe.backbone].name} has {blocks}.",
            advice=f"Set --drop-blocks to at most {blocks}, or to auto.",
        )
    if recipe.teacher:
        require_teacher(recipe.teacher, recipe)
    epochs = recipe.training.epochs
    return recipe.model_copy(
        update={
            "teacher_epochs": epochs if recipe.teacher_epochs is None else recipe.teacher_epochs,
            "tune_epochs": epochs if recipe.tune_epochs is None else recipe.tune_epochs,
        }
    )


def _spec_of(recipe: NetTailor, num_classes: int) -> TailoredSpec:
    """The network that the student begins as, with all blocks and all proxies."""
    max_skip = None if recipe.max_skip == "dense" else recipe.max_skip
    return with_proxies(whole_network(recipe.backbone, num_classes), max_skip, recipe.proxy_widths)


def _freeze(recipe: NetTailor, network: Network) -> None:
    assert isinstance(network, Tailored)
    network.freeze_universal()


def _check(recipe: NetTailor, network: Network, images: int) -> None:
    """Raise UsageError where a training has too few steps for its schedule."""
    taught = () if recipe.teacher else (recipe.teacher_epochs,)
    for epochs in (*taught, recipe.training.epochs, recipe.tune_epochs):
        training = recipe.training.model_copy(update={"epochs": epochs})
        cycles(training.schedule, training.epochs * steps_of(images, training.batch_size))


def _make(recipe: NetTailor, inputs: Inputs) -> CompressedNetwork:
    dataset = inputs.dataset
    judged_by = validation_photos(dataset) if recipe.drop_blocks == "auto" else None
    stages = Stages(inputs, recipe.seed, judged_by)
    trunk, info = load_weights(
        recipe.weights, backbone=recipe.backbone, seed=recipe.seed, on_progress=inputs.run.on_progress
    )
    teacher, taught_s, judged, doubt = _teacher(recipe, stages, trunk)
    require_better_than_guessing(
        judged,
        len(dataset.labels),
        network="teacher",
        to_tell="how many blocks the task does without",
        instead="--drop-blocks 2",
    )
    student = begin(_spec_of(recipe, len(dataset.labels)), trunk, seed=recipe.seed)
    student.freeze_universal()
    imitated = Teacher(teacher, recipe.mimic, detached=recipe.losses == "code")
    complexity = ExpectedComplexity(student.plain, recipe.image_size, recipe.losses)
    learned = stages.run("student", Tailoring(student, imitated, complexity, recipe.complexity), recipe.training)
    student.record_attention()

    def tune(network: Tailored, name: str) -> Stage:
        return stages.run(name, Tailoring(network, imitated), _slower(recipe.training, recipe.tune_epochs))

    if recipe.drop_blocks == "auto":
        least = judged.accuracy - recipe.within if judged else 0.0
        found = drop_as_many_as_go(recipe, student, tune, stages, least=least)
    else:
        found = drop_so_many(recipe, student, tune, recipe.drop_blocks)
    found.network.record_attention()
    doubts = [doubt, _RANDOM_BLOCKS if recipe.weights == RANDOM else ""]
    notes = (*_notes(recipe, found), *found.notes, *filter(None, doubts))
    return CompressedNetwork(
        found.network,
        info,
        found.stage.trained,
        notes=notes,
        files={NETWORK_PLOT: draw_network(found.network.plain, recipe.image_size), **found.files},
        earlier_s=taught_s + learned.seconds + found.earlier_s,
    )


class _Taught(NamedTuple):
    network: Tailored
    seconds: float
    judged: Accuracy | None
    doubt: str = ""


def _teacher(recipe: NetTailor, stages: Stages, trunk: Mapping[str, Tensor]) -> _Taught:
    """The teacher's network, the seconds of its training here, its accuracy on the photos that decide, and a doubt.

    Raises UsageError where a bundle's network has learned from these.
    """
    dataset = stages.inputs.dataset
    if recipe.teacher:
        bundle = require_teacher(recipe.teacher, recipe)
        if stages.judged_by is not None:
            require_unseen_by(bundle, recipe, dataset)
        network = load_teacher(bundle, recipe, dataset.labels)
        run = stages.inputs.run
        require_same_teacher(bundle, run.checkpoints, resume=run.resume)
        return _Taught(network, 0.0, stages.judge(network), doubt_of(bundle, dataset))
    network = begin(whole_network(recipe.backbone, len(dataset.labels)), trunk, seed=recipe.seed)
    stage = stages.run("teacher", Tailoring(network), _slower(recipe.training, recipe.teacher_epochs))
    network.requires_grad_(False)
    return _Taught(network, stage.seconds, stage.judged)


def _slower(training: Training, epochs: int | None) -> Training:
    """A tenth of the student's learning rate, as in the paper."""
    return training.model_copy(update={"epochs": epochs, "learning_rate": training.learning_rate / 10})


def _notes(recipe: NetTailor, found: Found) -> tuple[str, ...]:
    spec, cost = found.network.plain, cost_of(found.network, recipe.image_size)
    proxies = sum(len(node.proxies) for node in spec.nodes)
    return (
        f"Tailored from {SOURCES[recipe.backbone].name}: {spec.blocks} of {len(spec.nodes)} blocks and {proxies} "
        f"proxies are left. {cost.shared_params:,} parameters are the source's, bit for bit, and "
        f"{cost.params - cost.shared_params:,} are the task's own, beside the batch statistics.",
    )


NETTAILOR: Method[NetTailor] = Method(_resolve, _spec_of, _freeze, _make, check=_check)
