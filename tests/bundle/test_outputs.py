import os
from pathlib import Path

import pytest

from rrr_edge.bundle.outputs import appended_lines, require_output, write_line, write_output
from rrr_edge.errors import CannotRunHere, UsageError


def test_texts_replace_only_what_is_ours(tmp_path: Path) -> None:
    notes = tmp_path / "NOTES.md"
    notes.write_text("my own")
    with pytest.raises(UsageError, match="no report of ours"):
        write_output(notes, "### ours: new", "### ours")
    assert notes.read_text() == "my own"
    ours = tmp_path / "ours.md"
    for text in ("### ours: old", "### ours: new"):
        write_output(ours, text, "### ours")
    (tmp_path / "link.md").symlink_to(ours)
    write_output(tmp_path / "link.md", "### ours: through the link", "### ours")
    assert ours.read_text() == "### ours: through the link"
    assert (tmp_path / "link.md").is_symlink()
    (tmp_path / "nowhere.md").symlink_to("absent")
    for wrong in ("nowhere.md", "."):
        with pytest.raises(UsageError):
            write_output(tmp_path / wrong, "### ours", "### ours")


def test_streams_are_written_into_and_stay_what_they_are(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(CannotRunHere, match="pipe cannot be written"):  # nobody reads it
        write_output(pipe, "### ours", "### ours")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_output(pipe, "### ours", "### ours")
    assert os.read(reader, 100) == b"### ours"
    os.close(reader)
    assert pipe.is_fifo()
    write_output(Path("/dev/null"), "### ours", "### ours")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1", "link"])
def test_what_stdout_leads_to_is_written_into_whatever_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """Here a file, which has other lines already."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    print("a line before", flush=True)
    write_output(tmp_path / name, "### ours\n", "### ours")
    print("a line after", flush=True)
    assert Path("/proc/self/fd/1").is_file()
    assert capfd.readouterr().out == "a line before\n### ours\na line after\n"


def test_what_is_not_open_for_writing_is_said_before_the_work(tmp_path: Path) -> None:
    with open(os.devnull) as file:
        for name in (f"/dev/fd/{file.fileno()}", "/dev/fd/9999", f"/dev/fd/{10**12}"):
            with pytest.raises(UsageError, match="not open for writing"):
                require_output(Path(name), "### ours")
            with pytest.raises(UsageError, match="not open for writing"), appended_lines(Path(name)):
                pass


def test_lines_are_appended_to_files_of_lines_and_to_streams(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for text, expected in (("", ""), ('{"a": 1}\n{"cut', '{"a": 1}\n{"cut\n'), ('{"cut', '{"cut\n')):
        (tmp_path / "lines").write_text(text)
        with appended_lines(tmp_path / "lines") as file:
            write_line(file, '{"b": 2}')
        assert (tmp_path / "lines").read_text() == f'{expected}{{"b": 2}}\n'
    for other in (b"\xff\xd8\xff\xe0", b"my notes", b'{\n  "schema": 1\n}\n', b'{"a": no\n'):
        (tmp_path / "other").write_bytes(other)
        with pytest.raises(UsageError, match="no file of lines of JSON"), appended_lines(tmp_path / "other"):
            pass
        assert (tmp_path / "other").read_bytes() == other
    with appended_lines(Path("/dev/stdout")) as file:
        write_line(file, "{}")
    assert capfd.readouterr().out == "{}\n"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with appended_lines(tmp_path / "pipe") as file:
        write_line(file, "{}")
    assert os.read(reader, 10) == b"{}\n"
    os.close(reader)


def test_a_line_is_written_whole_however_little_the_system_takes_at_once() -> None:
    class Slow:
        taken = b""

        def write(self, data: memoryview) -> int:
            self.taken += bytes(data[:3])
            return len(data[:3])

    slow = Slow()
    write_line(slow, "a line of text")  # type: ignore[arg-type]
    assert slow.taken == b"a line of text\n"
