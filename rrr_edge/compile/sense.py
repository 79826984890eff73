"""The refusal of what makes no sense, before anything is made."""

from pathlib import Path

from rrr_edge.backends import backend_of
from rrr_edge.backends.build import takes_prepared
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.target import Target
from rrr_edge.compile.build import lowerings_of, possible_lowerings
from rrr_edge.compile.request import reads_images
from rrr_edge.errors import UsageError
from rrr_edge.images.dataset import calibration_folder

DEFAULT = Limits()


def require_sense(
    bundle: Bundle,
    target: Target,
    *,
    calib_data: str | Path | None = None,
    limits: Limits = DEFAULT,
    prepare_only: bool = False,
) -> None:
    """Raise UsageError or CannotRunHere for what can be refused before anything is made.

    Where a graph has to be prepared first, the machine that builds from it is not asked.
    """
    limits.require_sense()
    if target.lowering not in ("auto", *possible_lowerings(bundle)):
        what = "pairs of convolutions" if target.lowering == "product" else "branches"
        said = "written as one" if target.lowering == "product" else target.lowering
        raise UsageError(
            f"{bundle.path} has no {what} that could be {said}.", advice="Compile with --lowering grouped."
        )
    if calib_data is not None:
        if not reads_images(target):
            raise UsageError(
                f"Nothing reads --calib-data for {target.precision} with the {target.backend} backend.",
                advice="Leave it out, or ask for --precision int8.",
            )
        calibration_folder(calib_data)
    if not takes_prepared(target):
        if prepare_only:
            raise UsageError(
                f"The {target.backend} backend takes the bundle's own graph; there is nothing to prepare.",
                advice="Compile without --prepare-only.",
            )
        backend_of(target).check(target)
    elif prepare_only and len(lowerings := lowerings_of(bundle, target)) > 1:
        raise UsageError(
            "The fastest lowering can only be measured on the target itself.",
            advice=f"Prepare one of them with --lowering {', '.join(lowerings)}.",
        )
