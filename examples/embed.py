"""Embed an engine: classify image files, or what a camera library hands over as arrays. No torch needed.

python examples/embed.py mugs.rrr photo.jpg ...

OpenCV's frames are BGR: Classifier.open(..., channels="bgr"), and then classifier.predict(frame).
"""

import sys

from rrr_edge import Classifier, RRREdgeError

if len(sys.argv) < 3:
    sys.exit(__doc__)
try:
    with Classifier.open(sys.argv[1], target="openvino", precision="int8") as classifier:
        for prediction in classifier.predict_many(sys.argv[2:]):
            label = prediction.label if prediction.answered else "unsure"  # `rrr-edge calibrate` teaches it when
            print(f"{label}  {prediction.probability:.1%}  uncertainty {prediction.uncertainty:.2f}")
except RRREdgeError as error:
    sys.exit(f"{error} {error.advice}")
