import runpy
import shutil
from pathlib import Path

from PIL import Image
from small_bundle import copy_bundle

from rrr_edge.bundle.folder import Bundle

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "mistakes.py"


def test_the_sheet_shows_the_mistakes(shared_bundle: Bundle, shapes: Path, tmp_path: Path) -> None:
    for label, image in (("circle", "cross"), ("cross", "circle"), ("square", "square")):
        shutil.copytree(shapes / "test" / image, tmp_path / "photos" / label)
    bundle, out = copy_bundle(shared_bundle, tmp_path / "shapes.rrr"), tmp_path / "sheet.jpg"
    found = runpy.run_path(str(EXAMPLE))["draw"](bundle, tmp_path / "photos", out)
    assert len(found.mistakes) == found.accuracy.images - found.accuracy.correct >= 12
    with Image.open(out) as sheet:
        assert sheet.format == "JPEG"
