import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rrr_edge.bundle import files
from rrr_edge.bundle.recipe import Training
from rrr_edge.errors import CannotRunHere
from rrr_edge.training.checkpoint import CHECKPOINT, Identity, TrainingProgress, read_checkpoint, write_checkpoint

IDENTITY = Identity(training=Training(), seed=3, precision="32-true", data_sha256="a", network_sha256="b")
PROGRESS = TrainingProgress(identity=IDENTITY, steps_per_epoch=5, step=7, loss_sum=0.1)


def test_a_checkpoint_is_a_safetensors_file(tmp_path: Path) -> None:
    tensors = {
        "odd": torch.randn(3),
        "count": torch.tensor(5),
        "images": torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last),
        "nothing": torch.randn(0, 4),
        "rows": torch.randn(4, 6)[:, ::2],
        "learned": torch.nn.Parameter(torch.randn(2)),
    }
    write_checkpoint(tmp_path / "new", PROGRESS, tensors)
    assert [file.name for file in (tmp_path / "new").iterdir()] == [CHECKPOINT]
    kept = read_checkpoint(tmp_path / "new", IDENTITY)
    assert kept is not None
    assert kept[0] == PROGRESS
    for found in (load_file(tmp_path / "new" / CHECKPOINT), kept[1]):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor), name


def test_a_full_disk_is_a_sentence_and_the_old_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, PROGRESS, {"a": torch.ones(4)})

    def flush(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "_flush", flush)
    with pytest.raises(CannotRunHere, match="is full"):
        write_checkpoint(tmp_path, PROGRESS, {"a": torch.zeros(4)})
    assert torch.equal(load_file(tmp_path / CHECKPOINT)["a"], torch.ones(4))
