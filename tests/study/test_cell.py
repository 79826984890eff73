"""Real cells, as small as they get: a bundle, its engine, its record, and times of engines in turns."""

from pathlib import Path

import pytest
from fake_bundle import write_bundle
from small_bundle import write_shapes

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.manifest import Ancestor
from rrr_edge.bundle.recipe import RRR, Training
from rrr_edge.bundle.target import Target
from rrr_edge.images.layouts import find_layout
from rrr_edge.study.cell import _spent, run_cell
from rrr_edge.study.folder import BEGUN, StudyFolder
from rrr_edge.study.plan import Method, Plan, find_data
from rrr_edge.study.splits import write_nested_split
from rrr_edge.study.timings import groups_to_time, time_group


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, StudyFolder]:
    folder = tmp_path_factory.mktemp("study")
    training = Training(epochs=1, batch_size=12, augment=False, validation_share=0)
    recipe = RRR(weights="random", image_size=32, branches=2, training=training)
    plan = Plan(
        data=find_data([write_shapes(folder / "shapes", train=5, test=4)]),
        methods=(Method(name="rrr", recipes=(recipe,)),),
        seeds=(0,),
        target=Target.load("onnxruntime"),
        limits=Limits(max_drop=1),
        runs=20,
        pick=True,
    )
    study = StudyFolder(folder / "study")
    study.write_plan(plan)
    for cell in plan.cells:
        run_cell(cell, study)
    return plan, study


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_cell_leaves_a_bundle_and_a_record_of_it(made: tuple[Plan, StudyFolder]) -> None:
    plan, study = made
    cell, validation = plan.cells
    record, bundle = study.record(cell), Bundle.open(study.bundle(cell))
    assert record
    assert record.accuracy == bundle.manifest.accuracy
    assert (record.cost, record.classes, record.images) == (bundle.manifest.cost, 3, {"train": 15, "test": 12})
    assert record.engine
    assert record.engine.accuracy == bundle.engine(Target.load("onnxruntime")).verification.accuracy
    assert [point.epoch for point in record.curve] == [1]
    assert record.finishes(cell)
    assert record.own_s == record.train_s == bundle.manifest.provenance.duration_s
    assert not record.finishes(validation)
    held_out = study.record(validation)
    assert held_out
    assert held_out.images == {"train": 12, "test": 3}
    assert held_out.engine is None
    assert not study.bundle(validation).exists()
    assert study.occupant(cell) == cell
    assert (study.place(cell) / BEGUN).is_file()


@pytest.mark.slow
def test_engines_are_timed_once_for_as_many_rounds_as_are_asked(made: tuple[Plan, StudyFolder]) -> None:
    plan, study = made
    (group,) = groups_to_time(plan, study)
    timing = time_group(group, study)
    assert [len(engine.samples_ms) for engine in timing.engines] == [len(timing.loads)]
    assert len(timing.loads) >= 20
    assert timing.measurements["rrr"].summary.median_ms > 0
    assert groups_to_time(plan, study) == []
    assert len(groups_to_time(plan.model_copy(update={"runs": 30}), study)) == 1


def test_the_steps_that_another_cell_made_are_not_counted_again(tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path / "made.rrr").manifest
    last = manifest.provenance.model_copy(update={"duration_s": 4.0})
    common = {"recipe": manifest.recipe, "weights_sha256": "", "data_sha256": "", "params": 1, "accuracy": None}
    earlier = tuple(Ancestor.model_validate({"name": "a.rrr", "duration_s": s, **common}) for s in (1.0, 2.0))
    chain = manifest.model_copy(update={"provenance": last, "chain": earlier})
    assert [_spent(chain, own) for own in (1, 2, 3)] == [(7, 4), (7, 6), (7, 7)]


def test_labels_with_slashes_stay_apart(tmp_path: Path) -> None:
    data = tmp_path / "album"
    (data / "images").mkdir(parents=True)
    rows = [(f"{place}.png", ("a/b", "a_b")[place % 2]) for place in range(40)]
    for name, _ in rows:
        (data / "images" / name).touch()
    (data / "labels.csv").write_text("FILE_NAME,CATEGORY\n" + "".join(f"{name},{label}\n" for name, label in rows))
    write_nested_split(data, tmp_path / "nested", seed=0)
    _, splits = find_layout(tmp_path / "nested")
    assert [len(files) for files in splits["train"].values()] == [8, 8]


def test_no_test_photo_is_among_those_that_a_choice_sees(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", train=10, test=3)
    write_nested_split(data, tmp_path / "nested", seed=0)
    layout, splits = find_layout(tmp_path / "nested")
    counts = {split: {label: len(files) for label, files in classes.items()} for split, classes in splits.items()}
    assert layout == "splits"
    assert counts == {
        "train": dict.fromkeys(counts["train"], 8),
        "test": dict.fromkeys(counts["train"], 2),
    }
    seen = [file.resolve() for file in (tmp_path / "nested").rglob("*.png")]
    assert len(set(seen)) == 30
    assert all(file.is_relative_to(data / "train") for file in seen)
    (data / "train").rename(tmp_path / "plain")
    for seed in (0, 1):  # the split for the test comes first, by the cell's own seed
        write_nested_split(tmp_path / "plain", tmp_path / f"of-plain-{seed}", seed=seed)
    first, second = ({f.resolve() for f in (tmp_path / f"of-plain-{seed}").rglob("*.png")} for seed in (0, 1))
    assert len(first) == len(second) == 24
    assert first != second
