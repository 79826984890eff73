"""Camera frames made from a bundle's reference images."""

from collections.abc import Iterator

from PIL import Image

from rrr_edge.bundle.reference import Images

FRAME_SIZE = (1280, 720)
JPEG_QUALITY = 90


def frames_of(images: Images) -> Iterator[Image.Image]:
    """Each of the images, scaled up to a camera's frame."""
    for image in images:
        yield Image.fromarray(image).resize(FRAME_SIZE, Image.Resampling.BICUBIC)
