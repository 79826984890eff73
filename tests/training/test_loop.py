import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_network import CLASSES, small_network, weights
from torch import Tensor
from torch.nn import functional as F

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Training
from rrr_edge.errors import BadInput, CannotRunHere, CorruptArtifact, GateFailed, Interrupted, UsageError
from rrr_edge.networks import Network, build
from rrr_edge.timing.progress import Step
from rrr_edge.training.batches import Batches, Examples, normalise
from rrr_edge.training.branches import features_of, folded_stump, reestimate_stump
from rrr_edge.training.checkpoint import CHECKPOINT
from rrr_edge.training.evaluate import predict
from rrr_edge.training.loop import train
from rrr_edge.training.run import Run, Trained, without_overruns
from rrr_edge.training.state import ema_decay, ema_epochs

FP32 = Run(precision="32-true")
SHORT = Training(epochs=2, batch_size=8, ema_fraction=0)


@pytest.fixture
def fit(examples: Examples, preprocess: Preprocess) -> Callable[..., Trained]:
    def fit(network: Network, training: Training, run: Run = FP32, *, examples: Examples = examples) -> Trained:
        return train(network, examples, training=training, preprocess=preprocess, seed=7, run=run)

    return fit


Fit = Callable[..., Trained]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def in_branches(name: str) -> bool:
    return name.startswith(("layer3", "layer4", "fc"))


def branch_of(tensors: dict[str, Tensor], branch: int, *, branches: int) -> dict[str, Tensor]:
    """Rows i*C .. (i+1)*C of all that the branches own."""
    return {
        name: tensor.chunk(branches)[branch]
        for name, tensor in tensors.items()
        if in_branches(name) and tensor.dim() > 0
    }


def alone(network: Network, branch: int) -> Network:
    """One branch on the stump, as a network of its own."""
    spec = network.spec.model_copy(update={"branches": 1})
    single = build(spec)
    tensors = weights(network)
    single.load_state_dict({**tensors, **branch_of(tensors, branch, branches=network.spec.branches)})
    single.freeze_stump()
    return single


# The naive ensemble


@pytest.mark.parametrize("shared", [False, True])
def test_the_fused_training_is_one_adamw_a_branch(
    fit: Fit, examples: Examples, preprocess: Preprocess, shared: bool
) -> None:
    network = small_network(branches=2).double()
    singles = [alone(network, branch).double() for branch in (0, 1)]
    training = replace_training(epochs=1, shared_batches=shared)
    fit(network, training)
    batches = Batches(examples, 7, 8, streams=range(1 if shared else 2))
    for branch, single in enumerate(singles):
        optimizer = torch.optim.AdamW(
            [p for p in single.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.01, fused=False
        )
        single.train()
        for images, labels in batches.run(0, batches.steps):
            stream = 0 if shared else branch
            logits = single(normalise(images[:, stream], preprocess).double())[:, 0]
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[:, stream]).backward()
            optimizer.step()
        found = branch_of(weights(network), branch, branches=2)
        expected = branch_of(weights(single), 0, branches=1)
        for name, tensor in expected.items():
            # As in test_share: AdamW turns a gradient's error, 1e-12 in float64, into at most 1e-7 in each of 3 steps.
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=3e-7)


def test_sgd_with_momentum_follows_its_formula_in_steps_of_the_rate(fit: Fit) -> None:
    network = small_network(frozen=False).double()
    raw = [weights(network)]
    gradients: list[dict[str, Tensor]] = []

    def watch(step: Step) -> None:
        raw.append(weights(network))
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})

    sgd = {"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 0.1, "schedule": {"shape": "step"}}
    fit(network, replace_training(epochs=2, shared_batches=True, **sgd), replace(FP32, on_progress=watch))
    velocity: dict[str, Tensor] = {}
    # Six steps: a tenth of the rate from step 0.4 * 6 on, a hundredth from 0.8 * 6.
    for step, rate in enumerate([0.01, 0.01, 0.01, 0.001, 0.001, 0.0001]):
        for name, gradient in gradients[step].items():
            before = raw[step][name]
            decayed = gradient + 0.1 * before
            velocity[name] = decayed + 0.9 * velocity[name] if name in velocity else decayed
            expected = before - rate * velocity[name]
            torch.testing.assert_close(raw[step + 1][name], expected, rtol=1e-12, atol=1e-12)


def test_each_branch_may_read_its_own_images(preprocess: Preprocess) -> None:
    network = small_network(branches=3).double().eval()
    images = torch.randint(0, 256, (4, 3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network.branches(features_of(lambda pixels: network.stump(pixels.double()), images, preprocess))
        for branch in range(3):
            expected = network(normalise(images[:, branch], preprocess).double())[:, branch]
            torch.testing.assert_close(logits[:, branch], expected, rtol=1e-9, atol=1e-9)


def test_folding_changes_the_stump_by_roundings_and_the_network_not_at_all() -> None:
    network = small_network(frozen=False).double()
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for _ in range(3):
        network.stump(images * 2 + 1)
    network.freeze_stump()
    before = weights(network)
    with torch.no_grad():
        expected, found = network.eval().stump(images), folded_stump(network)(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * expected.abs().max().item())
    assert equal(weights(network), before)


def test_the_stump_stays_bit_for_bit_and_no_branch_feels_another(fit: Fit) -> None:
    network, other = small_network(branches=2), small_network(branches=2)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if in_branches(name):
                parameter.chunk(2)[1].mul_(0.5)
    before = weights(network)
    fit(network, replace_training(epochs=1))
    fit(other, replace_training(epochs=1))
    after, other_after = weights(network), weights(other)
    assert equal(*({n: t for n, t in w.items() if not in_branches(n)} for w in (before, after)))
    assert equal(branch_of(after, 0, branches=2), branch_of(other_after, 0, branches=2))
    for name, tensor in branch_of(after, 1, branches=2).items():
        assert not torch.equal(tensor, branch_of(other_after, 1, branches=2)[name]), name
        assert not torch.equal(tensor, branch_of(before, 1, branches=2)[name]), name


def replace_training(**changes: object) -> Training:
    return Training.model_validate(SHORT.model_dump() | changes)


def test_a_network_without_a_frozen_stump_is_trained_whole_and_learns(fit: Fit, preprocess: Preprocess) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(24) % CLASSES
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])[labels]
    noisy = np.clip(colours[:, None, None] + rng.normal(0, 20, (24, 32, 32, 3)), 0, 255).astype(np.uint8)
    network = small_network(frozen=False)
    before = weights(network)
    trained = fit(
        network,
        Training(epochs=8, batch_size=8, shared_batches=True, augment=False, ema_fraction=0.25),
        examples=Examples(noisy, labels),
    )
    changed = {name for name, tensor in weights(network).items() if not torch.equal(tensor, before[name])}
    assert changed == before.keys()
    assert trained.history[-1].loss < trained.history[0].loss / 2
    assert np.array_equal(predict(network, noisy, preprocess=preprocess).probabilities.argmax(1), labels)


def test_branches_with_their_own_batches_need_a_frozen_stump(fit: Fit) -> None:
    with pytest.raises(UsageError, match="2 branches") as error:
        fit(small_network(frozen=False), SHORT)
    assert "shared_batches" in error.value.advice


# The average


def test_the_decay_warms_up_for_529_of_the_papers_780_updates() -> None:
    assert ema_epochs(Training()) == 60
    decays = [ema_decay(t, 60) for t in range(1, 781)]
    assert decays[0] == 2 / 11
    assert decays[528] == 530 / 539 < 59 / 60
    assert decays[529:] == [59 / 60] * 251


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_the_average_follows_its_formula_and_batch_statistics_are_the_networks(fit: Fit, fraction: float) -> None:
    network = small_network().double()
    raw = [weights(network)]
    fit(
        network,
        replace_training(epochs=4, ema_fraction=fraction),
        replace(FP32, on_progress=lambda step: raw.append(weights(network))),
    )
    assert len(raw) == 13
    epochs = round(4 * fraction)
    first = 12 - 3 * epochs
    result, parameters = weights(network), dict(network.named_parameters())
    for name, tensor in raw[first].items():
        if name not in parameters:
            assert torch.equal(result[name], raw[-1][name]), name
            continue
        average = tensor
        for t, current in enumerate(raw[first + 1 :], start=1):
            decay = min((epochs - 1) / epochs, (1 + t) / (10 + t))
            average = decay * average + (1 - decay) * current[name]
        torch.testing.assert_close(result[name], average, rtol=1e-12, atol=1e-15)
        if parameters[name].requires_grad:
            assert not torch.equal(result[name], raw[-1][name]), name
        else:
            assert torch.equal(result[name], raw[0][name]), name


def test_without_an_average_the_last_weights_stay(fit: Fit) -> None:
    network = small_network()
    raw = {}
    fit(network, SHORT, replace(FP32, on_progress=lambda step: raw.update(weights(network))))
    assert equal(weights(network), raw)


# Stopping and going on

RESUMED = Training(epochs=4, batch_size=8, ema_fraction=0.5)


class Crash(Exception):
    pass


@pytest.mark.parametrize(("dropout", "optimizer"), [(0.0, "adamw"), (0.3, "sgd")])
def test_a_training_that_crashes_again_and_again_ends_with_the_same_bits(
    fit: Fit, examples: Examples, tmp_path: Path, dropout: float, optimizer: str
) -> None:
    training = RESUMED.model_copy(update={"optimizer": optimizer})
    straight = small_network(dropout=dropout)
    whole = fit(straight, training, Run(validation=examples, validate_every=2))
    dice = random.Random(int(10 * dropout))
    crashes = 0
    while True:
        torch.manual_seed(dice.randrange(1000))
        network = small_network(dropout=dropout)
        first: list[int] = []
        # Of the 12 steps in 4 epochs: enough to finish one, and too few to finish with only one crash.
        patience = dice.randrange(3, 6)

        def report(step: Step, first: list[int] = first, patience: int = patience) -> None:
            first.append(step.done)
            if len(first) > patience:
                raise Crash

        run = Run(checkpoints=tmp_path, resume=True, validation=examples, validate_every=2, on_progress=report)
        try:
            resumed = fit(network, training, run)
            break
        except Crash:
            crashes += 1
    assert crashes >= 2
    assert equal(weights(network), weights(straight))
    assert [row.model_copy(update=TIMES) for row in resumed.history] == [
        row.model_copy(update=TIMES) for row in whole.history
    ]
    assert [row.validation_accuracy is not None for row in whole.history] == [False, True, False, True]


TIMES = {"seconds": 0, "images_per_second": 0}


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stop_at", [5, 6, 10, 12])
def test_a_signal_stops_after_the_step_and_loses_nothing(
    fit: Fit, tmp_path: Path, number: signal.Signals, exit_code: int, stop_at: int
) -> None:
    straight, network = small_network(), small_network()
    whole = fit(straight, RESUMED, Run())
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def report(step: Step) -> None:
        assert step.done <= stop_at
        if step.done == stop_at:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=f"step {stop_at} is kept") as error:
        fit(network, RESUMED, Run(checkpoints=tmp_path, on_progress=report))
    assert error.value.exit_code == exit_code
    assert "--resume" in error.value.advice
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    steps: list[Step] = []
    resumed = fit(network := small_network(), RESUMED, Run(checkpoints=tmp_path, resume=True, on_progress=steps.append))
    assert [step.done for step in steps] == list(range(stop_at + 1, 13))
    assert equal(weights(network), weights(straight))
    assert [row.loss for row in resumed.history] == [row.loss for row in whole.history]


def test_a_training_in_another_thread_leaves_signals_alone(fit: Fit) -> None:
    handler = signal.getsignal(signal.SIGINT)
    seen = []
    run = replace(FP32, on_progress=lambda step: seen.append(signal.getsignal(signal.SIGINT)))
    thread = threading.Thread(target=fit, args=(small_network(), SHORT, run))
    thread.start()
    thread.join()
    assert seen == [handler] * 6


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np, torch
    from small_network import small_network
    from rrr_edge.bundle import files
    from rrr_edge.bundle.manifest import Preprocess
    from rrr_edge.bundle.recipe import Training
    from rrr_edge.training.batches import Examples
    from rrr_edge.training import Run, train

    torch.set_num_threads(1)
    folder, deadly = Path(sys.argv[1]), sys.argv[2]
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)

    def report(step):
        if deadly == f"step {step.done}":
            kill()

    rename, done = os.replace, []
    def replace(partial, path):
        done.append(path)
        if deadly == f"write {len(done)}":
            kill()
        rename(partial, path)
    files.os.replace = replace

    arrays = np.load(folder / "examples.npz")
    train(
        small_network(), Examples(arrays["images"], arrays["labels"]), seed=7,
        training=Training.model_validate_json((folder / "training.json").read_text()),
        preprocess=Preprocess(image_size=32), run=Run(checkpoints=folder, resume=True, on_progress=report),
    )
"""


@pytest.mark.parametrize(("deadly", "kept"), [("step 8", 6), ("write 3", 6)])
def test_kill_9_in_a_step_or_in_a_write_costs_an_epoch_at_most(
    fit: Fit, examples: Examples, tmp_path: Path, deadly: str, kept: int
) -> None:
    straight = small_network()
    fit(straight, RESUMED, Run())
    np.savez(tmp_path / "examples.npz", images=examples.images, labels=examples.labels)
    (tmp_path / "training.json").write_text(RESUMED.model_dump_json())
    here = Path(__file__).parent
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), deadly],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent.parent)])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    steps: list[Step] = []
    network = small_network()
    fit(network, RESUMED, Run(checkpoints=tmp_path, resume=True, on_progress=steps.append))
    assert steps[0].done == kept + 1
    assert equal(weights(network), weights(straight))
    assert not list(tmp_path.glob(".*"))


def test_a_finished_training_resumes_to_its_end_at_once(fit: Fit, tmp_path: Path) -> None:
    network, again = small_network(), small_network()
    first = fit(network, RESUMED, Run(checkpoints=tmp_path))
    steps: list[Step] = []
    second = fit(again, RESUMED, Run(checkpoints=tmp_path, resume=True, on_progress=steps.append))
    assert not steps
    assert second == first
    assert equal(weights(again), weights(network))


def test_a_checkpoint_brings_the_stumps_statistics(
    fit: Fit, examples: Examples, preprocess: Preprocess, tmp_path: Path
) -> None:
    straight, stopped = small_network(frozen=False), small_network(frozen=False)
    for network in (straight, stopped):
        reestimate_stump(network, examples, training=SHORT, preprocess=preprocess)
    fit(straight, RESUMED, Run())

    def crash(step: Step) -> None:
        if step.done == 8:
            raise Crash

    with pytest.raises(Crash):
        fit(stopped, RESUMED, Run(checkpoints=tmp_path, on_progress=crash))
    resumed = small_network()
    fit(resumed, RESUMED, Run(checkpoints=tmp_path, resume=True))
    assert equal(weights(resumed), weights(straight))


def test_without_resume_a_checkpoint_is_not_read(fit: Fit, tmp_path: Path) -> None:
    fit(small_network(), SHORT, Run(checkpoints=tmp_path))
    steps: list[Step] = []
    fit(small_network(), SHORT, Run(checkpoints=tmp_path, on_progress=steps.append))
    assert len(steps) == 6


def test_a_checkpoint_of_another_training_is_refused(fit: Fit, examples: Examples, tmp_path: Path) -> None:
    fit(small_network(), SHORT, replace(FP32, checkpoints=tmp_path))
    run = replace(FP32, checkpoints=tmp_path, resume=True)
    with pytest.raises(BadInput, match=r"the training settings differ\."):
        fit(small_network(), replace_training(learning_rate=0.1), run)
    with pytest.raises(BadInput, match=r"the images or labels differ\."):
        fit(small_network(), SHORT, run, examples=Examples(examples.images, examples.labels[::-1]))
    with pytest.raises(BadInput, match=r"the networks differ\."):
        fit(small_network(branches=3), SHORT, run)
    with pytest.raises(BadInput, match=r"the precisions differ\."):
        fit(small_network(), SHORT, replace(run, precision="bf16-mixed"))


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_checkpoint_is_refused(fit: Fit, tmp_path: Path, damage: str) -> None:
    fit(small_network(), SHORT, Run(checkpoints=tmp_path))
    path = tmp_path / CHECKPOINT
    data = path.read_bytes()
    path.write_bytes({"truncated": data[:-100], "empty": b"", "text": b"no checkpoint at all"}[damage])
    with pytest.raises(CorruptArtifact, match="cannot be read") as error:
        fit(small_network(), SHORT, Run(checkpoints=tmp_path, resume=True))
    assert str(path) in error.value.advice


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_same_seed_gives_the_same_bits_and_nothing_in_it_is_left_to_chance(
    fit: Fit, frozen: bool, views: int
) -> None:
    """torch's deterministic mode raises where an operation's result may differ from run to run."""
    if views and not frozen:
        pytest.skip("views need a frozen stump")
    training = replace_training(ema_fraction=0.5, shared_batches=not frozen, feature_views=views)
    results = []
    for deterministic in (False, True, False):
        torch.rand(5)
        network = small_network(dropout=0.2, frozen=frozen)
        torch.use_deterministic_algorithms(deterministic)
        try:
            fit(network, training, Run())
        finally:
            torch.use_deterministic_algorithms(False)
        results.append(weights(network))
    assert equal(results[0], results[1])
    assert equal(results[0], results[2])


# What it says, and what it refuses


def test_the_log_and_the_report_add_up(fit: Fit, examples: Examples) -> None:
    steps: list[Step] = []
    trained = fit(small_network(), SHORT, replace(FP32, on_progress=steps.append))
    assert [(step.stage, step.done, step.total) for step in steps] == [("train", i, 6) for i in range(1, 7)]
    assert [row.epoch for row in trained.history] == [1, 2]
    for row in trained.history:
        assert f"loss {row.loss:.3f}, branches right {row.train_accuracy:.1%}" in steps[3 * row.epoch - 1].note
        assert row.images_per_second == pytest.approx(len(examples) / row.seconds)
        # Of 2 branches times 22 images.
        assert (row.train_accuracy * 44) == pytest.approx(round(row.train_accuracy * 44), abs=1e-4)
    assert (trained.precision, trained.device) == ("32-true", "cpu")


def test_of_a_network_in_one_piece_the_progress_names_no_branches(fit: Fit) -> None:
    steps: list[Step] = []
    fit(small_network(branches=1), SHORT, replace(FP32, on_progress=steps.append))
    assert ", training right " in steps[-1].note
    assert "branches" not in steps[-1].note


def test_training_leaves_global_randomness_mode_and_layout_as_they_were(fit: Fit) -> None:
    network = small_network(dropout=0.2).eval()
    state = torch.random.get_rng_state()
    fit(network, SHORT)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not network.training
    assert all(parameter.is_contiguous() for parameter in network.parameters())


def test_no_epochs_change_nothing(fit: Fit) -> None:
    network = small_network()
    before = weights(network)
    assert fit(network, replace_training(epochs=0)).history == ()
    assert equal(weights(network), before)


def test_a_diverging_training_stops(fit: Fit) -> None:
    with pytest.raises(GateFailed, match="diverged in epoch 1") as error:
        fit(small_network(), replace_training(learning_rate=1e30))
    assert "--learning-rate" in error.value.advice


def test_labels_beyond_the_classes_are_refused(fit: Fit, examples: Examples) -> None:
    with pytest.raises(BadInput, match=r"Labels \[-1, 3\]"):
        fit(small_network(), SHORT, examples=Examples(examples.images, np.array([-1, 3] * 11)))


@pytest.mark.parametrize(
    ("flags", "precision"),
    [(("avx2",), "32-true"), (("avx512f", "avx512_bf16"), "bf16-mixed"), (("amx_bf16",), "bf16-mixed")],
)
def test_bf16_is_used_where_the_cpu_has_it(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], precision: str
) -> None:
    monkeypatch.setattr("rrr_edge.training.run.cpu_info", lambda: ("some CPU", flags))
    assert fit(small_network(), replace_training(epochs=1), Run(device="cpu")).precision == precision


@pytest.mark.parametrize(
    ("inputs", "settings", "onednn"),
    [
        (15, {}, False),
        (16, {}, True),
        (4, {"stride": 1}, True),
        (4, {"kernel_size": 3}, True),
        (64, {"groups": 8}, False),
    ],
)
def test_onednn_is_left_out_where_its_gradients_would_overrun(
    inputs: int, settings: dict[str, int], onednn: bool
) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(inputs, 64, **{"kernel_size": 1, "stride": 2, **settings}))
    before = torch.backends.mkldnn.enabled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with without_overruns(network, torch.device("cpu")):
            assert torch.backends.mkldnn.enabled == (before and onednn)
    assert torch.backends.mkldnn.enabled == before
    with without_overruns(network, torch.device("cuda")):
        assert torch.backends.mkldnn.enabled == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_no_cpu(fit: Fit) -> None:
    with pytest.raises(CannotRunHere, match="no CUDA GPU"):
        fit(small_network(), SHORT, Run(device="cuda"))


# The stump's statistics


def test_the_stump_takes_the_statistics_of_ten_passes(examples: Examples, preprocess: Preprocess) -> None:
    network = small_network(frozen=False).double()
    before = weights(network)
    steps: list[Step] = []
    run = replace(FP32, on_progress=steps.append)
    reestimate_stump(network, examples, training=SHORT, preprocess=preprocess, seed=7, run=run)
    assert [step.done for step in steps] == list(range(1, 31))
    mean, variance = torch.zeros(64, dtype=torch.float64), torch.ones(64, dtype=torch.float64)
    for images, _ in Batches(examples, 7, 8, role="stump").run(0, 30):
        with torch.no_grad():
            convolved = network.conv1(normalise(images[:, 0], preprocess).double())
        mean = 0.9 * mean + 0.1 * convolved.mean((0, 2, 3))
        variance = 0.9 * variance + 0.1 * convolved.var((0, 2, 3), unbiased=True)
    torch.testing.assert_close(network.bn1.running_mean, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(network.bn1.running_var, variance, rtol=1e-9, atol=1e-9)
    after = weights(network)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if ("running" in name or "num_batches" in name) and not in_branches(name)
    }
    assert network.stump_frozen
    with pytest.raises(ValueError, match="frozen"):
        reestimate_stump(network, examples, training=SHORT, preprocess=preprocess)


def test_statistics_of_the_stump_that_were_kept_are_not_taken_again(
    examples: Examples, preprocess: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second pass, it goes on after the first; once it has ended, nothing is left to do."""
    monkeypatch.setattr("rrr_edge.training.branches.STUMP_PASSES", 3)

    def adapt(on_progress: Callable[[Step], None], **settings: Any) -> Network:
        network = small_network(frozen=False)
        run = replace(FP32, on_progress=on_progress, **settings)
        reestimate_stump(network, examples, training=SHORT, preprocess=preprocess, seed=7, run=run)
        assert network.stump_frozen
        return network

    def crash(step: Step) -> None:
        if step.done == 5:
            raise Crash

    straight, steps = adapt(lambda step: None), list[Step]()
    with pytest.raises(Crash):
        adapt(crash, checkpoints=tmp_path)
    for done in (range(4, 10), range(0)):
        steps.clear()
        assert equal(weights(adapt(steps.append, checkpoints=tmp_path, resume=True)), weights(straight))
        assert [step.done for step in steps] == list(done)
    adapt(steps.append, checkpoints=tmp_path)
    assert len(steps) == 9
