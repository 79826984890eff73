"""The figures of one profile, in the order of the page; those whose data are missing are left out."""

from rrr_edge.report.candidate import Candidate
from rrr_edge.report.latency import draw_distribution, draw_latency
from rrr_edge.report.parts import draw_parts, draw_roofline
from rrr_edge.report.plots import Picture, beside
from rrr_edge.report.sparsity import sparsity_panels
from rrr_edge.report.tradeoff import draw_spider
from rrr_edge.report.words import title_of


def figures_of(candidate: Candidate) -> list[Picture]:
    """Each is a file beside the profile, named after the picture; figure 3 has all its panels in one."""
    profile = candidate.profile
    panels = sparsity_panels(profile)
    figure3 = beside(panels, name="figure3", title=f"Time against sparsity, {title_of(profile)}") if panels else None
    found = (
        draw_latency(profile),
        draw_distribution(profile),
        figure3,
        draw_parts(profile),
        draw_roofline(profile),
        draw_spider(candidate, (candidate,)),
    )
    return [picture for picture in found if picture]
