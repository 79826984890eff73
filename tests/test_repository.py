"""What is committed: texts in UTF-8, no large files, no place of one machine."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LARGEST = 1_500_000
# Folders of homes; a user's example is in a relative one.
_PLACES = re.compile(rb"(?<![\w.*{}/<-])/(?:home|root|Users)/[\w.-]+/")


@pytest.fixture(scope="module")
def files() -> list[Path]:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    found = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    assert len(found) > 200
    return [path for path in found if path.is_file()]


def test_no_file_is_large(files: list[Path]) -> None:
    assert {path: path.stat().st_size for path in files if path.stat().st_size > LARGEST} == {}


def test_no_place_of_one_machine_is_named(files: list[Path]) -> None:
    assert _PLACES.search(b'open("/home/me/x.py")')
    texts = [path for path in files if path.suffix in (".py", ".md", ".toml", ".yml")]
    ours = [path for path in texts if not path.is_relative_to(ROOT / "tests")]
    assert len(ours) > 100
    assert [path for path in ours if _PLACES.search(path.read_bytes())] == []


def test_sources_are_utf_8_with_unix_line_ends(files: list[Path]) -> None:
    for path in files:
        if path.suffix in (".py", ".md", ".toml", ".html", ".css", ".js", ".cpp", ".hpp"):
            assert "\r" not in path.read_bytes().decode("utf-8"), path
