"""Whether a profile can be trusted: an unchanged bundle profiled twice, then beside a process that keeps a core busy.

Draws 20 letters in matplotlib's fonts, compresses and compiles (or takes --bundle), and profiles the INT8 engine beside
ResNet152 as engines of FP32 and INT8:

    python tests/benchmarks/repeat_profile.py [--bundle BUNDLE] [--runs 200]

Checks: each baseline's ratio to the engine is the same within 3 % both times; beside the busy core the engine's time
is called unstable.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headline import make_bundle

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.profile import Profile
from rrr_edge.compile import compile_bundle
from rrr_edge.compress.baselines import write_baseline
from rrr_edge.profile import profile_bundle
from rrr_edge.profile.request import Baselines
from rrr_edge.timing.interleave import TimingSettings

TOLERANCE = 0.03


@contextmanager
def busy_core() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def told(profile: Profile) -> dict[str, object]:
    summary = profile.engine.summary
    return {
        "engine, ms": round(summary.median_ms, 4),
        "spread": round(summary.spread, 3),
        "unstable": summary.unstable,
        "ratios": {ratio.of: round(ratio.value, 3) for ratio in profile.ratios},
        "notes": profile.notes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        bundle = Bundle.open(options.bundle) if options.bundle else make_bundle(Path(work), epochs=1)
        if "openvino-int8" not in bundle.engine_names():
            compile_bundle(bundle, "openvino", precision="int8", limits=Limits(max_drop=1))
        against = Baselines(models=(write_baseline(bundle),))

        def measure(runs: int) -> Profile:
            return profile_bundle(bundle, "openvino", baselines=against, timing=TimingSettings(runs=runs))

        measure(2)  # compiles the baselines
        first, second = measure(options.runs), measure(options.runs)
        with busy_core():
            disturbed = measure(options.runs)
    print(json.dumps({"first": told(first), "second": told(second), "beside a busy core": told(disturbed)}, indent=2))
    apart = max(abs(a.value / b.value - 1) for a, b in zip(first.ratios, second.ratios, strict=True))
    print(f"ratios differ by {apart:.1%} at most")
    if apart > TOLERANCE or not disturbed.engine.summary.unstable:
        sys.exit("the profile does not keep its promise")


if __name__ == "__main__":
    main()
