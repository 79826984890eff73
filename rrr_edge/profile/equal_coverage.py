"""Two engines that each answer the same share of the photos, those that it doubts least: which errs more?"""

import numpy as np

from rrr_edge.bundle.doubt import MEASURES, Doubt
from rrr_edge.bundle.evaluation import Bools, Labels, PairedDifference
from rrr_edge.bundle.reference import Outputs
from rrr_edge.bundle.verification import drops_beyond
from rrr_edge.profile.gate_result import EqualCoverage, GateVerdict

# Where the baseline always answers.
_COVERAGE = 0.9


def compare_at_equal_coverage(
    labels: Labels, baseline: tuple[Outputs, Doubt], candidate: tuple[Outputs, Doubt], *, max_drop: float
) -> EqualCoverage:
    """Both answer as many of the photos [N] as the baseline does by its calibration, or 90% where it always answers.

    The candidate's wrong answers may be more by `max_drop` of all photos.
    """
    outputs, doubt = baseline
    own = int(doubt.answers(*outputs).sum())
    answered = max(1, own if doubt.threshold < 1 else round(_COVERAGE * len(labels)))
    before, after = (_mistakes(labels, *side, answered) for side in (baseline, candidate))
    paired = PairedDifference.of(~after, ~before)
    verdict: GateVerdict = "pass"
    if drops_beyond(max_drop, 0, paired.difference):
        verdict = "fail" if drops_beyond(max_drop, 0, paired.interval[1]) else "undecided"
    return EqualCoverage(
        answered=answered,
        baseline_wrong=int(before.sum()),
        candidate_wrong=int(after.sum()),
        paired=paired,
        verdict=verdict,
    )


def _mistakes(labels: Labels, outputs: Outputs, doubt: Doubt, answered: int) -> Bools:
    """Which photos are answered, and wrongly; of equal doubts the first ones are."""
    surest = np.argsort(MEASURES[doubt.measure](*outputs), kind="stable")[:answered]
    wrong = np.zeros(len(labels), np.bool_)
    wrong[surest] = outputs.probabilities[surest].argmax(1) != labels[surest]
    return wrong
