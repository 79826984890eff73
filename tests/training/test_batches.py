import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as vision

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.errors import BadInput
from rrr_edge.training.batches import Batches, Examples, normalise


def numbered(count: int) -> Examples:
    """Image i is filled with i, and has label i."""
    labels = np.arange(count)
    return Examples(np.broadcast_to(labels[:, None, None, None], (count, 8, 8, 3)).astype(np.uint8), labels)


def epochs_of(batches: Batches, epochs: int) -> list[np.ndarray]:
    labels = [batch.labels.numpy() for batch in batches.run(0, epochs * batches.steps)]
    return [np.concatenate(labels[e * batches.steps : (e + 1) * batches.steps]) for e in range(epochs)]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(2, [2]), (31, [31]), (32, [32]), (33, [33]), (34, [32, 2]), (65, [32, 33]), (100, [32] * 3 + [4])],
)
def test_the_last_short_batch_is_kept_and_a_single_image_joins_the_one_before(count: int, sizes: list[int]) -> None:
    batches = Batches(numbered(count), seed=0, batch_size=32, augment=False)
    assert [len(batch.inputs) for batch in batches.run(0, batches.steps)] == sizes


def test_balanced_epochs_show_each_class_equally_often() -> None:
    """12, 6 and 2 images a class: of 20 places in an epoch each class has 6 or 7."""
    images, classes = numbered(20), np.repeat([0, 1, 2], [12, 6, 2])
    batches = Batches(images, seed=3, batch_size=8, streams=range(2), augment=False, balance=True)
    own = replace(batches, examples=Examples(images.images, classes))
    for epoch in epochs_of(own, 4):
        for stream in epoch.T:
            assert sorted(np.bincount(stream).tolist()) == [6, 7, 7]
    seen = [batch.inputs[:, 0, 0, 0, 0].numpy() for batch in own.run(0, 8 * own.steps)]
    counts = np.bincount(np.concatenate(seen), minlength=20)
    assert counts.min() > 0
    assert counts[18:].min() > 2 * counts[:12].max()
    assert [b.labels.tolist() for b in own.run(4, 6)] == [b.labels.tolist() for b in list(own.run(0, 6))[4:]]


def test_every_stream_sees_every_image_once_an_epoch_in_an_order_of_its_own() -> None:
    batches = Batches(numbered(50), seed=3, batch_size=8, streams=range(4), augment=False)
    orders = [order for epoch in epochs_of(batches, 3) for order in epoch.T]
    assert len(orders) == 12
    assert all(np.array_equal(np.sort(order), np.arange(50)) for order in orders)
    assert len({order.tobytes() for order in orders}) == 12


def test_images_and_labels_stay_together() -> None:
    batches = Batches(numbered(50), seed=3, batch_size=8, streams=range(2), augment=False)
    for images, labels in batches.run(0, batches.steps):
        assert images.shape[1:] == (2, 3, 8, 8)
        assert torch.equal(images[:, :, 0, 0, 0].long(), labels)


def test_channels_keep_their_places(examples: Examples) -> None:
    batches = Batches(examples, seed=0, batch_size=22, augment=False)
    (batch,) = batches.run(0, 1)
    shown = {image.permute(1, 2, 0).numpy().tobytes() for image in batch.inputs[:, 0]}
    assert shown == {image.tobytes() for image in examples.images}


def test_photos_on_the_disk_are_read_batch_by_batch(tmp_path: Path) -> None:
    shape = 64, 64, 64, 3
    on_disk = Examples(np.memmap(tmp_path / "photos", np.uint8, "w+", shape=shape), np.zeros(64, np.int64))
    batches = Batches(on_disk, seed=0, batch_size=2, augment=False)
    tracemalloc.start()
    next(batches.run(0, 1))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < on_disk.images.nbytes / 2


@pytest.mark.parametrize("start", [1, 4, 7])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_step_is_the_same_wherever_the_run_began_and_whoever_prepared_it(
    examples: Examples, start: int, workers: int
) -> None:
    whole = list(Batches(examples, seed=5, batch_size=8, streams=range(2)).run(0, 9))
    part = list(Batches(examples, seed=5, batch_size=8, streams=range(2), workers=workers).run(start, 9))
    assert len(part) == 9 - start
    for expected, found in zip(whole[start:], part, strict=True):
        assert torch.equal(expected.inputs, found.inputs)
        assert torch.equal(expected.labels, found.labels)


def test_seed_purpose_and_stream_all_change_what_is_seen(examples: Examples) -> None:
    seen = [
        next(iter(Batches(examples, seed=seed, batch_size=8, role=role).run(0, 1)))
        for seed in (0, 1)
        for role in ("train", "stump")
    ]
    assert len({batch.inputs.numpy().tobytes() for batch in seen}) == 4


def test_a_run_that_is_left_early_leaves_no_thread(examples: Examples) -> None:
    import threading

    before = threading.active_count()
    run = Batches(examples, seed=0, batch_size=2).run(0, 1000)
    next(run)
    assert threading.active_count() > before
    run.close()
    assert threading.active_count() == before


def test_normalise_is_torchvisions(preprocess: Preprocess) -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = vision.normalize(images.double() / 255, list(preprocess.mean), list(preprocess.std))
    # Four roundings of 2^-24, each of a number below 1 / 0.225 = 4.5.
    torch.testing.assert_close(normalise(images, preprocess).double(), expected, rtol=0, atol=4 * 4.5 * 2**-24)


def test_what_cannot_be_trained_on_is_refused() -> None:
    with pytest.raises(BadInput, match="at least 2 images"):
        Batches(numbered(1), seed=0, batch_size=8)
    with pytest.raises(BadInput, match="uint8"):
        Examples(np.zeros((2, 8, 8, 3), dtype=np.float32), np.zeros(2, dtype=np.int64))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="2 images have labels"):
        Examples(np.zeros((2, 8, 8, 3), dtype=np.uint8), np.zeros(3, dtype=np.int64))
