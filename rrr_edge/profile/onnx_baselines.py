"""Baseline networks as ONNX files, compiled by the engine's own backend (PyTorch's is in networks/eager.py)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from rrr_edge import __version__
from rrr_edge.backends import Backend, Session
from rrr_edge.backends.protocols import Baseline
from rrr_edge.bundle.baseline import BASELINE_CALIBRATION_IMAGES, LATENCY_ONLY, BaselineCard
from rrr_edge.bundle.files import FileEntry, describe_file, staged_folder
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.measurements import Subject
from rrr_edge.bundle.record import Record
from rrr_edge.bundle.reference import Images
from rrr_edge.bundle.target import Precision, Target
from rrr_edge.bundle.verification import require_precision
from rrr_edge.timing.progress import OnProgress, Step

_COMPILED = "compiled.json"


def targets_beside(target: Target) -> list[Target]:
    """What a network is compiled for to be compared with an engine of `target`: fp32, and the same precision."""
    precisions: dict[Precision, None] = {"fp32": None, target.precision: None}
    return [target.model_copy(update={"precision": precision, "quantisation": None}) for precision in precisions]


def shuffled_images(bundle: Bundle) -> Images:
    images = bundle.reference.images
    return images[np.random.default_rng(0).permutation(len(images))]


def running(session: Session, images: Images) -> Callable[[int], Any]:
    """A candidate that answers one of `images` in each round."""
    return lambda round_: session.run(images[(i := round_ % len(images)) : i + 1])


@contextmanager
def compiled(
    backend: Backend, model: Path, bundle: Bundle, target: Target, on_progress: OnProgress
) -> Iterator[Baseline]:
    """The network `model` as an engine for `target`, open.

    Raises GateFailed where it runs in another precision, and what compiling and opening raise.
    """
    card, folder = compile_baseline(backend, model, bundle, target, on_progress)
    session = backend.open(folder, target)
    try:
        found = session.precision_found()
        require_precision(target.precision, found, what=f"the baseline {card.name}", so="it is not measured")
        subject = Subject(
            backend=target.backend,
            precision=target.precision,
            threads=target.threads,
            params=card.params,
            macs=card.macs,
            size_mb=sum(file.stat().st_size for file in folder.iterdir() if file.name != _COMPILED) / 1e6,
            note=LATENCY_ONLY,
            granularity=card.granularity,
            sparsity=card.sparsity,
            sparsity_asked=card.sparsity_asked,
        )
        yield Baseline(f"{card.name}, {target.backend} {target.precision}", session, subject)
    finally:
        session.close()


def compile_baseline(
    backend: Backend, model: Path, bundle: Bundle, target: Target, on_progress: OnProgress
) -> tuple[BaselineCard, Path]:
    """The network's card and its engine's folder, compiled unless that was done before; INT8 sees 32 images.

    Raises CannotRunHere (not made yet), CorruptArtifact, BadInput and what compiling raises.
    """
    card = BaselineCard.read(model)
    made_from = _Compiled(
        model_sha256=card.model.sha256,
        target=target.model_copy(update={"threads": 0}),
        versions={**backend.versions(), "rrr-edge": __version__},
    )
    folder = model.parent / f"{model.stem}-{target.engine_name}"
    stamp = folder / _COMPILED
    if not (stamp.is_file() and stamp.read_text("utf-8") == made_from.made(folder).to_json()):
        on_progress(Step("build", 0, 1, f"{card.name} {target.precision}"))
        backend.check(target)
        with staged_folder(folder) as stage:
            backend.compile(model, target, bundle.calibration[:BASELINE_CALIBRATION_IMAGES], stage, on_progress)
            (stage / stamp.name).write_text(made_from.made(stage).to_json(), "utf-8")
    return card, folder


class _Compiled(Record):
    """Beside a compiled network: what it was made from, and what was made; made again when either changes."""

    model_sha256: str
    target: Target
    versions: dict[str, str]
    files: tuple[FileEntry, ...] = ()

    def made(self, folder: Path) -> Self:
        """With the files that lie in `folder`."""
        found = sorted(file for file in folder.iterdir() if file.name != _COMPILED)
        return self.model_copy(update={"files": tuple(map(describe_file, found))})
