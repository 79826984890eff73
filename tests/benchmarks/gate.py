"""How often the gate cries wolf, and how often it misses one: an engine against itself, and against itself slowed.

Draws 20 letters in matplotlib's fonts, compresses and compiles (or takes --bundle), then races the INT8 engine against
itself and against a session that makes every answer 10% later, both opened anew each time:

    python tests/benchmarks/gate.py [--bundle BUNDLE] [--comparisons 100] [--slowdown 1.1] [--budget-s 10]

Checks, with the limit at 1.05: of 100 comparisons with itself at most 2 fail; of 100 with the slowed one at least 95.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import mean, median
from typing import Any

from headline import make_bundle

from rrr_edge.backends import Session
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits as EngineLimits
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.cli.display import Display
from rrr_edge.compile import compile_bundle
from rrr_edge.profile.gate import Limits, race
from rrr_edge.profile.gate_result import Speed
from rrr_edge.profile.onnx_baselines import running, shuffled_images
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.progress import Step


class Slowed:
    """A session whose every answer takes `factor` times as long; it waits busily, as a slower engine would compute."""

    def __init__(self, session: Session, factor: float) -> None:
        self._session, self._factor = session, factor

    def run(self, images: Images) -> Outputs:
        start = time.perf_counter_ns()
        outputs = self._session.run(images)
        until = start + (time.perf_counter_ns() - start) * self._factor
        while time.perf_counter_ns() < until:
            pass
        return outputs

    def precision_found(self) -> dict[str, float]:
        return self._session.precision_found()

    def close(self) -> None:
        self._session.close()


def compare(bundle: Bundle, factor: float, limits: Limits) -> Speed:
    images = shuffled_images(bundle)
    with (
        Classifier.open(bundle.path, "openvino", precision="int8") as baseline,
        Classifier.open(bundle.path, "openvino", precision="int8") as candidate,
    ):
        slowed = Slowed(candidate.session, factor) if factor != 1 else candidate.session
        return race(running(baseline.session, images), running(slowed, images), limits)


def sum_up(speeds: list[Speed]) -> dict[str, Any]:
    ratios = sorted(speed.ratio for speed in speeds)
    return {
        "verdicts": dict(Counter(speed.verdict for speed in speeds)),
        "rounds, mean": round(mean(speed.rounds for speed in speeds), 1),
        "seconds, mean": round(mean(speed.seconds for speed in speeds), 2),
        "ratio: least, middle, most": [round(ratio, 3) for ratio in (ratios[0], median(ratios), ratios[-1])],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--comparisons", type=int, default=100)
    parser.add_argument("--slowdown", type=float, default=1.1)
    parser.add_argument("--budget-s", type=float, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        bundle = Bundle.open(options.bundle) if options.bundle else make_bundle(Path(work), epochs=1)
        if "openvino-int8" not in bundle.engine_names():
            compile_bundle(bundle, "openvino", precision="int8", limits=EngineLimits(max_drop=1))
        kinds = {"with itself": 1.0, f"with itself, {options.slowdown:g} times slower": options.slowdown}
        found: dict[str, list[Speed]] = {kind: [] for kind in kinds}
        limits = Limits(budget_s=options.budget_s)
        with Display().progress() as on_progress:
            for done in range(options.comparisons):
                for kind, factor in kinds.items():
                    found[kind].append(compare(bundle, factor, limits))
                on_progress(Step("compare", done + 1, options.comparisons))
    result = {kind: sum_up(speeds) for kind, speeds in found.items()}
    print(json.dumps(result, indent=2))
    alarms, caught = (sum(speed.verdict == "fail" for speed in speeds) for speeds in found.values())
    if alarms > 0.02 * options.comparisons or caught < 0.95 * options.comparisons:
        sys.exit(f"{alarms} false alarms and {caught} caught of {options.comparisons} each: the gate is not kept")


if __name__ == "__main__":
    main()
