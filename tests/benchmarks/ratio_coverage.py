"""Whether a profile's ratios hold: profiled again and again, alone and beside other programs, in a process each.

Draws 20 letters in matplotlib's fonts, compresses and compiles (or takes --bundle). The quiet ratios are the medians of
profiles that wait for a quiet machine, or where none of them finds it so, those of their times on the cores. Then the
INT8 engine is profiled beside ResNet152 as engines of FP32 and INT8, while nothing else runs, 1 and 3 processes spin,
one copies memory, and a process for each core spins in bursts:

    python tests/benchmarks/ratio_coverage.py [--bundle BUNDLE] [--profiles 5] [--references 5] [--runs 100]

Prints for each of these how many profiles gave ratios and how many refused, how often the stated intervals and bounds
hold the quiet ratio, and how often the intervals of two profiles overlap; beside it, the same of intervals that count
all rounds alike. Checks, for each of these apart: at least 9 in 10 intervals hold the quiet ratio, and 9 in 10 bounds;
alone there are ratios.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from headline import make_bundle

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.profile import ENGINE
from rrr_edge.compile import compile_bundle
from rrr_edge.profile import profile_bundle
from rrr_edge.profile.request import Baselines
from rrr_edge.timing.interleave import TimingSettings
from rrr_edge.timing.quiet import Patience

_SPIN = "while True: pass"
_COPY = "import numpy as np\na = np.ones(40_000_000); b = a.copy()\nwhile True: np.copyto(b, a)"
_BURSTS = """
import os, random, time
for _ in range(os.cpu_count() - 1):
    if os.fork() == 0: break
drawn = random.Random(0)  # the same in all, so that they spin together
while True:
    until = time.monotonic() + drawn.uniform(0.5, 4)
    while time.monotonic() < until: pass
    time.sleep(drawn.uniform(0.5, 4))
"""
ALONE, UNBOUNDED = "alone", (0.0, 1e9)
_BESIDE = {
    ALONE: (),
    "1 spinning": (_SPIN,),
    "3 spinning": (_SPIN,) * 3,
    "memory hog": (_COPY,),
    "bursts": (_BURSTS,),
}
_WAIT_MINUTES = 10


class Found(NamedTuple):
    """Of one baseline in one profile: the stated interval or bound, the ratio, the interval of all rounds, and the
    ratio of the times on the cores.
    """

    of: str
    value: float | None
    low: float
    high: float
    all_low: float
    all_high: float
    by_cpu: float

    def holds(self, quiet: float) -> bool:
        return self.low <= quiet <= self.high

    def always_held(self, quiet: float) -> bool:
        return self.all_low <= quiet <= self.all_high


@contextmanager
def running(programs: Sequence[str]) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", code], start_new_session=True) for code in programs]
    try:
        yield
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def one(bundle: Path, runs: int, patience: float) -> list[Found]:
    """In a process of its own: another start has other addresses, and other luck."""
    code = "import json, sys, ratio_coverage as r; print(json.dumps(r.profile_once(*map(json.loads, sys.argv[1:]))))"
    arguments = [json.dumps(value) for value in (str(bundle), runs, patience)]
    path = os.pathsep.join((str(Path(__file__).parent), *filter(None, (os.environ.get("PYTHONPATH"),))))
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=True,
    )
    return [Found(*row) for row in json.loads(done.stdout.splitlines()[-1])]


def profile_once(path: str, runs: int, patience: float) -> list[Found]:
    from rrr_edge.bundle.measurements import ratio

    bundle = Bundle.open(path)
    timing = TimingSettings(runs=runs, patience=Patience(60 * patience))
    profile = profile_bundle(bundle, "openvino", baselines=Baselines((bundle.baseline,)), timing=timing)
    found = []
    for stated in (*profile.ratios, *profile.bounds):
        whole = [profile.measurement(name).model_copy(update={"loads": ()}) for name in (stated.of, ENGINE)]
        low, high = ratio(*whole).interval
        by_cpu = median(whole[0].cpu_ms) / median(whole[1].cpu_ms)
        value = None
        if hasattr(stated, "interval"):
            value, own = stated.value, stated.interval
        else:
            own = (stated.at_least or UNBOUNDED[0], stated.at_most or UNBOUNDED[1])
        found.append(Found(stated.of, value, *own, low, high, by_cpu))
    return found


def summary(profiles: Sequence[Sequence[Found]], quiet: dict[str, float]) -> dict[str, Any]:
    """Of the profiles beside the same programs; each of their ratios counts."""
    flat = [found for profile in profiles for found in profile]
    given = [found for found in flat if found.value is not None]
    pairs = [pair for name in quiet for pair in combinations([f for f in flat if f.of == name], 2)]
    stated = [(a, b) for a, b in pairs if a.value is not None and b.value is not None]
    return {
        "profiles": len(profiles),
        "with ratios": sum(any(f.value is not None for f in profile) for profile in profiles),
        "ratios that hold": _of(sum(f.holds(quiet[f.of]) for f in given), len(given)),
        "bounds that hold": _of(sum(f.holds(quiet[f.of]) for f in flat if f.value is None), len(flat) - len(given)),
        "pairs that overlap": _of(sum(a.low <= b.high and b.low <= a.high for a, b in stated), len(stated)),
        "all rounds: hold": _of(sum(f.always_held(quiet[f.of]) for f in flat), len(flat)),
        "all rounds: overlap": _of(
            sum(a.all_low <= b.all_high and b.all_low <= a.all_high for a, b in pairs), len(pairs)
        ),
    }


def faults(profiles: Mapping[str, Sequence[Sequence[Found]]], quiet: dict[str, float]) -> list[str]:
    """What is wrong beside what: intervals and bounds are judged apart, and alone there must be ratios."""
    wrong = []
    for beside, found in profiles.items():
        flat = [f for profile in found for f in profile]
        parts = {
            "intervals": [f for f in flat if f.value is not None],
            "bounds": [f for f in flat if f.value is None and (f.low, f.high) != UNBOUNDED],
        }
        for what, stated in parts.items():
            held = sum(f.holds(quiet[f.of]) for f in stated)
            if held < 0.9 * len(stated):
                wrong.append(f"{beside}: {_of(held, len(stated))} {what} hold the quiet ratio, fewer than 9 in 10")
        if beside == ALONE and not parts["intervals"]:
            wrong.append(f"{beside}: no profile gave a ratio")
    return wrong


def _of(count: int, total: int) -> str:
    return f"{count} of {total}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--profiles", type=int, default=5)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--runs", type=int, default=100)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what spins beside it ends too
    with tempfile.TemporaryDirectory() as work:
        bundle = Bundle.open(options.bundle) if options.bundle else make_bundle(Path(work), epochs=1)
        if "openvino-int8" not in bundle.engine_names():
            compile_bundle(bundle, "openvino", precision="int8", limits=Limits(max_drop=1))
        if not bundle.baseline.is_file():
            from rrr_edge.compress.baselines import write_baseline

            write_baseline(bundle)
        one(bundle.path, 20, 0)  # compiles the baselines
        references = [one(bundle.path, options.runs, _WAIT_MINUTES) for _ in range(options.references)]
        found = [f for profile in references for f in profile]
        was_quiet = any(f.value is not None for f in found)
        known = [(f.of, f.value if was_quiet else f.by_cpu) for f in found]
        quiet = {name: median(v for of, v in known if of == name and v) for name in dict(known)}
        profiles: dict[str, list[list[Found]]] = {}
        for name, programs in _BESIDE.items():
            for _ in range(options.profiles):
                with running(programs):
                    profiles.setdefault(name, []).append(one(bundle.path, options.runs, 0))
            print(name, profiles[name], file=sys.stderr, flush=True)
        environment = json.loads((bundle.profile_folder("openvino-int8") / "profile.json").read_text())["environment"]
    table = {"references": summary(references, quiet)}
    table |= {name: summary(found, quiet) for name, found in profiles.items()}
    how = "by quiet rounds" if was_quiet else "by the times on the cores, as no profile found the machine quiet"
    print(json.dumps({"environment": environment, "quiet ratios": quiet, "told": how, "beside": table}, indent=2))
    if wrong := faults(profiles, quiet):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
