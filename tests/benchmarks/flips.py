"""Flipped bits in every file of a bundle and in OpenVINO's cache: a sentence or the same answers, never others.

    python tests/benchmarks/flips.py [BUNDLE] [--flips 1000] [--seed 0]

Each flip is one bit of one file, drawn file by file; then every engine is opened and answers, and what changed is put
back. Without a bundle the fixture of the tests is used, with an INT8 engine beside its own where NNCF is there. Exits
with 1 where an answer changed or an error was not one of rrr-edge's.
"""

import argparse
import os
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ARCHIVE = Path(__file__).parents[1] / "bundle" / "fixtures" / "bundle-0.1.0.tar.xz"
IMAGES = 6
OUTCOMES = ("refused", "same answers", "changed answers", "other errors")


def answers(bundle: Path, engines: Sequence[str], frames: np.ndarray) -> dict[str, np.ndarray | str]:
    """By engine: the probabilities of `frames`, or why there are none."""
    from rrr_edge import Bundle, Classifier, Target
    from rrr_edge.errors import RRREdgeError

    found: dict[str, np.ndarray | str] = {}
    for name in engines:
        target, _, precision = name.rpartition("-")
        try:
            opened = Classifier.open(bundle, Target.resolve(target, precision), threads=1)  # type: ignore[arg-type]
            with opened as classifier:
                found[name] = np.stack([answer.probabilities for answer in classifier.predict_many(frames)])
            assert Bundle.open(bundle).manifest.labels == classifier.labels
        except RRREdgeError:
            found[name] = "refused"
        except Exception as error:
            found[name] = f"other errors: {type(error).__name__}: {error}"
    return found


def flip(file: Path, rng: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)


def outcome(found: dict[str, np.ndarray | str], expected: dict[str, np.ndarray | str]) -> str:
    """The worst of all engines'."""
    worst = 0
    for name, answer in found.items():
        if isinstance(answer, str):
            worst = max(worst, 0 if answer == "refused" else 3)
            if answer != "refused":
                print(f"{name}: {answer}")
        else:
            worst = max(worst, 1 if np.array_equal(answer, expected[name]) else 2)
    refused = any(isinstance(answer, str) and answer == "refused" for answer in found.values())
    return OUTCOMES[0] if refused and worst < 2 else OUTCOMES[worst]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kept, work = Path(scratch) / "kept", Path(scratch) / "work"
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")
        bundle = work / "x.rrr"
        engines, frames = prepare(asked.bundle, bundle)
        expected = answers(bundle, engines, frames)
        assert all(isinstance(answer, np.ndarray) for answer in expected.values()), expected
        shutil.copytree(work, kept)
        files = sorted(file.relative_to(work) for file in work.rglob("*") if file.is_file())
        blobs = [file for file in files if file.parts[0] == "cache"]
        print(f"{', '.join(engines)}; {len(files) - len(blobs)} files of the bundle, {len(blobs)} of the cache")
        rng = np.random.default_rng(asked.seed)
        counts: Counter[tuple[str, str]] = Counter()
        for _ in range(asked.flips):
            file = files[rng.integers(len(files))]
            flip(work / file, rng)
            counts[file.parts[0], outcome(answers(bundle, engines, frames), expected)] += 1
            shutil.copyfile(kept / file, work / file)
            shutil.rmtree(work / "cache")
            shutil.copytree(kept / "cache", work / "cache")
    for place, words in (("x.rrr", "in the bundle"), ("cache", "in the cache")):
        of = sum(counts[place, outcome] for outcome in OUTCOMES)
        print(f"{of:5} flips {words:14}", ", ".join(f"{counts[place, what]} {what}" for what in OUTCOMES))
    return int(any(counts[place, what] for place in ("x.rrr", "cache") for what in OUTCOMES[2:]))


def prepare(given: Path | None, bundle: Path) -> tuple[Sequence[str], np.ndarray]:
    """Make `bundle`; its engines, and a few frames for them."""
    from rrr_edge import Bundle
    from rrr_edge.bundle.limits import Limits
    from rrr_edge.compile import compile_bundle
    from rrr_edge.errors import MissingLibrary

    bundle.parent.mkdir()
    if given is not None:
        shutil.copytree(given, bundle)
    else:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(bundle.parent, filter="data")
        (bundle.parent / "shapes-0.1.0.rrr").rename(bundle)
        try:
            compile_bundle(Bundle.open(bundle), "openvino", precision="int8", limits=Limits(max_drop=1))
        except MissingLibrary as missing:
            print(f"without INT8: {missing}")
    opened = Bundle.open(bundle)
    return opened.engine_names(), opened.reference.images[:IMAGES]


if __name__ == "__main__":
    sys.exit(main())
