"""Profiles on disk: what was changed by hand, or contradicts itself, is refused."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import rewrite

from rrr_edge.bundle.bounds import Bound
from rrr_edge.bundle.measurements import Ratio
from rrr_edge.bundle.profile import Profile
from rrr_edge.errors import BadInput, CorruptArtifact
from rrr_edge.report.candidate import Candidate


@pytest.fixture
def folder(full: Candidate, tmp_path: Path) -> Path:
    stored = full.bundle.profile_folder(full.profile.target.engine_name)
    return Path(shutil.copytree(stored, tmp_path / "profile"))


def test_a_profile_is_read_as_it_was_written(folder: Path, full: Candidate) -> None:
    assert Profile.read(folder) == full.profile


def test_a_profile_that_was_edited_is_refused(folder: Path) -> None:
    text = (folder / "profile.json").read_text()
    (folder / "profile.json").write_text(text.replace('"accuracy": 0', '"accuracy": 1', 1))
    assert (folder / "profile.json").read_text() != text
    with pytest.raises(CorruptArtifact, match="its seal differs"):
        Profile.read(folder)


def test_samples_that_were_edited_are_refused(folder: Path) -> None:
    lines = (folder / "samples.csv").read_text().splitlines(keepends=True)
    largest = max(range(1, len(lines)), key=lambda i: float(lines[i].rsplit(",", 3)[1]))
    lines[largest] = f"{lines[largest].rsplit(',', 3)[0]},1e9,,\n"  # no median changes
    (folder / "samples.csv").write_text("".join(lines))
    with pytest.raises(CorruptArtifact, match=r"samples\.csv has changed"):
        Profile.read(folder)


def _without_seal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_profile_from_before_there_were_seals_still_opens(folder: Path, full: Candidate) -> None:
    _without_seal(folder / "profile.json", lambda data: (data.pop("seal"), data.pop("samples_sha256")))
    assert Profile.read(folder) == full.profile.model_copy(update={"samples_sha256": ""})


def test_the_seal_alone_cannot_be_taken_off(folder: Path) -> None:
    _without_seal(folder / "profile.json", lambda data: data.pop("seal"))
    with pytest.raises(CorruptArtifact, match="its seal differs"):
        Profile.read(folder)


def test_a_ratio_that_the_samples_do_not_give_is_refused(folder: Path) -> None:
    def slower(data: dict[str, Any]) -> None:
        data["ratios"][0] |= {"value": 1e3, "interval": [1e2, 1e4]}

    rewrite(folder / "profile.json", slower)
    with pytest.raises(CorruptArtifact, match="1000 times as long"):
        Profile.read(folder)


def test_a_bound_that_the_samples_do_not_give_is_refused(folder: Path, full: Candidate) -> None:
    engine, rival = full.profile.engine, full.profile.baselines[0]
    bound = Bound.between(rival, engine, shared_cores=True)

    def bounded(data: dict[str, Any], **change: float) -> None:
        data["bounds"] = [bound.model_dump() | change]

    rewrite(folder / "profile.json", bounded)
    assert Profile.read(folder).bounds == (bound,)
    rewrite(folder / "profile.json", partial(bounded, at_least=1e3))
    with pytest.raises(CorruptArtifact, match="otherwise than the samples do"):
        Profile.read(folder)


def test_a_ratio_outside_its_interval_is_refused() -> None:
    with pytest.raises(BadInput, match="outside its interval"):
        Ratio.parse({"of": "a", "to": "b", "value": 2, "interval": [3, 4]}, "x")
