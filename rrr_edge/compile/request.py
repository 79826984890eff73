"""The request for a compilation: target, precision, calibration and limits."""

import hashlib
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rrr_edge.backends import backend_of
from rrr_edge.backends.build import takes_prepared
from rrr_edge.backends.graph.lowering import lowered
from rrr_edge.backends.protocols import Preparation, Quantiser
from rrr_edge.backends.tensorrt.quantised import PreparedQuantiser
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.reference import Images, Outputs
from rrr_edge.bundle.target import Lowering, Target
from rrr_edge.bundle.verification import Verification, verify_answers
from rrr_edge.errors import BadInput, counted
from rrr_edge.images.dataset import calibration_folder, read_folder
from rrr_edge.timing.progress import OnProgress

# The share of unreadable calibration images that is passed over, as in the scan of a data set.
MAX_BAD = 0.01


@dataclass(frozen=True)
class BuildRequest:
    """An engine that is wanted. `calibration` is empty where nothing reads it; `passed_over` says what is left out.

    `products` are the pairs that the lowering "mixed" writes as one.
    """

    bundle: Bundle
    target: Target
    calibration: Images
    limits: Limits
    on_progress: OnProgress
    passed_over: str = ""
    products: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the calibration images."""
        tests = {image.tobytes() for image in self.bundle.reference.images} if len(self.calibration) else set()
        known = sum(image.tobytes() in tests for image in self.calibration)
        flatters = (
            f"Among the {len(self.calibration)} calibration images: {counted(known, 'test photo')}, by which the "
            "engine is judged, so that its accuracy flatters. Calibrate with training photos or frames of the device."
        )
        return tuple(filter(None, (self.passed_over, flatters if known else "")))

    @property
    def is_own(self) -> bool:
        """Whether the calibration images are not the bundle's."""
        return self.calibration is not self.bundle.calibration

    @property
    def preparation(self) -> Preparation:
        """What the backend asks of the graph, of a target whose backend builds from prepared ones."""
        asked = backend_of(self.target).preparation(self.target)
        assert asked is not None
        return asked

    @cached_property
    def calibration_digest(self) -> str:
        return hashlib.sha256(self.calibration.tobytes()).hexdigest() if len(self.calibration) else ""

    @cached_property
    def search_deadline(self) -> float:
        """When the time for all searches of this request is up, of the monotonic clock; it runs from the first one."""
        return time.monotonic() + 60 * self.limits.search_minutes

    @property
    def quantiser(self) -> Quantiser | None:
        """What makes other ways to quantise, where the precision is one of 8 bits and the backend has any."""
        if self.target.precision not in ("int8", "fp8"):
            return None
        if takes_prepared(self.target):
            return PreparedQuantiser(self.preparation)
        backend = backend_of(self.target)
        return backend if isinstance(backend, Quantiser) else None

    def judge(self, answers: Outputs) -> Verification:
        """What was answered on the reference images, held against the limits."""
        return verify_answers(
            self.bundle.reference,
            answers,
            precision=self.target.precision,
            layers=self.bundle.manifest.spec.layers,
            limits=self.limits,
        )

    def lowered(self, lowering: Lowering) -> AbstractContextManager[Path]:
        """The bundle's graph written in this way, in a file for the time being."""
        return lowered(self.bundle.model, lowering, self.products)


def reads_images(target: Target) -> bool:
    """Typical images tell int8 and fp8 their ranges, and fp16 where it is written into the graph."""
    return target.precision in ("int8", "fp8") or (target.precision == "fp16" and takes_prepared(target))


def read_calibration(bundle: Bundle, target: Target, calib_data: str | Path | None) -> Images:
    """The images that `target` reads: those of the folder or the packaged set `calib_data`, else the bundle's own."""
    if not reads_images(target):
        return bundle.reference.images[:0]
    if calib_data is None:
        return bundle.calibration
    folder = calibration_folder(calib_data)
    pictures = read_folder(folder, bundle.manifest.preprocess, limit=300)
    bad, count = pictures.bad, len(pictures.files) + len(pictures.bad)
    if len(bad) > MAX_BAD * count:
        named = ", ".join(f"{file.path} ({file.reason})" for file in bad[:10])
        raise BadInput(
            f"{len(bad)} of {count} calibration images in {folder} cannot be read, more than {MAX_BAD:.0%}: "
            f"{named}{' and more' if len(bad) > 10 else ''}.",
            advice="Repair or remove them.",
        )
    return pictures.images
