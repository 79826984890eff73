"""What the precisions cost in accuracy before there is a GPU: every prepared graph of a bundle against torch.

    python tests/benchmarks/prepared.py [BUNDLE] [--lowerings grouped,split,dense] [--json]

Without a BUNDLE a network is trained on handwritten digits first, which takes two minutes.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rrr_edge.backends.graph.lowering import lower
from rrr_edge.backends.graph.rewrite import Graph
from rrr_edge.backends.tensorrt.prepare import prepare, run_prepared
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.recipe import RRR, Training
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.target import PRECISIONS
from rrr_edge.bundle.verification import verify
from rrr_edge.compress import compress
from rrr_edge.images.digits import write_digits
from rrr_edge.timing.progress import silent

SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--lowerings", default="grouped")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        bundle = Bundle.open(options.bundle) if options.bundle else make_bundle(Path(work))
        rows = [row for lowering in options.lowerings.split(",") for row in judge(bundle, lowering, Path(work))]
    print(json.dumps(rows, indent=2) if options.json else as_text(rows))


def make_bundle(work: Path) -> Bundle:
    write_digits(work / "digits", size=SIZE)
    training = Training(epochs=8, shared_batches=True, validation_share=0)
    return compress(
        work / "digits", work / "digits.rrr", recipe=RRR(weights="random", image_size=SIZE, training=training)
    )


def judge(bundle: Bundle, lowering: Any, work: Path) -> Iterator[dict[str, Any]]:
    reference = bundle.reference
    expected = Outputs(reference.probabilities, reference.branch_probabilities)
    lowered, out = work / "lowered.onnx", work / "prepared.onnx"
    lower(bundle.model, lowering, lowered)
    for precision in PRECISIONS:
        prepare(lowered, precision, bundle.calibration, out, silent)
        proof = verify(expected, run_prepared(out, reference.images), reference.labels, precision=precision)
        yield {
            "lowering": lowering,
            "precision": precision,
            "MACs": Graph.load(out).precision_shares(),
            "verification": proof.model_dump(),
        }


def as_text(rows: list[dict[str, Any]]) -> str:
    lines = ["lowering precision share of MACs  largest difference  top-1 alike  cosine     accuracy, and drop"]
    for row in rows:
        proof, share = row["verification"], row["MACs"][row["precision"]]
        drop = proof["accuracy_reference"] - proof["accuracy"]
        lines.append(
            f"{row['lowering']:8} {row['precision']:9} {share:13.2%} {proof['max_abs_diff']:19.2g} "
            f"{proof['top1_agreement']:12.2%}  {proof['log_cosine']:.6f} {proof['accuracy']:9.2%} {drop:8.2%}"
        )
    return "\n".join([*lines, f"on {proof['images']} test images"])


if __name__ == "__main__":
    main()
