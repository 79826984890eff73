"""A camera's frame in C++ and in Python: `classify` of examples/cpp beside `Classifier.predict`, in turns.

    python tests/benchmarks/cpp.py [BUNDLE] [--box FOLDER] [--frame 1280x720] [--runs 200] [--json]

Without a BUNDLE one is made (letters, 128x128, one epoch), without a `--box` the example is built. Both use the INT8
engine with the same number of threads. The C++ program gets its frames through a pipe and tells what `predict` took.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from headline import make_bundle
from numpy.typing import NDArray

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.measurements import Measurement, Subject, ratio
from rrr_edge.compile import compile_bundle
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.machine import cpu_info, usable_cores

EXAMPLE = Path(__file__).parents[2] / "examples" / "cpp"
WARM = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--box", type=Path)
    parser.add_argument("--frame", default="1280x720")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        box = options.box or build(Path(work))
        bundle = Bundle.open(options.bundle) if options.bundle else make_bundle(Path(work), epochs=1)
        if not options.bundle:
            compile_bundle(bundle, "openvino", precision="int8", limits=Limits(max_drop=1))
        result = measure(bundle, box, options.frame, options.runs)
    print(json.dumps(result, indent=2) if options.json else as_text(result))


def build(work: Path) -> Path:
    configure = ["cmake", "-S", EXAMPLE, "-B", work / "build", f"-DPython3_EXECUTABLE={sys.executable}"]
    install = ["cmake", "--install", work / "build", "--prefix", work / "box"]
    for command in (configure, ["cmake", "--build", work / "build"], install):
        subprocess.run(command, check=True, stdout=sys.stderr)
    return work / "box"


class CPlusPlus:
    """The program, which answers a frame that it is sent."""

    def __init__(self, box: Path, bundle: Path, frame: str, threads: int) -> None:
        words = [box / "classify", bundle, "--threads", str(threads), "--raw", frame, "--json", "-"]
        self._process = subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def predict(self, frame: NDArray[np.uint8]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(frame.tobytes())
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def measure(bundle: Bundle, box: Path, frame: str, runs: int) -> dict[str, Any]:
    width, height = map(int, frame.split("x"))
    frames = np.random.default_rng(0).integers(0, 256, (8, height, width, 3), dtype=np.uint8)
    threads = usable_cores()
    program = CPlusPlus(box, bundle.path, frame, threads)
    samples: dict[str, list[float]] = {"C++": [], "Python": []}
    difference = 0.0
    with Classifier.open(bundle.path, precision="int8", threads=threads) as classifier:
        for number in range(runs):
            picture = frames[number % len(frames)]
            for name in list(samples)[:: 1 if number % 2 else -1]:
                for _ in range(WARM):  # its caches and threads are as after the other's turn
                    program.predict(picture) if name == "C++" else classifier.predict(picture)
                if name == "C++":
                    found = program.predict(picture)
                    samples[name].append(found["ms"])
                else:
                    begin = time.perf_counter()
                    expected = classifier.predict(picture)
                    samples[name].append((time.perf_counter() - begin) * 1e3)
            difference = max(difference, float(np.abs(found["probabilities"] - expected.probabilities).max()))
    program.close()
    about = Subject(backend="openvino", precision="int8", threads=threads)
    timed = [
        Measurement(name=name, subject=about, samples_ms=tuple(samples_ms)) for name, samples_ms in samples.items()
    ]
    return {
        "frame": frame,
        "image_size": bundle.manifest.preprocess.image_size,
        "max_abs_difference": difference,
        "times": {m.name: m.summary.model_dump() for m in timed},
        "ratio": ratio(*timed).model_dump(),
        "cpu": cpu_info()[0],
        "threads": threads,
    }


def as_text(result: dict[str, Any]) -> str:
    low, high = result["ratio"]["interval"]
    times = ", ".join(f"{name} {summary['median_ms']:.3f} ms" for name, summary in result["times"].items())
    return (
        f"{result['frame']} to {result['image_size']}, medians of {result['times']['C++']['runs']} runs: {times}\n"
        f"C++ takes {result['ratio']['value']:.3f} ({low:.3f} to {high:.3f}) times as long as Python; "
        f"probabilities differ by {result['max_abs_difference']:.1e} at most; {result['cpu']}, "
        f"{result['threads']} threads"
    )


if __name__ == "__main__":
    main()
