"""Eight threads on one Classifier, and on one Classifier each: answers a second, wrong answers, errors.

    python tests/benchmarks/threads.py [BUNDLE] [--answers 20000] [--threads 8]

Without a bundle the fixture of the tests is used, whose network is tiny: there the overhead of sharing shows most.
"""

import argparse
import tarfile
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from rrr_edge import Bundle, Classifier, Target

ARCHIVE = Path(__file__).parents[1] / "bundle" / "fixtures" / "bundle-0.1.0.tar.xz"


def measure(classifiers: Sequence[Classifier], bundle: Bundle, answers: int, threads: int) -> tuple[float, int, int]:
    """Answers a second, wrong labels and errors, where thread i uses classifier i (modulo their number)."""
    frames = bundle.reference.images
    expected = [classifiers[0].predict(frame).index for frame in frames]
    share = answers // threads

    def work(thread: int) -> tuple[int, int]:
        classifier, wrong, errors = classifiers[thread % len(classifiers)], 0, 0
        for call in range(share):
            index = (thread + call) % len(frames)
            try:
                wrong += classifier.predict(frames[index]).index != expected[index]
            except Exception:
                errors += 1
        return wrong, errors

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        wrong, errors = np.sum(list(pool.map(work, range(threads))), axis=0)
    return share * threads / (time.perf_counter() - begin), int(wrong), int(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--answers", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if asked.bundle is None:
            with tarfile.open(ARCHIVE) as archive:
                archive.extractall(work, filter="data")
            asked.bundle = Path(work) / "shapes-0.1.0.rrr"
        bundle = Bundle.open(asked.bundle)
        for name in bundle.engine_names():
            target, _, precision = name.rpartition("-")
            for words, count in (("one thread", 0), ("one Classifier", 1), ("one each", asked.threads)):
                with ExitStack() as stack:
                    classifiers = [
                        stack.enter_context(
                            Classifier.open(bundle.path, Target.resolve(target, precision), threads=1)  # type: ignore[arg-type]
                        )
                        for _ in range(max(1, count))
                    ]
                    threads = asked.threads if count else 1
                    rate, wrong, errors = measure(classifiers, bundle, asked.answers, threads)
                print(f"{name:18} {threads} threads, {words:15} {rate:8,.0f} answers/s  {wrong} wrong  {errors} errors")


if __name__ == "__main__":
    main()
