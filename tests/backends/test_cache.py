"""The cache of compiled models, which may cost time when it is damaged, and never an answer."""

import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest

from rrr_edge.backends import cache
from rrr_edge.backends.cache import cache_folder, forget_changed, forget_oldest, keep_hashes
from rrr_edge.backends.openvino import OpenVINO
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.target import Target
from rrr_edge.errors import CannotRunHere

TARGET = Target(name="openvino", backend="openvino", threads=1)
ARCHIVE = Path(__file__).parents[1] / "bundle" / "fixtures" / "bundle-0.1.0.tar.xz"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("cache")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return Bundle.open(folder / "shapes-0.1.0.rrr")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def answers(bundle: Bundle) -> np.ndarray:
    session = OpenVINO().open(bundle.engine_folder("openvino-fp32"), TARGET)
    try:
        return np.array(session.run(bundle.reference.images[:1]).probabilities)
    finally:
        session.close()


def test_a_changed_blob_is_never_loaded(bundle: Bundle, home: Path) -> None:
    expected = answers(bundle)
    (blob,) = home.glob("rrr-edge/openvino/*/*.blob")
    whole = blob.read_bytes()
    rng = random.Random(0)
    for place in (0, len(whole) - 1, *rng.sample(range(len(whole)), 6)):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        blob.write_bytes(changed)
        np.testing.assert_array_equal(answers(bundle), expected)
        assert blob.read_bytes() != changed, "it was not made anew"
    blob.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(answers(bundle), expected)


def test_a_sound_blob_is_used_again_and_one_without_a_hash_is_made_anew(bundle: Bundle, home: Path) -> None:
    answers(bundle)
    (blob,) = home.glob("rrr-edge/openvino/*/*.blob")
    made = blob.stat().st_ino, blob.stat().st_mtime_ns
    answers(bundle)
    assert (blob.stat().st_ino, blob.stat().st_mtime_ns) == made
    blob.with_name(f"{blob.name}.sha256").unlink()
    answers(bundle)
    assert blob.stat().st_mtime_ns != made[1]


def test_another_users_and_a_read_only_cache_are_not_used(
    bundle: Bundle, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder("openvino") is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: -1)
        assert cache_folder("openvino") is None
        answers(bundle)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        assert cache_folder("openvino") is None
        answers(bundle)
    assert not list(home.glob("rrr-edge/openvino/*"))


def test_a_full_disk_costs_only_time(bundle: Bundle, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answers(bundle)
    (blob,) = home.glob("rrr-edge/openvino/*/*.blob")
    blob.with_name(f"{blob.name}.sha256").unlink()

    def full(path: Path, data: object) -> None:
        raise CannotRunHere(f"The disk that holds {path} is full.")

    monkeypatch.setattr(cache, "write_file", full)
    np.testing.assert_array_equal(answers(bundle), expected)


def test_hashes_are_of_files_as_they_were_kept(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    keep_hashes(tmp_path)
    (tmp_path / "a").write_text("changed")
    keep_hashes(tmp_path)  # a file that has a hash keeps it
    forget_changed(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b.sha256"]


def test_the_oldest_go_with_their_hashes_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_KEPT", 1)
    for age in (1, 2):
        blob = tmp_path / str(age) / "x.blob"
        blob.parent.mkdir()
        blob.touch()
        keep_hashes(blob.parent)
        os.utime(blob, (1000 - age, 1000 - age))
    forget_oldest(tmp_path.glob("*/*.blob"))
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
