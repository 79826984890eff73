"""The report of what was measured: one self-contained HTML file, and Markdown for a pull request."""

from collections.abc import Sequence
from pathlib import Path

from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.outputs import require_output, write_output
from rrr_edge.bundle.profile import Profile
from rrr_edge.report.candidate import Candidate, candidates_of
from rrr_edge.report.figures import figures_of
from rrr_edge.report.markdown import MARK, markdown_of
from rrr_edge.report.page import GENERATOR, page_of
from rrr_edge.report.verdict import verdict

REPORT = "report.html"


def write_report(
    bundles: Sequence[Path], out: Path, *, markdown: Path | None = None, allow_cross_machine: bool = False
) -> str:
    """Report on every profile of `bundles`, the first bundle's fastest engine before all; return the verdict.

    Earlier reports are replaced, other files are not. Raises UsageError (such a file; nothing profiled; profiles of
    several machines, unless allowed), BadInput, CorruptArtifact, CannotRunHere (unwritable).
    """
    require_output(out, GENERATOR)
    if markdown:
        require_output(markdown, MARK)
    candidates = candidates_of(bundles, allow_cross_machine=allow_cross_machine)
    write_output(out, page_of(candidates), GENERATOR)
    if markdown:
        write_output(markdown, markdown_of(candidates), MARK)
    return verdict(candidates)


def files_of(bundle: Bundle, profile: Profile) -> dict[str, str]:
    """What belongs beside a profile for people to look at: every figure, and the page."""
    own = Candidate(bundle, profile)
    figures = {f"{picture.name}.svg": picture.alone() for picture in figures_of(own)}
    return {**figures, REPORT: page_of([own])}
