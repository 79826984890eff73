from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from small_network import small_network, weights
from torch import Tensor

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Training
from rrr_edge.bundle.settings import read_recipe
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.timing.progress import Step
from rrr_edge.training import views as module
from rrr_edge.training.batches import Batches, Examples, normalise
from rrr_edge.training.loop import train
from rrr_edge.training.run import Run
from rrr_edge.training.views import make_views

VIEWS = Training(epochs=4, batch_size=8, ema_fraction=0.5, feature_views=3)


def numbered(examples: Examples) -> Examples:
    return Examples(examples.images, np.arange(len(examples)))


def kept(read: Callable[[Tensor], Tensor], examples: Examples, count: int, *, seed: int = 0) -> Tensor:
    batches = Batches(numbered(examples), seed, 8, role="views")
    return make_views(read, batches, count, dtype=torch.float32, on_progress=lambda step: None)


def pixels(images: Tensor) -> Tensor:
    """A stump that hands on what it sees."""
    return images[:, 0].float()


def test_each_view_is_another_augmentation_of_its_own_image(
    examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = iter(range(10**6))
    monkeypatch.setattr("rrr_edge.training.batches.augment", lambda image, rng: (image // 2) + next(marks) % 3)
    views = kept(pixels, examples, 5)
    assert views.shape == (5, 22, 32, 32, 3)
    added = views - torch.from_numpy(examples.images // 2)
    assert torch.equal(added, added[:, :, :1, :1, :1].expand_as(added))
    assert set(added.unique().tolist()) == {0, 1, 2}


def test_views_follow_from_the_seed(examples: Examples) -> None:
    views = kept(pixels, examples, 4)
    assert torch.equal(views, kept(pixels, examples, 4))
    assert torch.equal(views[:2], kept(pixels, examples, 2))
    assert not torch.equal(views, kept(pixels, examples, 4, seed=1))
    assert len({view.numpy().tobytes() for view in views}) == 4


@pytest.mark.parametrize("workers", [1, 3])
def test_branches_draw_views_of_their_own(examples: Examples, workers: int) -> None:
    """Each number of `views` tells its view, its image and its channel."""
    views = torch.arange(5 * 22 * 4, dtype=torch.float16).reshape(5, 22, 1, 1, 4)
    batches = Batches(numbered(examples), 3, 8, streams=range(2), views=views, workers=workers)
    seen = np.zeros((2, 5, 22), int)
    for inputs, labels in batches.run(0, 60 * batches.steps):
        assert inputs.is_contiguous(memory_format=torch.channels_last)
        values = inputs[:, :, 0, 0].reshape(-1, 2, 4).long()
        assert torch.equal(values % 4, torch.arange(4).expand_as(values))
        assert torch.equal(values[..., 0] // 4 % 22, labels)
        for stream in range(2):
            np.add.at(seen[stream], (values[:, stream, 0].numpy() // 88, labels[:, stream].numpy()), 1)
    assert (seen.sum(1) == 60).all()
    assert (seen > 0).all()
    assert not np.array_equal(*seen)


@pytest.mark.parametrize(("precision", "agrees"), [("bf16-mixed", 0.0), ("32-true", 2e-3)])
def test_a_training_on_views_reads_what_the_stump_says_of_them(
    examples: Examples, preprocess: Preprocess, precision: Literal["bf16-mixed", "32-true"], agrees: float
) -> None:
    """One view without augmentation is the image: the same in bfloat16, which loses nothing; float16 loses 2^-11."""
    training = Training(epochs=2, batch_size=8, augment=False, ema_fraction=0, learning_rate=1e-5)
    results = []
    for views in (0, 1):
        once = training.model_copy(update={"feature_views": views})
        run = Run(precision=precision)
        results.append(train(small_network(), examples, training=once, preprocess=preprocess, run=run))
    plain, viewed = ([row.loss for row in result.history] for result in results)
    assert viewed == pytest.approx(plain, rel=agrees, abs=0)


def test_the_stump_runs_for_the_views_only(
    examples: Examples, preprocess: Preprocess, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counted(images: Tensor, preprocess: Preprocess) -> Tensor:
        seen.append(len(images))
        return normalise(images, preprocess)

    monkeypatch.setattr("rrr_edge.training.branches.normalise", counted)
    train(small_network(), examples, training=VIEWS, preprocess=preprocess)
    assert sum(seen) == 3 * 22 + 1


def test_a_training_on_views_resumes_to_the_same_bits(
    examples: Examples, preprocess: Preprocess, tmp_path: Path
) -> None:
    straight, network = small_network(), small_network()
    train(straight, examples, training=VIEWS, preprocess=preprocess)

    class Crash(Exception):
        pass

    def crash(step: Step) -> None:
        if (step.stage, step.done) == ("train", 8):
            raise Crash

    with pytest.raises(Crash):
        train(
            network, examples, training=VIEWS, preprocess=preprocess, run=Run(checkpoints=tmp_path, on_progress=crash)
        )
    steps: list[Step] = []
    network = small_network()
    run = Run(checkpoints=tmp_path, resume=True, on_progress=steps.append)
    train(network, examples, training=VIEWS, preprocess=preprocess, run=run)
    assert [step.done for step in steps if step.stage == "train"] == list(range(7, 13))
    expected = weights(straight)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(network).items())


def test_memory_is_said_before_it_is_taken_and_bounded(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    view = 22 * 32 * 32 * 3 * 4
    monkeypatch.setattr(module, "memory_bytes", lambda: 2 * (4 * view + 1))
    seen: list[int] = []

    def counting(images: Tensor) -> Tensor:
        seen.append(len(images))
        return pixels(images)

    steps: list[Step] = []
    batches = Batches(numbered(examples), 0, 8, role="views")
    make_views(counting, batches, 4, dtype=torch.float32, on_progress=steps.append)
    assert steps[0].done == 0
    assert "0.0 GB" in steps[0].note
    assert [step.done for step in steps] == list(range(13))
    seen.clear()
    with pytest.raises(UsageError, match="5 views of 22 images") as error:
        make_views(counting, batches, 5, dtype=torch.float32, on_progress=steps.append)
    assert "--feature-views 4" in error.value.advice
    assert seen == [1]
    monkeypatch.setattr(module, "memory_bytes", lambda: view)
    with pytest.raises(UsageError) as error:
        make_views(counting, batches, 1, dtype=torch.float32, on_progress=steps.append)
    assert error.value.advice == "Use --feature-views 0."


def test_views_need_a_frozen_stump_and_augmentation(examples: Examples, preprocess: Preprocess) -> None:
    shared = VIEWS.model_copy(update={"shared_batches": True})
    with pytest.raises(UsageError, match="still trained"):
        train(small_network(frozen=False), examples, training=shared, preprocess=preprocess)
    with pytest.raises(UsageError, match="the same without augment"):
        read_recipe(None, feature_views=2, augment=False)
    with pytest.raises(BadInput):
        Training.parse({"feature_views": -1}, "it")
