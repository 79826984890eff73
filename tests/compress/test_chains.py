"""Chains of methods: what follows from the bundle that is begun with, what is kept of it, what makes no sense."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save
from small_bundle import copy_bundle, link_bundle

from rrr_edge import Bundle
from rrr_edge.backends.graph.lowering import lower
from rrr_edge.backends.graph.pairs import pairs_in
from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.onnxruntime import run_model
from rrr_edge.bundle.cost import cost
from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import MANIFEST, WEIGHTS
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import BasisScaling, BasisTraining, Channel, Element, NetTailor, Training
from rrr_edge.bundle.reference_network import NetworkBeside, ReferenceNetwork, RunnableNetwork, images_sha256
from rrr_edge.bundle.settings import read_recipe
from rrr_edge.bundle.spec import ChannelSpec, FactoredSpec, PhaseWidths
from rrr_edge.bundle.target import Lowering, Target
from rrr_edge.compile import compile_bundle
from rrr_edge.compile.pairs import PairTimes, time_pairs
from rrr_edge.compile.request import BuildRequest
from rrr_edge.compile.sense import require_sense
from rrr_edge.compress import Run, compress, measure_own, plan
from rrr_edge.compress.basis import BASIS_SCALING
from rrr_edge.compress.chain import inherit, lineage
from rrr_edge.compress.method import Inputs, cost_of
from rrr_edge.compress.prune import CHANNEL, ELEMENT
from rrr_edge.compress.validation import going_on_from, may_have_seen
from rrr_edge.compress.workdir import Task, Workdir
from rrr_edge.errors import UsageError
from rrr_edge.images.dataset import scan
from rrr_edge.images.held_out import held_out_of
from rrr_edge.images.layouts import HeldOut
from rrr_edge.networks import build
from rrr_edge.report.reproduce import recipe_toml
from rrr_edge.timing.machine import BackgroundLoad
from rrr_edge.timing.progress import silent
from rrr_edge.training import Examples
from rrr_edge.training import Run as TrainingRun

TRAINING = BasisTraining(epochs=1, batch_size=12, learning_rate=0.01, augment=False, validation_share=0)
NARROW = ChannelSpec(
    stem=8, phases=tuple(PhaseWidths(outputs=w, blocks=((w, w),)) for w in (8, 12, 16, 20)), num_classes=3
)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


def with_network(parent: Bundle, folder: Path, spec: Any, **manifest: Any) -> Bundle:
    """`parent` with a small network of `spec` in it, which its other files know nothing of."""
    bundle = copy_bundle(parent, folder)
    torch.manual_seed(0)
    network = build(spec)
    (folder / WEIGHTS).write_bytes(save(network.state_dict()))
    files = [describe_file(folder / file.name) for file in bundle.manifest.files]
    changed = bundle.manifest.model_copy(
        update={"spec": spec, "files": tuple(files), "cost": cost(spec, 32)} | manifest
    )
    (folder / MANIFEST).write_text(changed.to_json())
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def narrow(shared_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_network(shared_bundle, tmp_path_factory.mktemp("narrow") / "narrow.rrr", NARROW)


@pytest.fixture(scope="module")
def scaled(shared_bundle: Bundle, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """RRR-Net's bundle, its branches decomposed and pruned."""
    recipe = BasisScaling(start=str(shared_bundle.path), sparsity=0.5, prune_share=0.5, training=TRAINING)
    return compress(shapes, tmp_path_factory.mktemp("scaled") / "scaled.rrr", recipe=recipe, run=Run(device="cpu"))


def test_a_chain_of_three_rrr_basis_int8(shared_bundle: Bundle, scaled: Bundle) -> None:
    first, manifest = shared_bundle.manifest, scaled.manifest
    assert isinstance(manifest.spec, FactoredSpec)
    assert manifest.spec.base == first.spec
    assert 0.5 <= 1 - manifest.cost.params / first.cost.params < 0.501
    inherited = ("backbone", "weights", "image_size", "fit")
    assert [getattr(manifest.recipe, name) for name in inherited] == [getattr(first.recipe, name) for name in inherited]
    # Which pairs are left is for small differences of gradients to say, which machines compute in different ways.
    branched = {name: rank for name, rank in manifest.spec.ranks.items() if name.startswith(("layer3", "layer4"))}
    assert branched
    weights = load_file(scaled.weights)
    assert {name: len(weights[f"{name}.basis.weight"]) for name in branched} == {n: 2 * r for n, r in branched.items()}
    assert compile_bundle(scaled, "openvino", precision="int8").verification.passed
    assert manifest.parent == "shapes.rrr"
    (ancestor,) = manifest.chain
    assert ancestor.recipe == first.recipe
    assert ancestor.weights_sha256 == manifest.provenance.weights_sha256
    assert any("were held out" in note for note in manifest.provenance.notes) is False
    assert not any("other photos" in note for note in manifest.provenance.notes)


@pytest.mark.parametrize("lowering", ["product", "mixed"])
def test_pairs_written_as_one_answer_the_same(lowering: Lowering, scaled: Bundle, tmp_path: Path) -> None:
    graph = Graph.load(scaled.model)
    pairs = pairs_in(graph)
    assert set(pairs) == set(scaled.manifest.spec.ranks)  # type: ignore[union-attr]
    chosen = list(pairs)[::2]
    assert any(graph.convolution(pairs[name][1]).groups > 1 for name in chosen)  # type: ignore[union-attr]
    lower(scaled.model, lowering, tmp_path / "lowered.onnx", chosen)
    found = pairs_in(Graph.load(tmp_path / "lowered.onnx"))
    assert set(found) == (set() if lowering == "product" else set(pairs) - set(chosen))
    images = scaled.reference.images
    ours, theirs = (run_model(path, images) for path in (tmp_path / "lowered.onnx", scaled.model))
    np.testing.assert_allclose(ours.branch_probabilities, theirs.branch_probabilities, atol=1e-5)


def test_auto_clocks_each_pair_and_may_write_some_as_one(
    scaled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = link_bundle(scaled, tmp_path)
    first = next(iter(scaled.manifest.spec.ranks))  # type: ignore[union-attr]

    def clocked(order: BuildRequest, pairs: Path, products: Path) -> PairTimes:
        times, _ = time_pairs(order, pairs, products)
        assert {time.name for time in times} == set(scaled.manifest.spec.ranks)  # type: ignore[union-attr]
        assert all(time.pair_ms > 0 and time.product_ms > 0 for time in times)
        found = (time.model_copy(update={"product_ms": 0.0 if time.name == first else 99.0}) for time in times)
        return PairTimes(tuple(found), "Others ran.")

    monkeypatch.setattr(BackgroundLoad, "share", 0.0)
    monkeypatch.setattr("rrr_edge.compile.pairs.RUNS", 2)
    monkeypatch.setattr("rrr_edge.compile.build.time_pairs", clocked)
    monkeypatch.setattr("rrr_edge.compile.build.race", lambda folders, *_, **__: (list(folders)[-1], (), ()))
    engine = compile_bundle(bundle, Target(name="mine", backend="openvino", lowering="auto"))
    assert (engine.lowering, engine.products) == ("mixed", (first,))
    assert "Others ran." in engine.notes
    assert engine.verification.passed
    graph = (bundle.engine_folder(engine.name) / "model.xml").read_text()
    assert f"/{first}/" in graph
    assert f"/{first}.basis/" not in graph
    others = [time.name for time in engine.pair_times if time.name != first]
    assert all(f"/{name}.basis/" in graph for name in others)
    with pytest.raises(UsageError, match="has no pairs of convolutions that could be written as one"):
        require_sense(bundle_without_pairs(bundle), Target(name="mine", backend="openvino", lowering="product"))
    with pytest.raises(ValidationError, match="found by lowering = auto"):
        Target(name="mine", backend="openvino", lowering="mixed")


def bundle_without_pairs(bundle: Bundle) -> Bundle:
    base = bundle.manifest.spec.base  # type: ignore[union-attr]
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"spec": base}))


def test_the_recipe_names_the_bundle_as_from_in_files_and_options(scaled: Bundle, tmp_path: Path) -> None:
    text = recipe_toml(scaled.manifest.recipe)
    assert 'from = "shapes.rrr"' in text
    (tmp_path / "recipe.toml").write_text(text)
    assert read_recipe(tmp_path / "recipe.toml").start == "shapes.rrr"  # type: ignore[union-attr]
    assert read_recipe(tmp_path / "recipe.toml", start="b.rrr").start == "b.rrr"  # type: ignore[union-attr]
    assert json.loads(scaled.manifest.to_json())["recipe"]["from"] == scaled.manifest.recipe.start  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="^The method rrr has no --from"):
        read_recipe(None, method="rrr", start="b.rrr")


def inputs_of(photos: Path) -> Inputs:
    dataset = scan(photos, Preprocess(image_size=32), seed=0, held_out=HeldOut(0.2))
    examples = Examples(dataset.train.images, dataset.train.labels)
    return Inputs(dataset, examples, Preprocess(image_size=32), TrainingRun(device="cpu"))


def test_channels_and_elements_go_on_from_a_bundle(narrow: Bundle, scaled: Bundle, shapes: Path) -> None:
    training = Training(epochs=1, batch_size=36, augment=False)
    slim = Channel(start=str(narrow.path), sparsity=0.5, criterion="magnitude", training=training)
    made = CHANNEL.make(inherit(slim), inputs_of(shapes))
    assert isinstance(made.network.spec, ChannelSpec)
    assert cost_of(made.network, 32).params == pytest.approx(narrow.manifest.cost.params / 2, rel=0.1)
    assert "of narrow.rrr's parameters are gone" in made.notes[0]
    zeros = inherit(Element(start=str(scaled.path), sparsity=0.3, training=training))
    last = ELEMENT.make(zeros, inputs_of(shapes)).network
    assert last.spec == scaled.manifest.spec
    held = sum(int((tensor == 0).sum()) for name, tensor in last.named_parameters() if name.endswith(".weight"))
    assert held >= 0.29 * scaled.manifest.cost.params
    assert [ancestor.name for ancestor in lineage(scaled)] == ["shapes.rrr", "scaled.rrr"]
    pruned = with_network(narrow, scaled.path.with_name("zeros.rrr"), NARROW, recipe=zeros)
    with pytest.raises(UsageError, match="weights at zero, which would not stay zero"):
        inherit(Channel(start=str(pruned.path)))


def test_a_chain_that_makes_no_sense_is_refused(scaled: Bundle, shared_bundle: Bundle, tmp_path: Path) -> None:
    start = str(shared_bundle.path)
    with pytest.raises(UsageError, match="holds pairs of convolutions already"):
        BASIS_SCALING.resolve(BasisScaling(start=str(scaled.path)))
    with pytest.raises(UsageError, match="in one piece, and .* holds another"):
        CHANNEL.spec(CHANNEL.resolve(Channel(start=start)), 3)
    with pytest.raises(UsageError, match="was made with --image-size 32, not 64"):
        inherit(BasisScaling(start=start, image_size=64))
    with pytest.raises(UsageError, match="A sparsity of 99.9% is out of reach"):
        BASIS_SCALING.spec(BASIS_SCALING.resolve(BasisScaling(start=start, sparsity=0.999)), 3)
    basic = NetTailor(backbone="resnet18", image_size=32)
    other = with_network(shared_bundle, tmp_path / "b.rrr", NARROW, recipe=basic)
    with pytest.raises(UsageError, match="from resnet18, with which the method element does not begin"):
        inherit(Element(start=str(other.path)))


def test_a_chain_holds_out_what_its_beginning_has_not_seen(narrow: Bundle, shapes: Path) -> None:
    """Of 12 photos of a class 0.25 are 3, 0.1 is 1."""
    dataset = scan(shapes, Preprocess(image_size=32), seed=0, held_out=HeldOut(0.25))
    manifest = narrow.manifest
    watched = manifest.recipe.model_copy(update={"training": Training(validation_share=0.25)})
    provenance = manifest.provenance.model_copy(update={"data_sha256": dataset.digest})
    start = SimpleNamespace(manifest=manifest.model_copy(update={"recipe": watched, "provenance": provenance}))
    recipe = going_on_from(start, BasisScaling())
    assert held_out_of(recipe).share == 0.25
    assert not may_have_seen(start, recipe, dataset)
    other = BasisScaling(seed=1)
    assert may_have_seen(start, going_on_from(start, other), dataset)
    more = BasisScaling(training=BasisTraining(validation_share=0.5))
    assert going_on_from(start, more) == more
    assert may_have_seen(start, more, dataset)
    assert not may_have_seen(start, other, replace(dataset, held_out=False))


def test_photos_must_be_of_the_same_classes_and_others_are_said(narrow: Bundle, shapes: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(shapes, photos)
    (photos / "train" / "cross" / "0.png").unlink()
    recipe = inherit(BasisScaling(start=str(narrow.path), prune_share=0.9, training=TRAINING, sparsity=0.3))
    notes = " ".join(BASIS_SCALING.make(recipe, inputs_of(photos)).notes)
    assert "narrow.rrr has learned from other photos, or another split of them" in notes
    assert "that were held out are among those that narrow.rrr has learned from" in notes
    for split in ("train", "test"):
        (photos / split / "cross").rename(photos / split / "disc")
    with pytest.raises(UsageError, match="other classes than the photos: they differ in cross, disc"):
        plan(photos, tmp_path / "other.rrr", recipe=recipe, run=Run(device="cpu"))


def test_the_seed_is_the_bundles_so_that_its_test_photos_are_new_to_it(
    narrow: Bundle, shapes: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(shapes / "train", photos)  # CLASS/*, to be divided here
    preprocess, run = narrow.manifest.preprocess, Run(device="cpu")
    theirs = scan(photos, preprocess, seed=3)
    origin = narrow.manifest.provenance.model_copy(update={"data_sha256": theirs.digest})
    recipe = narrow.manifest.recipe.model_copy(update={"seed": 3})
    start = with_network(narrow, tmp_path / "start.rrr", NARROW, recipe=recipe, provenance=origin)
    scales = BasisScaling(start=str(start.path), sparsity=0.5, training=TRAINING)
    assert plan(photos, tmp_path / "b.rrr", recipe=scales, run=run).recipe.seed == 3
    for seed, advice in ((4, "Leave --seed out: the bundle's is 3"), (3, "Give the photos that it was made from")):
        own = BasisScaling(start=str(start.path), sparsity=0.5, training=TRAINING, seed=seed)
        with pytest.raises(UsageError, match="it may have learned from photos that would be drawn to test") as refused:
            plan(photos, tmp_path / "b.rrr", recipe=own, run=run)
        assert refused.value.advice.startswith(advice)
        (photos / "cross" / "0.png").unlink(missing_ok=True)
    # Photos that are divided already are the same for every seed.
    divided = BasisScaling(start=str(narrow.path), sparsity=0.5, training=TRAINING, seed=4)
    assert plan(shapes, tmp_path / "b.rrr", recipe=divided, run=run).recipe.seed == 4


def test_the_network_to_compare_with_is_kept_with_the_same_test_photos(
    shared_bundle: Bundle, shapes: Path, tmp_path: Path
) -> None:
    start = copy_bundle(shared_bundle, tmp_path / "start.rrr")
    manifest, labels = start.manifest, start.reference.labels
    about = NetworkBeside(
        name="own.pth",
        network="ResNet18",
        source="weights",
        sha256="0" * 64,
        params=1,
        macs=1,
        preprocess=manifest.preprocess,
    )
    own = RunnableNetwork(about, lambda images, _: np.eye(3)[labels], {})
    probabilities = np.eye(3, dtype=np.float32)[labels]
    found = ReferenceNetwork.judged(own, probabilities, labels, names=manifest.labels, images=images_sha256(manifest))
    recipe, run = inherit(BasisScaling(start=str(start.path))), Run(device="cpu")
    same = scan(shapes, manifest.preprocess)
    assert measure_own(recipe, same, run=run, on_progress=silent) is None
    start.reference_network.write_text(found.to_json())
    assert measure_own(recipe, same, run=run, on_progress=silent) == found
    shutil.copytree(shapes, tmp_path / "photos")
    (tmp_path / "photos" / "test" / "cross" / "0.png").unlink()
    assert measure_own(recipe, scan(tmp_path / "photos", manifest.preprocess), run=run, on_progress=silent) is None


def test_other_weights_to_begin_with_are_another_task(scaled: Bundle, tmp_path: Path) -> None:
    task = Task.of(scaled.manifest)
    assert task.start_sha256 == scaled.manifest.provenance.weights_sha256
    workdir = Workdir(tmp_path / "out.rrr", resume=True)
    workdir.work.mkdir()
    (workdir.work / "task.json").write_text(task.model_copy(update={"start_sha256": "0" * 64}).to_json())
    with pytest.raises(UsageError, match="had other weights to begin with"):
        workdir.require_task(task)


def test_a_task_is_the_same_by_whichever_path_it_names_a_bundle(
    scaled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.rrr").mkdir()
    for one, other in (
        (BasisScaling(start="a.rrr"), BasisScaling(start=str(tmp_path / "a.rrr"))),
        (NetTailor(teacher="teacher.rrr"), NetTailor(teacher=str(tmp_path / "teacher.rrr"))),
    ):
        assert Task(recipe=one, data_sha256="0") == Task(recipe=other, data_sha256="0")
    assert (
        Task(recipe=NetTailor(teacher="teacher.rrr"), data_sha256="0").differs(
            Task(recipe=NetTailor(), data_sha256="0")
        )
        == "settings"
    )
