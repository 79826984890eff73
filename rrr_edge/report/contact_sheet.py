"""Contact sheets: photos in a grid with what was answered, drawn by Pillow."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from rrr_edge.bundle.evaluation import Mistake
from rrr_edge.bundle.reference import Images
from rrr_edge.report.plots import shorten

_TILE, _GAP, _LINE, _COLUMNS = 160, 10, 15, 6
_PAPER, _INK, _SOFT = (255, 255, 255), (31, 35, 40), (89, 99, 110)


def draw_contact_sheet(images: Images, mistakes: Sequence[Mistake], verb: str = "taken for") -> bytes:
    """A JPEG of `images` uint8 [N, S, S, 3] as the network saw them, numbered, each above its class and the answer."""
    columns = min(_COLUMNS, len(mistakes))
    rows = -(-len(mistakes) // columns)
    cell = (_TILE + _GAP, _TILE + 2 * _LINE + _GAP)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, (pixels, mistake) in enumerate(zip(images, mistakes, strict=True)):
        x, y = _GAP + index % columns * cell[0], _GAP + index // columns * cell[1]
        # Small pictures as they are, pixel by pixel; what is shown is what was judged.
        kind = Image.Resampling.NEAREST if len(pixels) < _TILE else Image.Resampling.BILINEAR
        sheet.paste(Image.fromarray(pixels).resize((_TILE, _TILE), kind), (x, y))
        pen.text((x, y + _TILE + 1), shorten(f"{index + 1}. {mistake.label}", 24), _SOFT, font)
        said = f"{shorten(mistake.answer, 18)} {mistake.probability:.0%}"
        pen.text((x, y + _TILE + 1 + _LINE), f"{verb} {said}", _INK, font)
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=85)
    return file.getvalue()
