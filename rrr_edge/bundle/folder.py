"""The bundle: one folder that holds a compressed network and everything measured about it.

    mugs.rrr/  manifest.json  weights.safetensors  model.onnx  reference.npz  calibration.npz  training.csv
               selection.csv  selection.svg         where the depths were chosen automatically
               network.svg  tailoring.csv  tailoring.svg        of a tailored network, and of the search for it
               basis.csv  basis.svg                 of a network whose basis vectors were pruned
               engines/openvino-int8/   model.xml  model.bin  engine.json
               engines/tensorrt-fp16/   prepared.onnx  prepared.json  and the engine, once it is built
               engines/rtx-2080ti-fp16/  also verified.json, once the engine has run on a GPU
                                     and calibrated.json, once its doubt was calibrated
               engines/.timings/        what TensorRT's builder remembers, by GPU and version
               engines/.searches/       what searches for a way to quantise have measured, by engine
               profiles/openvino-int8/  profile.json  samples.csv  *.svg  report.html
               evaluations/openvino-int8/  evaluation.json  confusion.svg  mistakes.png  learning.svg
               reference_network.json   the answers of a network to compare with
               baselines/               resnet152.onnx  channel-30.onnx ...

Only this file knows the names on disk. A verb adds files and replaces its own; everything is renamed into place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rrr_edge.bundle.commands import compiling, compressing, verifying
from rrr_edge.bundle.engine import DeviceVerification, Engine, Prepared
from rrr_edge.bundle.files import FileEntry, require_file, require_no_links, sha256, staged_folder
from rrr_edge.bundle.manifest import Manifest
from rrr_edge.bundle.record import Sealed
from rrr_edge.bundle.reference import Reference, reading_arrays
from rrr_edge.bundle.target import PRECISIONS, Lowering, Target
from rrr_edge.errors import BadInput, CorruptArtifact, UsageError, reading, require_local, require_text

R = TypeVar("R", bound=Sealed)
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
MODEL = "model.onnx"
REFERENCE = "reference.npz"
CALIBRATION = "calibration.npz"
TRAINING_LOG = "training.csv"
SELECTION = "selection.csv"
SELECTION_PLOT = "selection.svg"
TAILORING = "tailoring.csv"
TAILORING_PLOT = "tailoring.svg"
NETWORK_PLOT = "network.svg"
BASIS = "basis.csv"
BASIS_PLOT = "basis.svg"
ENGINE = "engine.json"
VERIFIED = "verified.json"
PREPARED = "prepared.onnx"
PREPARED_CARD = "prepared.json"
PROFILE = "profile.json"
EVALUATION = "evaluation.json"
REFERENCE_NETWORK = "reference_network.json"


@dataclass(frozen=True)
class Bundle:
    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> "Bundle":
        """Read and validate the manifest. Raises UsageError (no UTF-8), BadInput (no bundle) or CorruptArtifact."""
        path = Path(path)
        require_text(path)
        with reading(path):
            exists, is_bundle = path.exists(), (path / MANIFEST).is_file()
        if not exists:
            require_local(path)
            raise BadInput(
                f"There is no bundle {path}.",
                advice=f"Make one with: {compressing(path)}",
            )
        if not is_bundle:
            raise BadInput(
                f"{path} is not a bundle: it has no {MANIFEST}.",
                advice="Give the folder that `rrr-edge compress` wrote.",
            )
        manifest = _read(require_no_links(path, path / MANIFEST), Manifest, compressing(path, anew=True))
        lacking = {WEIGHTS, MODEL, REFERENCE, CALIBRATION}.difference(entry.name for entry in manifest.files)
        if lacking:
            raise CorruptArtifact(
                f"{path / MANIFEST} does not list {', '.join(sorted(lacking))}.",
                advice=f"Run: {compressing(path, anew=True)}",
            )
        return cls(path, manifest)

    @property
    def weights(self) -> Path:
        return self._checked(WEIGHTS)

    @property
    def model(self) -> Path:
        return self._checked(MODEL)

    @property
    def training_log(self) -> Path | None:
        """None where the bundle has none."""
        known = any(entry.name == TRAINING_LOG for entry in self.manifest.files)
        return self._checked(TRAINING_LOG) if known else None

    @property
    def baseline(self) -> Path:
        """Where the workshop puts the uncompressed network; may not exist."""
        return self.alternative(self.manifest.recipe.backbone)

    def alternative(self, stem: str) -> Path:
        """Where the workshop puts a network to compare with; may not exist."""
        return self._inside("baselines", f"{stem}.onnx")

    @cached_property
    def reference(self) -> Reference:
        """Raises CorruptArtifact, also where its arrays do not fit each other or the manifest."""
        with reading_arrays(self._checked(REFERENCE)) as arrays:
            found = Reference(**{name: arrays[name] for name in Reference.__dataclass_fields__ if name in arrays})
        count, classes = len(found.images), len(self.manifest.labels)
        expected = {
            "images": ("uint8", self._shape_of_images(count)),
            "labels": ("int64", (count,)),
            "probabilities": ("float32", (count, classes)),
            "branch_probabilities": ("float32", (count, self.manifest.spec.branches, classes)),
        }
        if found.files is not None:
            expected["files"] = (found.files.dtype.str if found.files.dtype.kind == "U" else "str", (count,))
        for name, (kind, shape) in expected.items():
            self._require_shape(REFERENCE, name, getattr(found, name), kind, shape)
        return found

    @cached_property
    def calibration(self) -> NDArray[np.uint8]:
        """Raises CorruptArtifact, also where the images are not of the manifest's size."""
        with reading_arrays(self._checked(CALIBRATION)) as arrays:
            images: NDArray[np.uint8] = arrays["images"]
        self._require_shape(CALIBRATION, "images", images, "uint8", self._shape_of_images(len(images)))
        return images

    def _shape_of_images(self, count: int) -> tuple[int, ...]:
        size = self.manifest.preprocess.image_size
        return (count, size, size, 3)

    def _require_shape(self, file: str, name: str, array: NDArray[Any], kind: str, shape: tuple[int, ...]) -> None:
        if array.dtype != kind or array.shape != shape:
            raise CorruptArtifact(
                f"{self.path / file} and {MANIFEST} contradict each other: {name} is {array.dtype} "
                f"{list(array.shape)} instead of {kind} {list(shape)}.",
                advice=f"Run: {compressing(self.path, anew=True)}",
            )

    @property
    def model_sha256(self) -> str:
        return self._entry(MODEL).sha256

    def check(self) -> None:
        """Compare every file with the manifest. Raises CorruptArtifact."""
        for entry in self.manifest.files:
            self._checked(entry.name)

    def engine_names(self) -> list[str]:
        # A hidden folder is what an interrupted compile left behind.
        return sorted(file.parent.name for file in (self.path / "engines").glob(f"[!.]*/{ENGINE}"))

    def engine_folders(self) -> list[str]:
        """Also those of engines that lost their card."""
        return sorted(folder.name for folder in (self.path / "engines").glob("[!.]*") if folder.is_dir())

    def is_prepared(self, name: str) -> bool:
        """Whether there is a graph from which the engine `name` can be built."""
        return (self.engine_folder(name) / PREPARED_CARD).is_file()

    def engine_folder(self, name: str) -> Path:
        return self._inside("engines", name)

    def search_state(self, name: str, lowering: Lowering = "grouped") -> Path:
        """What the search for the engine `name` in this `lowering` has measured; may not exist."""
        return self._inside("engines", ".searches", f"{name if lowering == 'grouped' else f'{name}.{lowering}'}.json")

    def profile_names(self) -> list[str]:
        return sorted(file.parent.name for file in (self.path / "profiles").glob(f"[!.]*/{PROFILE}"))

    def profile_folder(self, name: str) -> Path:
        return self._inside("profiles", name)

    def rounds_folder(self, name: str) -> Path:
        """What an interrupted profile has measured so far; may not exist."""
        return self._inside("profiles", f".{name}.rounds")

    @property
    def reference_network(self) -> Path:
        """Where the answers of a network to compare with are kept; may not exist."""
        return self._inside(REFERENCE_NETWORK)

    def evaluation_names(self) -> list[str]:
        return sorted(file.parent.name for file in (self.path / "evaluations").glob(f"[!.]*/{EVALUATION}"))

    def evaluation_folder(self, name: str) -> Path:
        return self._inside("evaluations", name)

    def available(self, target: Target) -> Target:
        """`target` at its own precision, or else at the lowest whose engine is there; itself where none is."""
        own = target.precision
        for precision in (own, *(p for p in reversed(PRECISIONS) if p != own)):
            asked = target.model_copy(update={"precision": precision})
            if (self.engine_folder(asked.engine_name) / ENGINE).is_file():
                return asked
        return target

    def engine(self, target: Target) -> Engine:
        """The engine compiled for `target` at its precision, its files checked.

        Raises UsageError where it was not compiled and CorruptArtifact where a file or the model has changed since.
        """
        return self.engine_named(target.engine_name, repair=compiling(self.path, target))

    def engine_named(self, name: str, *, repair: str) -> Engine:
        """`engine` by its folder's name; `repair` is the command that makes it."""
        folder = self.engine_folder(name)
        if not (folder / ENGINE).is_file():
            have = ", ".join(self.engine_names()) or "none yet"
            prepared = "; its graph is prepared" if (folder / PREPARED).is_file() else ""
            raise UsageError(
                f"{self.path} has no {folder.name} engine (it has: {have}){prepared}.", advice=f"Run: {repair}"
            )
        engine = _read(folder / ENGINE, Engine, repair)
        if engine.name != folder.name:
            raise CorruptArtifact(f"{folder} holds another engine, {engine.name}.", advice=f"Run: {repair}")
        repair = compiling(self.path, engine.target)
        for entry in engine.files:
            require_file(folder / entry.name, entry, repair)
        if engine.model_sha256 != self.model_sha256:
            raise CorruptArtifact(
                f"{folder} was compiled from another {MODEL} than the one in {self.path}.",
                advice=f"Run: {repair}",
            )
        return engine

    def prepared(self, target: Target) -> Prepared:
        """The card of the graph that was prepared for `target`, which is checked.

        Raises CorruptArtifact, also where there is none.
        """
        folder = self.engine_folder(target.engine_name)
        repair = compiling(self.path, target, prepare_only=True)
        card = _read(folder / PREPARED_CARD, Prepared, repair)
        require_file(folder / PREPARED, card.file, repair)
        return card

    def verified(self, engine: Engine) -> DeviceVerification | None:
        """What the last run of the reference images on a device showed of `engine`; None where there was none yet.

        Raises CorruptArtifact where the record has changed since it was written.
        """
        file = self.engine_folder(engine.name) / VERIFIED
        if not file.is_file():
            return None
        record = _read(file, DeviceVerification, verifying(self.path, engine.target))
        return record if record.engine_sha256 == sha256(file.with_name(ENGINE)) else None

    def _inside(self, *parts: str) -> Path:
        """A path in the bundle. Raises CorruptArtifact where it leads out of it by a link, or the bundle is gone."""
        if not (self.path / MANIFEST).is_file():
            raise CorruptArtifact(f"The bundle {self.path} is gone: it was moved or removed after it was opened.")
        return require_no_links(self.path, self.path.joinpath(*parts))

    def _entry(self, name: str) -> FileEntry:
        for entry in self.manifest.files:
            if entry.name == name:
                return entry
        raise CorruptArtifact(
            f"{self.path / MANIFEST} does not list {name}.", advice=f"Run: {compressing(self.path, anew=True)}"
        )

    def _checked(self, name: str) -> Path:
        require_file(self.path / name, self._entry(name), compressing(self.path, anew=True))
        return self.path / name


def timing_cache(folder: Path, key: str) -> Path:
    """Where the times of kernels are kept that were tried for the engine in `folder`; all beside it share them."""
    return folder.parent / ".timings" / f"{key}.bin"


@contextmanager
def writing_engine(bundle: Bundle, name: str) -> Iterator[Path]:
    """A folder for an engine's files that replaces the old engine only when the block ends well."""
    with staged_folder(bundle.engine_folder(name)) as folder:
        yield folder


def _read(path: Path, record: type[R], repair: str) -> R:
    try:
        return record.from_json_file(path)
    except BadInput as error:
        raise CorruptArtifact(str(error), advice=error.advice or f"Run: {repair}") from error
