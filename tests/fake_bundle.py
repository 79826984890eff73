"""A bundle on disk whose graph is nothing but a few bytes: enough for a fake backend, and made in no time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import CALIBRATION, ENGINE, MANIFEST, MODEL, REFERENCE, WEIGHTS, Bundle
from rrr_edge.bundle.manifest import Cost, Manifest, Preprocess, Provenance
from rrr_edge.bundle.recipe import RRR
from rrr_edge.bundle.record import UNSEALED, sealed
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.bundle.target import Target
from rrr_edge.bundle.verification import Verification

LABELS = ("dark", "middle", "bright")
SPEC = ResNetSpec(depths=(1, 1, 1, 1), num_classes=len(LABELS))
COST = Cost(params=7, trainable_params=5, macs=11, weights_bytes=28)
VERIFICATION = Verification(
    against="torch",
    images=6,
    max_abs_diff=0,
    top1_agreement=1,
    log_cosine=1,
    accuracy_reference=1,
    accuracy=1,
    passed=True,
)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Let `change` edit the JSON of a sealed file, and seal it again."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(sealed(json.dumps(data | {"seal": UNSEALED})))


def write_bundle(folder: Path, *, image_size: int = 16, images: int = 6) -> Bundle:
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, image_size, image_size, 3), dtype=np.uint8)
    thirds = np.full((images, 1, len(LABELS)), 1 / len(LABELS), np.float32)
    (folder / MODEL).write_bytes(b"a graph")
    (folder / WEIGHTS).write_bytes(b"weights")
    np.savez(folder / CALIBRATION, images=pixels)
    np.savez(
        folder / REFERENCE,
        images=pixels,
        labels=np.zeros(images, np.int64),
        probabilities=thirds[:, 0],
        branch_probabilities=thirds,
    )
    manifest = Manifest(
        name="fakes",
        spec=SPEC,
        labels=LABELS,
        preprocess=Preprocess(image_size=image_size),
        recipe=RRR(),
        cost=COST,
        accuracy=None,
        provenance=Provenance(
            weights="none",
            weights_sha256="",
            data="none",
            data_sha256="",
            images={},
            created="",
            duration_s=0,
            machine="",
            versions={},
        ),
        verification=VERIFICATION,
        files=tuple(describe_file(folder / name) for name in (MODEL, WEIGHTS, CALIBRATION, REFERENCE)),
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return Bundle.open(folder)


def write_engine(bundle: Bundle, target: Target, *files: tuple[str, bytes]) -> Engine:
    """As if compiled: the engine's card beside `files` (name, content)."""
    folder = bundle.engine_folder(target.engine_name)
    folder.mkdir(parents=True)
    for name, content in files:
        (folder / name).write_bytes(content)
    engine = Engine(
        target=target,
        model_sha256=bundle.model_sha256,
        files=tuple(describe_file(folder / name) for name, _ in files),
        versions={},
        verification=VERIFICATION,
        precision_found={target.precision: 1.0},
        calibration="",
        created="",
        machine="",
    )
    (folder / ENGINE).write_text(engine.to_json())
    return engine
