import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_network import small_network, weights

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.recipe import Training
from rrr_edge.errors import UsageError
from rrr_edge.training import Run, train
from rrr_edge.training.batches import Examples
from rrr_edge.training.share import Share

TRAININGS = {
    "frozen": Training(epochs=2, batch_size=8, ema_fraction=0.5),
    "whole": Training(epochs=2, batch_size=8, ema_fraction=0.5, shared_batches=True),
}
# Two orders of summation are compared in float64: where a gradient is 0 but for roundings, float32's become steps as
# large as the learning rate. AdamW divides a gradient by no less than eps = 1e-8. So a gradient's error, 1e-12 for
# 10,000 products of about 1 with roundings of 2^-53 each, moves a weight by at most 1e-3 * 1e-12 / 1e-8 = 1e-7 in each
# of the 6 steps.
LIMIT = 6e-7
TWO_PROCESSES = """
    import sys
    from pathlib import Path
    import numpy as np, torch
    from safetensors.torch import save_file
    from small_network import small_network
    from rrr_edge.bundle.manifest import Preprocess
    from rrr_edge.bundle.recipe import Training
    from rrr_edge.training.batches import Examples
    from rrr_edge.training import Run, train

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    arrays = np.load(folder / "examples.npz")
    examples = Examples(arrays["images"], arrays["labels"])
    for name, frozen in (("frozen", True), ("whole", False)):
        network = small_network(branches=4, frozen=frozen).double()
        reported = []
        run = Run(
            device="cpu", precision="32-true", checkpoints=folder / name, validation=examples,
            on_progress=reported.append,
        )
        training = Training.model_validate_json((folder / f"{name}.json").read_text())
        trained = train(network, examples, training=training, preprocess=Preprocess(image_size=32), seed=7, run=run)
        rank = torch.distributed.get_rank()
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / f"{name}-{rank}.safetensors")
        (folder / f"{name}-{rank}.txt").write_text(repr([len(reported), *(row.loss for row in trained.history)]))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share")
    rng = np.random.default_rng(0)
    np.savez(folder / "examples.npz", images=rng.integers(0, 256, (22, 32, 32, 3), np.uint8), labels=np.arange(22) % 3)
    for name, training in TRAININGS.items():
        (folder / f"{name}.json").write_text(training.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    # What torchrun sets, without its slow start.
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}
    common["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent.parent)])
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TWO_PROCESSES), str(folder)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for child in children:
        errors = child.communicate(timeout=120)[1]
        assert child.returncode == 0, errors
    return folder


@pytest.mark.parametrize("name", ["frozen", "whole"])
def test_two_processes_learn_what_one_learns(results: Path, preprocess: Preprocess, name: str) -> None:
    arrays = np.load(results / "examples.npz")
    examples = Examples(arrays["images"], arrays["labels"])
    network = small_network(branches=4, frozen=name == "frozen").double()
    run = Run(device="cpu", precision="32-true", validation=examples)
    trained = train(network, examples, training=TRAININGS[name], preprocess=preprocess, seed=7, run=run)
    for rank in range(2):
        found = load_file(results / f"{name}-{rank}.safetensors")
        assert found.keys() == network.state_dict().keys()
        for key, tensor in weights(network).items():
            torch.testing.assert_close(
                found[key], tensor, rtol=0, atol=LIMIT, msg=lambda text, key=key: f"{key}: {text}"
            )
        said = eval((results / f"{name}-{rank}.txt").read_text())
        assert said[0] == (6 if rank == 0 else 0)
        assert said[1:] == pytest.approx([row.loss for row in trained.history], abs=LIMIT)


@pytest.mark.parametrize("name", ["frozen", "whole"])
def test_one_process_goes_on_from_what_two_kept(results: Path, preprocess: Preprocess, name: str) -> None:
    arrays = np.load(results / "examples.npz")
    network = small_network(branches=4, frozen=name == "frozen").double()
    run = Run(device="cpu", precision="32-true", checkpoints=results / name, resume=True)
    examples = Examples(arrays["images"], arrays["labels"])
    trained = train(network, examples, training=TRAININGS[name], preprocess=preprocess, seed=7, run=run)
    assert [row.epoch for row in trained.history] == [1, 2]
    found = load_file(results / f"{name}-0.safetensors")
    assert all(torch.equal(found[key], tensor) for key, tensor in weights(network).items())


class Part:
    """A fabric of one process among several, that exchanges nothing."""

    def __init__(self, rank: int, size: int) -> None:
        self.global_rank, self.world_size = rank, size


def test_the_parts_are_the_whole() -> None:
    network: Any = small_network(branches=4)
    shares = [Share(Part(rank, 2), network) for rank in range(2)]
    assert [branch for share in shares for branch in share.branches] == [0, 1, 2, 3]
    for name, tensor in network.state_dict().items():
        parts = [share.rows(name, tensor) for share in shares]
        if name.startswith(("layer3", "layer4", "fc")) and tensor.dim():
            assert torch.equal(torch.cat(parts), tensor)
        else:
            assert all(part is tensor for part in parts)


def test_branches_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(UsageError, match="3 processes cannot share 4 branches"):
        Share(Part(0, 3), small_network(branches=4))
    with pytest.raises(UsageError, match="dropout"):
        Share(Part(0, 2), small_network(branches=4, dropout=0.1))
