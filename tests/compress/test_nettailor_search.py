"""NetTailor's pruning, its search for the number of blocks with made-up accuracies, and its stages on disk."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import NetTailor, TailorTraining
from rrr_edge.bundle.tailored import TailoredNode, TailoredSpec, whole_network, with_attention, with_proxies
from rrr_edge.bundle.verification import Accuracy
from rrr_edge.compress.method import Inputs
from rrr_edge.compress.nettailor.pruning import leaner, pruned
from rrr_edge.compress.nettailor.search import drop_as_many_as_go, drop_so_many
from rrr_edge.compress.stages import Stage, Stages
from rrr_edge.errors import CorruptArtifact, UsageError
from rrr_edge.networks import Tailored, build
from rrr_edge.training import Examples, Run, Trained

CLASSES = 3


def two_weak_blocks() -> TailoredSpec:
    """The third and the sixth block are the weakest, and have strong proxies beside them."""
    attention = dict.fromkeys(range(1, 9), (0.9, 0.1)) | {3: (0.2, 0.8), 6: (0.3, 0.7), 8: (0.96, 0.04)}
    return with_attention(with_proxies(whole_network("resnet18", CLASSES), 1), attention)


def a_shortcut() -> TailoredSpec:
    """Without the fourth block, node 4 reads node 1 alone, and blocks 2 and 3, the next weakest, lead nowhere."""
    spec = with_proxies(whole_network("resnet18", CLASSES), 3)
    weights: dict[int, tuple[float, ...]] = {
        own: (0.9, *[0.05] * (node.paths - 1)) for own, node in spec.existing.items()
    }
    weights |= {2: (0.3, 0.05, 0.05), 3: (0.4, 0.05, 0.05, 0.05), 4: (0.1, 0.8, 0.05, 0.05)}
    return with_attention(spec, weights)


def test_weak_proxies_and_the_weakest_blocks_go_and_what_nothing_leads_to() -> None:
    spec, recorded = with_proxies(whole_network("resnet18", CLASSES), 1), two_weak_blocks()
    left = pruned(recorded, threshold=0.1, drop_blocks=2)
    assert [(node.block, node.proxies) for node in left.nodes] == [
        (True, ()),
        (True, ()),
        (False, (2,)),
        (True, ()),
        (True, ()),
        (False, (5,)),
        (True, ()),
        (True, ()),
    ]
    assert pruned(recorded, threshold=0.0, drop_blocks=0).nodes == tuple(
        TailoredNode(proxies=node.proxies) for node in spec.nodes
    )
    with pytest.raises(UsageError, match="nothing leads through"):
        pruned(recorded, threshold=0.9, drop_blocks=1)
    with pytest.raises(UsageError, match="Without 9 of its 8 blocks"):
        pruned(recorded, threshold=0.0, drop_blocks=9)


# The search

SEARCH = NetTailor(backbone="resnet18", image_size=32, prune_proxies=0.1, within=0.1)


def on_no_device(spec: TailoredSpec) -> Tailored:
    with torch.device("meta"):
        return build(spec)


def stage_of(right: int) -> Stage:
    """A stage that had so many of 10 photos right."""
    judged = Accuracy(
        images=10, correct=right, accuracy=right / 10, interval=(0.0, 1.0), calibration_error=0.0, per_class={}
    )
    return Stage(history=(), precision="32", device="cpu", judged=judged)


@pytest.mark.parametrize(
    ("spec", "right", "tuned", "chosen"),
    [
        (two_weak_blocks(), (9, 8, 7), (0, 1, 2), 2),
        (two_weak_blocks(), (7, 6), (0, 1), 0),
        (two_weak_blocks(), (9, 8, 6), (0, 1, 2), 1),
        (two_weak_blocks(), (6,), (0,), 0),
        (a_shortcut(), (8, 7), (0, 3), 3),
    ],
)
def test_the_search_takes_the_leanest_before_the_first_that_is_too_bad(
    spec: TailoredSpec, right: tuple[int, ...], tuned: tuple[int, ...], chosen: int
) -> None:
    answers, seen, forgotten = iter(right), dict[str, Tailored](), list[str]()

    def tune(network: Tailored, name: str) -> Stage:
        seen[name] = network
        return stage_of(next(answers))

    stages: Any = SimpleNamespace(judged_by=range(10), forget=forgotten.append)
    with torch.device("meta"):
        # As 8 of 10 less a tenth: 0.7000000000000001.
        found = drop_as_many_as_go(SEARCH, on_no_device(spec), tune, stages, least=0.8 - SEARCH.within)
    names = [f"tune-without-{count:02}" for count in tuned]
    assert list(seen) == names
    assert found.network is seen[f"tune-without-{chosen:02}"]
    assert forgotten == names[: tuned.index(chosen)]
    assert found.network.spec.blocks == 8 - chosen
    rows = list(csv.DictReader(found.files["tailoring.csv"].splitlines()))
    assert [(int(row["dropped"]), int(row["blocks"])) for row in rows] == [(count, 8 - count) for count in tuned]
    assert [row["within"] == "True" for row in rows] == [count >= 7 for count in right]
    assert f"{chosen} block" in found.notes[0]
    assert any("No network was as accurate" in note for note in found.notes) == (right[0] < 7)
    assert not any("is less than one" in note for note in found.notes)


def test_less_than_one_photo_to_lose_is_told() -> None:
    stages: Any = SimpleNamespace(judged_by=range(10), forget=list[str]().append)
    recipe = SEARCH.model_copy(update={"within": 0.09})
    with torch.device("meta"):
        found = drop_as_many_as_go(recipe, on_no_device(a_shortcut()), lambda *_: stage_of(5), stages, least=0.7)
    (said,) = (note for note in found.notes if "Of 10 photos 9.00% is less than one" in note)
    assert "a larger --within" in said


def test_a_number_of_blocks_is_dropped_as_far_as_a_way_is_left() -> None:
    assert [spec.blocks for spec in leaner(two_weak_blocks(), threshold=0.1, most=8)] == [8, 7, 6]
    for spec, count, dropped in ((two_weak_blocks(), 2, 2), (two_weak_blocks(), 8, 2), (a_shortcut(), 1, 3)):
        with torch.device("meta"):
            found = drop_so_many(SEARCH, on_no_device(spec), lambda *_: stage_of(5), count)
        assert found.network.spec.blocks == 8 - dropped
        assert [note.partition(":")[0] for note in found.notes] == (
            [] if dropped == count else [f"{dropped} blocks dropped instead of {count}"]
        )


def test_only_forgotten_weights_may_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def minimise(objective: Any, *_: object, **__: object) -> Trained:
        torch.nn.init.ones_(objective.network.weight)
        return Trained((), "32", "cpu")

    monkeypatch.setattr("rrr_edge.compress.stages.minimise", minimise)
    examples = Examples(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int64))
    dataset: Any = None
    run = Run(checkpoints=tmp_path, resume=True)
    stages = Stages(Inputs(dataset, examples, Preprocess(image_size=32), run), 0, None)

    def weight() -> float:
        objective: Any = SimpleNamespace(network=torch.nn.Linear(1, 1))
        torch.nn.init.zeros_(objective.network.weight)
        stages.run("tune", objective, TailorTraining())
        return float(objective.network.weight.item())

    assert weight() == 1
    monkeypatch.setattr("rrr_edge.compress.stages.minimise", None)
    assert weight() == 1
    kept = tmp_path / "tune" / "weights.safetensors"
    saved = kept.rename(tmp_path / "away")
    with pytest.raises(CorruptArtifact, match="kept for going on"):
        weight()
    saved.rename(kept)
    stages.forget("tune")
    assert not kept.exists()
    assert weight() == 0
