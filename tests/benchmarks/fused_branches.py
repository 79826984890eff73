"""What fusing the branches gains: one grouped network against eight separate ones in a Python loop, same weights.

    python tests/benchmarks/fused_branches.py [--json] [--runs 200] [--threads N] [--size 128]

Both share one stump, run in PyTorch eager on the CPU at batch 1, and are timed in turns in one process.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rrr_edge.bundle.environment import Environment
from rrr_edge.bundle.measurements import Measurement, Subject, ratio
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.compress.rrr.slicing import branch_widths
from rrr_edge.networks import Network, build, cost
from rrr_edge.timing import machine
from rrr_edge.timing.interleave import TimingSettings, interleave

BRANCHES, CLASSES, DEPTHS = 8, 20, (1, 1, 1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--size", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(size=options.size, runs=options.runs, threads=options.threads)
    print(json.dumps(result, indent=2) if options.json else as_text(result))


@torch.inference_mode()
def measure(*, size: int, runs: int, threads: int) -> dict[str, Any]:
    torch.manual_seed(0)
    _, *widths = branch_widths(DEPTHS, BRANCHES, CLASSES)
    spec = ResNetSpec(depths=DEPTHS, branches=BRANCHES, branch_widths=tuple(widths), num_classes=CLASSES)
    fused = with_real_statistics(build(spec), size)
    looped = loop(fused)
    images = torch.randn(16, 1, 3, size, size)
    difference = max((fused(image) - looped(image)).abs().max().item() for image in images)
    if difference > 1e-5:
        raise SystemExit(f"The two networks are not the same: their logits differ by {difference:.1e}.")

    candidates: dict[str, Callable[[int], Tensor]] = {
        "fused": lambda run: fused(images[run % len(images)]),
        "loop": lambda run: looped(images[run % len(images)]),
    }
    timed = interleave(candidates, timing=TimingSettings(runs=runs))
    counted = cost(spec, size)
    subject = Subject(
        backend="torch eager", precision="fp32", threads=threads, params=counted.params, macs=counted.macs
    )
    fused_ms, loop_ms = (
        Measurement(name=name, subject=subject, samples_ms=timed.samples_ms[name]) for name in candidates
    )
    return {
        "size": size,
        "max_abs_difference": difference,
        "still_drifting": timed.unsettled,
        "measurements": [m.model_dump(mode="json") for m in (fused_ms, loop_ms)],
        "loop_over_fused": ratio(loop_ms, fused_ms).model_dump(mode="json"),
        "environment": Environment.here(threads=threads, versions={"torch": torch.__version__}).model_dump(mode="json"),
    }


def loop(fused: Network) -> Callable[[Tensor], Tensor]:
    """The stump of `fused`, then its branches one by one, each a network of its own."""
    branches = []
    one = fused.spec.model_copy(update={"branches": 1})
    for index in range(fused.spec.branches):
        branch = build(one).eval()
        own = {
            name: tensor.chunk(fused.spec.branches)[index]
            for name, tensor in fused.state_dict().items()
            if name.startswith(("layer3", "layer4", "fc")) and tensor.ndim
        }
        branch.load_state_dict(branch.state_dict() | own)
        branches.append(branch)

    def run(images: Tensor) -> Tensor:
        features = fused.stump(images)
        return torch.cat([branch.branches(features) for branch in branches], 1)

    return run


def with_real_statistics(network: Network, size: int) -> Network:
    """Normalise by what really flows: with careless statistics denormal numbers would slow a network down."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    network(torch.randn(8, 3, size, size))
    return network.eval()


def as_text(result: dict[str, Any]) -> str:
    environment, gain = result["environment"], result["loop_over_fused"]
    lines = [
        f"{m['name']:6} median {m['summary']['median_ms']:7.2f} ms, 95% "
        f"{m['summary']['median_interval_ms'][0]:.2f} .. {m['summary']['median_interval_ms'][1]:.2f}"
        + (", unstable: close other programs and repeat" if m["summary"]["unstable"] else "")
        for m in result["measurements"]
    ]
    return "\n".join(
        [
            *lines,
            f"loop / fused {gain['value']:.3f}, 95% {gain['interval'][0]:.3f} .. {gain['interval'][1]:.3f}",
            f"{environment['cpu']}, {environment['threads']} threads, torch {environment['versions']['torch']}",
        ]
    )


if __name__ == "__main__":
    main()
