import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rrr_edge.bundle import files
from rrr_edge.bundle.files import (
    FileEntry,
    describe_file,
    replace_folder,
    require_file,
    require_no_links,
    scratch_folder,
    sha256,
    staged_file,
    staged_folder,
    write_file,
)
from rrr_edge.errors import BadInput, CannotRunHere, CorruptArtifact


def test_sha256_of_the_empty_file_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_failed_stage_leaves_the_old_folder_and_no_litter(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError, match="halfway"), staged_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("half")
        raise RuntimeError("halfway")
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_failed_file_leaves_the_old_one_and_the_next_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_file(out, "old")
    with pytest.raises(RuntimeError, match="halfway"), staged_file(out) as stage:
        stage.write_text("half")
        raise RuntimeError("halfway")
    assert os.listdir(tmp_path) == ["out"]
    code = (
        "import os, sys; from pathlib import Path; from rrr_edge.bundle.files import staged_file\n"
        "with staged_file(Path(sys.argv[1])) as stage:\n"
        "    stage.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(out)], check=False)
    assert len(os.listdir(tmp_path)) == 2
    assert out.read_text() == "old"
    write_file(out, "new")
    assert os.listdir(tmp_path) == ["out"]
    assert out.read_text() == "new"


def test_what_others_put_beside_a_file_neither_stops_its_writing_nor_goes(tmp_path: Path) -> None:
    pipe, new, old = (tmp_path / f".out.{middle}.partial" for middle in (16 * "0", "box.7.0123abcd", "box.8.0123abcd"))
    os.mkfifo(pipe)
    new.touch()
    old.mkdir()
    os.utime(old, (0, 0))
    descriptors = len(os.listdir("/proc/self/fd"))
    write_file(tmp_path / "out", "x")
    assert {path.name for path in tmp_path.iterdir()} == {"out", pipe.name, new.name}
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_stage_that_cannot_be_removed_is_held_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError("not allowed")

    monkeypatch.setattr(files, "_remove", refuse)
    descriptors = len(os.listdir("/proc/self/fd"))
    (tmp_path / f".out.{16 * '0'}.partial").touch()
    with pytest.raises(PermissionError):
        write_file(tmp_path / "out", "x")
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("atomic_exchange", [True, False])
def test_a_replaced_folder_holds_only_the_new_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic_exchange: bool
) -> None:
    if not atomic_exchange:
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    for name, content in (("out", "old"), ("stage", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).touch()
    replace_folder(tmp_path / "stage", tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["new"]


def test_a_process_killed_while_it_replaces_leaves_one_whole_folder(tmp_path: Path) -> None:
    """A writer replaces a folder of two equal files without pause; kill -9 at any moment must not mix versions."""
    code = (
        "import sys, itertools; from pathlib import Path; from rrr_edge.bundle.files import staged_folder\n"
        "print('ready', flush=True)\n"
        "for i in itertools.count():\n"
        "    with staged_folder(Path(sys.argv[1])) as f:\n"
        "        (f / 'a').write_text(str(i)); (f / 'b').write_text(str(i))\n"
    )
    out = tmp_path / "out"
    for wait_ms in (1, 6, 14, 25):
        limit = time.monotonic() + 30
        with subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            while not out.exists() and time.monotonic() < limit and writer.poll() is None:
                time.sleep(0.002)
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(wait_ms / 1000)
            writer.kill()
        assert (out / "a").read_text() == (out / "b").read_text()
    with staged_folder(out) as folder:
        (folder / "a").touch()
    assert os.listdir(tmp_path) == ["out"]


def test_two_writers_at_once_leave_one_whole_folder_and_no_litter(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rrr_edge.bundle.files import staged_folder, write_file\n"
        "for i in range(30):\n"
        "    with staged_folder(Path(sys.argv[1], 'out')) as f:\n"
        "        (f / 'a').write_text(sys.argv[2] + str(i)); (f / 'b').write_text(sys.argv[2] + str(i))\n"
        "    write_file(Path(sys.argv[1], 'file'), sys.argv[2] * 1000)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "xy"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert sorted(os.listdir(tmp_path)) == ["file", "out"]
    assert (tmp_path / "out" / "a").read_text() == (tmp_path / "out" / "b").read_text()


def test_a_staged_folder_may_be_read_as_any_new_folder(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with staged_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_gets_the_folders_that_it_lies_in(tmp_path: Path) -> None:
    write_file(tmp_path / "out" / "today" / "report.md", "x")
    assert (tmp_path / "out" / "today" / "report.md").read_text() == "x"
    assert [path.name for path in (tmp_path / "out" / "today").iterdir()] == ["report.md"]


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotRunHere, match="cannot be written: Not a directory"):
        write_file(tmp_path / "file" / "x", "data")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence_that_names_the_path() -> None:
    with (
        pytest.raises(CannotRunHere, match="disk that holds here/model.xml is full"),
        files.writing_to(Path("here/model.xml")),
        open("/dev/full", "w") as full,
    ):
        full.write("x" * 100_000)
        full.flush()


def test_data_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def flushing(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("NAMED"), replace(a, b)))
    monkeypatch.setattr(os, "rename", lambda a, b: (done.append("NAMED"), rename(a, b)))
    write_file(tmp_path / "file", "data")
    assert done[0].startswith(".file.")
    assert done[1:] == ["NAMED", tmp_path.name]
    done.clear()
    with staged_folder(tmp_path / "out") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").touch()
    assert set(done[: done.index("NAMED")]) >= {"a", "inner"}


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", "", "a\\b", "a\nb", "\0"])
def test_the_files_of_a_card_are_plain_names(name: str) -> None:
    with pytest.raises(BadInput, match="no plain file name"):
        FileEntry.parse({"name": name, "bytes": 0, "sha256": 64 * "0"}, "card")


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    entry = describe_file(tmp_path / "real").model_copy(update={"name": "link"})
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(CorruptArtifact, match="is a link"):
        require_file(tmp_path / "link", entry, "repair")
    inside = tmp_path / "bundle"
    inside.mkdir()
    assert require_no_links(inside, inside / "engines" / "x") == inside / "engines" / "x"
    (inside / "engines").symlink_to(tmp_path)
    with pytest.raises(CorruptArtifact, match="engines is a link"):
        require_no_links(inside, inside / "engines" / "x")


def test_what_a_killed_process_left_in_the_temporary_files_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what a living one uses is not, though its number says nothing, as where containers share a folder."""
    code = (
        "import time; from rrr_edge.bundle.files import scratch_folder\n"
        "with scratch_folder() as folder:\n"
        "    (folder / 'big').write_text('x'); print(flush=True); time.sleep(60)\n"
    )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        (used,) = tmp_path.iterdir()
        with scratch_folder() as first, scratch_folder() as second:
            assert sorted(tmp_path.iterdir()) == sorted((used, first, second))
        other.kill()
    assert (used / "big").exists()
    with scratch_folder() as first:
        assert list(tmp_path.iterdir()) == [first]
    assert not list(tmp_path.iterdir())


def test_a_stage_that_another_takes_for_litter_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, names = files.try_lock, list[Path]()

    def lock(descriptor: int) -> bool | None:
        names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        if len(names) == 1:
            names[0].unlink()
        return False if len(names) == 2 else real(descriptor)

    monkeypatch.setattr(files, "try_lock", lock)
    with staged_file(tmp_path / "out") as stage:
        stage.write_text("x")
    assert stage == names[2]
    assert (tmp_path / "out").read_text() == "x"
    monkeypatch.setattr(files, "try_lock", lambda _: None)  # as on a file system without locks
    with scratch_folder() as first:
        files._remove_litter(first.with_name("rrr-edge"))
        assert first.is_dir()


def test_a_folder_that_is_removed_while_it_is_written_is_a_sentence(tmp_path: Path) -> None:
    def write() -> None:
        with staged_folder(tmp_path / "mugs.rrr" / "engine") as stage:
            shutil.rmtree(tmp_path / "mugs.rrr")
            raise RuntimeError(f"the vendor's library cannot open {stage}")

    with pytest.raises(CannotRunHere, match=r"mugs\.rrr was removed while engine was written into it\."):
        write()
    assert list(tmp_path.iterdir()) == []
