"""Embed an engine: classify image files, or what a camera library hands over as arrays. No torch needed.

python examples/embed.py mugs.rrr photo.jpg ...
"""

import sys

from rrr_edge import Classifier

if len(sys.argv) < 3:
    sys.exit(__doc__)
with Classifier.open(sys.argv[1], target="openvino", precision="int8") as classifier:
    for prediction in classifier.predict_many(sys.argv[2:]):
        print(f"{prediction.label}  {prediction.probability:.1%}  uncertainty {prediction.uncertainty:.2f}")
