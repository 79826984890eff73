"""What bundles have in common, and what the command says of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import write_bundle
from made_up import rewrite
from safetensors.numpy import save_file
from typer.testing import CliRunner

from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import WEIGHTS, Bundle
from rrr_edge.bundle.sharing import compare_tasks
from rrr_edge.cli.app import app
from rrr_edge.errors import CorruptArtifact

SHARED = np.arange(1000, dtype=np.float32)


def make(folder: Path, name: str, **own: Any) -> Bundle:
    bundle = write_bundle(folder / name)
    save_file({"conv1.weight": SHARED, **own}, bundle.path / WEIGHTS)
    return seal(bundle)


def seal(bundle: Bundle) -> Bundle:
    files = tuple(describe_file(bundle.path / file.name) for file in bundle.manifest.files)
    return rewrite(bundle, bundle.manifest.model_copy(update={"files": files}))


def test_what_is_alike_is_stored_once(tmp_path: Path) -> None:
    one = make(tmp_path, "one.rrr", head=np.ones(10, np.float32))
    two = make(tmp_path, "two.rrr", head=np.ones(30, np.float32), extra=np.zeros((2, 5), np.float32))
    three = make(tmp_path, "three.rrr", head=np.ones((10, 1), np.float32))  # the same bytes in another shape
    costs = compare_tasks([one, two, three])
    assert [task.own_numbers for task in costs.tasks] == [10, 40, 10]
    assert [task.numbers for task in costs.tasks] == [1010, 1040, 1010]
    assert costs.apart_bytes == 4 * (1010 + 1040 + 1010)
    assert costs.stored_once_bytes == 4 * (1000 + 10 + 40 + 10)
    assert costs.tasks[1].common_bytes == 4000


def test_the_command_tells_it_and_refuses_one_bundle_twice_and_damaged_weights(tmp_path: Path) -> None:
    one, two = (make(tmp_path, name, head=np.ones(n, np.float32)) for name, n in (("one.rrr", 10), ("two.rrr", 30)))

    def tasks(*arguments: str | Path) -> tuple[int, str, Any]:
        done = CliRunner().invoke(app, ["tasks", *map(str, arguments)])
        told = json.loads(done.stdout) if "--json" in arguments else None
        return done.exit_code, done.stdout + done.stderr, told

    code, _, document = tasks(one.path, two.path, "--json")
    assert code == 0
    assert (document["stored_once_bytes"], document["apart_bytes"]) == (4160, 8160)
    assert [task["name"] for task in document["tasks"]] == ["one.rrr", "two.rrr"]
    assert "together 0.0 MB with what they share stored once" in tasks(one.path, two.path)[1]
    code, said, _ = tasks(one.path, two.path, two.path)
    assert code == 2
    assert "given twice" in said
    (two.path / WEIGHTS).write_bytes(b"others")
    assert tasks(one.path, two.path)[0] == 5
    with pytest.raises(CorruptArtifact, match="no safetensors file"):
        compare_tasks([one, seal(two)])
    assert tasks(one.path, tmp_path / "three.rrr")[0] == 5
