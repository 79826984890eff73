"""What doubt costs: `Classifier.predict` alone, with `answered` by each measure, and with all that JSON says, in turns.

    python tests/benchmarks/doubt_cost.py BUNDLE [--target openvino] [--precision int8] [--runs 400]

The frames are the bundle's reference images. Prints medians, and the median of each round's difference and ratio to
`predict` alone with their 95% intervals; and what it takes by itself, without the engine, where other programs disturb
it least.
"""

import argparse
import timeit
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rrr_edge.bundle.doubt import MEASURES, Doubt
from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.folder import Bundle
from rrr_edge.runtime.classifier import Classifier, Prediction
from rrr_edge.timing.interleave import TimingSettings, interleave
from rrr_edge.timing.statistics import median_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target", default="openvino")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--runs", type=int, default=400)
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    images = bundle.reference.images
    uses: dict[str, tuple[Doubt, Callable[[Prediction], Any]]] = {"predict alone": (Doubt(), lambda _: None)}
    for name in MEASURES:
        uses[f"answered, by {name}"] = Doubt(measure=name, threshold=0.5), lambda prediction: prediction.answered
    levels = (0.1,) * len(bundle.manifest.labels)
    uses["all that JSON says"] = Doubt(threshold=0.5, temperature=1.5, levels=levels), lambda each: each.record()
    with Classifier.open(bundle.path, options.target, precision=options.precision) as classifier:

        def running(doubt: Doubt, use: Callable[[Prediction], Any]) -> Callable[[int], Any]:
            own = Classifier(classifier.session, bundle.manifest, doubt=doubt)
            return lambda round_: use(own.predict(images[round_ % len(images)]))

        candidates = {name: running(*use) for name, use in uses.items()}
        found = interleave(candidates, timing=TimingSettings(runs=options.runs))
        one = classifier.predict(images[0])
    samples = {name: np.array(ms) for name, ms in found.samples_ms.items()}
    alone = samples["predict alone"]
    print("| | median ms | more, µs | 95% | ratio | 95% | by itself, µs |\n|---|---:|---:|---:|---:|---:|---:|")
    for name, ms in samples.items():
        doubt, use = uses[name]
        asked = replace(one, doubt=doubt)
        alone_us = 1e6 * min(timeit.repeat(lambda use=use, asked=asked: use(asked), number=200, repeat=20)) / 200
        cells = [f"{np.median(ms):.4f}", "", "", "", "", f"{alone_us:.1f}"]
        if name != "predict alone":
            more, ratios = 1000 * (ms - alone), ms / alone
            cells[1:3] = f"{np.median(more):+.1f}", "{:+.1f} to {:+.1f}".format(*median_interval(more))
            cells[3:5] = f"{np.median(ratios):.3f}", "{:.3f} to {:.3f}".format(*median_interval(ratios))
        print(f"| {name} | {' | '.join(cells)} |")
    here, load = Environment.here(threads=0, versions={}), found.background_load or 0
    classes, branches = len(bundle.manifest.labels), bundle.manifest.spec.branches
    print(
        f"\n{here.cpu}, {here.cores} cores, of whose time other programs took {load:.0%}; {classes} classes, ", end=""
    )
    print(f"{branches} branches")


if __name__ == "__main__":
    main()
