"""What a network gets wrong, as a picture: `python examples/mistakes.py` draws mistakes.jpg in a minute or two.

Handwritten digits at 32 pixels, random weights and a few epochs: a network that still errs.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from rrr_edge.backends.onnxruntime import ONNXRuntime, ONNXRuntimeSession
from rrr_edge.bundle.evaluation import ONNX, Evaluation
from rrr_edge.bundle.folder import Bundle
from rrr_edge.images.labelled import read_labelled
from rrr_edge.profile.evaluate import Evaluated, evaluate_bundle

OUT = Path(__file__).with_name("mistakes.jpg")


def draw(bundle: Bundle, photos: Path, out: Path) -> Evaluation:
    """Evaluate the bundle's graph on the test photos in `photos`; the sheet of its worst mistakes becomes `out`."""
    session = ONNXRuntimeSession(bundle.model)
    model = Evaluated(ONNX, session, ONNXRuntime().versions())
    found, _ = evaluate_bundle(bundle, model, read_labelled(photos, bundle))
    session.close()
    assert found.contact_sheet, "it made no mistake"
    shutil.copyfile(bundle.evaluation_folder(ONNX) / found.contact_sheet.name, out)
    return found


def main() -> None:
    from rrr_edge.bundle.recipe import RRR, Training
    from rrr_edge.compress import compress
    from rrr_edge.images.digits import write_digits

    with TemporaryDirectory() as folder:
        photos = Path(folder) / "digits"
        write_digits(photos, size=32)
        recipe = RRR(weights="random", image_size=32, training=Training(epochs=2, shared_batches=True))
        bundle = compress(photos, Path(folder) / "digits.rrr", recipe=recipe)
        print(draw(bundle, photos, OUT).words, f"{OUT}", sep="\n")


if __name__ == "__main__":
    main()
