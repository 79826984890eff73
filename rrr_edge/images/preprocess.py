"""The one way from any picture to the network's input, which training, calibration, profile and app share."""

from dataclasses import dataclass
from pathlib import Path

from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.images.fit import Region, fit
from rrr_edge.images.picture import Pixels, Source, load, read_file


@dataclass(frozen=True)
class Preprocessor:
    """Pictures to uint8 [S, S, 3] as `settings` say, of `roi` alone where there is one."""

    settings: Preprocess
    roi: Region | None = None

    def __call__(self, source: Source) -> Pixels:
        """Decode and fit a picture. Raises BadInput."""
        return self.fit(load(source))

    def fit(self, frame: Pixels) -> Pixels:
        """Fit uint8 RGB [H, W, 3], or the region of interest in it. Raises BadInput."""
        if self.roi is not None:
            frame = self.roi.cut(frame)
        return fit(frame, self.settings.image_size, self.settings.fit)

    def read_file(self, path: Path) -> tuple[Pixels, str]:
        """The fitted picture in the file, and the SHA-256 of its bytes. Raises Undecodable."""
        frame, digest = read_file(path)
        return self.fit(frame), digest
