"""What opening a bundle costs here and in another checkout of rrr-edge, in processes that take turns.

    git worktree add ../older COMMIT
    python tests/benchmarks/opening.py ../older [--pairs 12] [--opens 10]

Both open the same bundle, the fixture of the tests, in the first release's format. A process imports everything and
opens once, which makes OpenVINO's cache; then it opens again and again, and its medians count. The difference is the
median over the pairs of processes, with its 95% interval. Without a checkout this one is compared with itself.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parents[2]
ARCHIVE = HERE / "tests" / "bundle" / "fixtures" / "bundle-0.1.0.tar.xz"
TARGETS = ("openvino", "onnxruntime")
CHILD = """
import statistics, sys, time
from pathlib import Path
import rrr_edge
from rrr_edge import Classifier
checkout, bundle, target, opens = sys.argv[1:]
assert Path(rrr_edge.__file__).is_relative_to(checkout), rrr_edge.__file__
def opening():
    begin, cpu = time.perf_counter(), time.process_time()
    classifier = Classifier.open(bundle, target, precision="fp32")
    end = time.perf_counter(), time.process_time()
    classifier.close()
    return 1000 * (end[0] - begin), 1000 * (end[1] - cpu)
opening()
print(*map(statistics.median, zip(*(opening() for _ in range(int(opens))))))
"""


def opening_ms(checkout: Path, bundle: Path, target: str, opens: int) -> list[float]:
    """By the clock and of the processor's time, which other programs disturb less."""
    cache = bundle.parent / f"cache-{checkout.name}"
    environment = {**os.environ, "PYTHONPATH": str(checkout), "XDG_CACHE_HOME": str(cache)}
    words = [sys.executable, "-c", CHILD, str(checkout), str(bundle), target, str(opens)]
    done = subprocess.run(words, env=environment, cwd=bundle.parent, capture_output=True, text=True, check=True)
    return [float(ms) for ms in done.stdout.split()]


def main() -> None:
    from rrr_edge.timing.statistics import median_interval

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=HERE)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--opens", type=int, default=10)
    asked = parser.parse_args()
    other = asked.checkout.resolve()
    with tempfile.TemporaryDirectory() as work:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(work, filter="data")
        bundle = Path(work) / "shapes-0.1.0.rrr"
        for target in TARGETS:
            times = np.empty((asked.pairs, 2, 2))
            for pair in range(asked.pairs):
                for which in (0, 1) if pair % 2 else (1, 0):
                    times[pair, which] = opening_ms((HERE, other)[which], bundle, target, asked.opens)
            for what, (here, there) in (("clock", times[..., 0].T), ("CPU time", times[..., 1].T)):
                low, high = median_interval(here - there)
                print(
                    f"{target:12} {what:8} here {np.median(here):.2f} ms, there {np.median(there):.2f} ms, difference "
                    f"{np.median(here - there):+.2f} ms (95% interval {low:+.2f} to {high:+.2f})"
                )


if __name__ == "__main__":
    main()
