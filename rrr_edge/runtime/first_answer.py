"""The smallest app that embeds a Classifier, as a program: it answers one photo, then waits until its input ends."""

import sys

from rrr_edge.bundle.target import Target
from rrr_edge.runtime.classifier import Classifier


def main(bundle: str, target_json: str, photo: str) -> None:
    """Print the index of the class that the engine of `bundle` for the target gives the file `photo`."""
    target = Target.model_validate_json(target_json)
    with Classifier.open(bundle, target, precision=target.precision, threads=target.threads) as classifier:
        print(classifier.predict(photo).index, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
