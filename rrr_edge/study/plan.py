"""The plan of a study: data sets, methods and seeds, and the cells that they make."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, field_validator

from rrr_edge.bundle.files import sha256
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.limits import Limits
from rrr_edge.bundle.recipe import Recipe
from rrr_edge.bundle.record import SCHEMA, Record, SchemaVersion, Sealed
from rrr_edge.bundle.reused import Chained
from rrr_edge.bundle.target import Target
from rrr_edge.errors import BadInput, RRREdgeError, UsageError, reading, require_local, require_text
from rrr_edge.images.layouts import image_files
from rrr_edge.images.names import has_picture_name
from rrr_edge.study.methods import NAME, MethodRecipes

PLAN = "study.json"
NAMED_WEIGHTS = ("imagenet", "imagenet-v2", "timm", "random")
Purpose = Literal["test", "validation"]
Device = Literal["auto", "cpu", "cuda"]
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]


class DataSet(Record):
    """A folder of photos; `listing` is the SHA-256 of its files' names and contents, "" where it cannot be listed.

    `is_album` where it has all parts of Meta-Album's data sets.
    """

    name: str
    path: str
    listing: str
    is_album: bool = False

    @classmethod
    def of(cls, path: Path) -> Self:
        album = all((path / name).exists() for name in ("labels.csv", "info.json", "images"))
        return cls(name=path.resolve().name, path=str(path.absolute()), listing=_listing(path), is_album=album)


class Cell(Record):
    """A data set, a method and a seed: what one bundle is made of.

    `recipes` have the cell's seed and weights; each but the first continues the network of the one before it.
    `weights_sha256` is of the file of weights, or the bundle's, that the first begins with, "" where there is none. A
    cell for "validation" learns from a part of the training photos and is judged by the rest of them. Without a
    `target` nothing is compiled.
    """

    kind: Literal["cell"] = "cell"
    data: DataSet
    method: str
    recipes: MethodRecipes
    weights_sha256: str = ""
    seed: Seed
    purpose: Purpose = "test"
    device: Device = "auto"
    max_bad: float = 0.01
    target: Target | None = None
    limits: Limits = Limits()

    @property
    def words(self) -> str:
        return f"{self.data.name}, {self.method}, seed {self.seed}{', validation' * (self.purpose == 'validation')}"

    @property
    def needs_quiet(self) -> bool:
        """Whether compiling it times engines, which nothing else of the study must disturb."""
        return self.target is not None and self.target.lowering == "auto"

    def makes_same_network(self, other: "Cell") -> bool:
        """Whether `other` has the same photos, wherever they lie, the same recipes and the same weights."""
        return not self.differs(other)

    def differs(self, other: "Cell") -> str:
        """In what, in a word; "" where both make the same network."""
        if (self.data.name, self.data.listing) != (other.data.name, other.data.listing):
            return "photos"
        if self._settings != other._settings:
            return "settings"
        return "weights" if self.weights_sha256 != other.weights_sha256 else ""

    @property
    def _settings(self) -> tuple[object, ...]:
        return self.recipes, self.purpose, self.device, self.max_bad


class Method(Record):
    """A way to make a bundle: its name in the study, and the recipes that follow each other."""

    name: str = Field(pattern=NAME)
    recipes: MethodRecipes


class Plan(Sealed):
    """A study as it was asked for; its cells are every data set x method x seed.

    With `pick` each cell has a twin for validation, by which a method is chosen for each data set. `runs` are the
    timed runs of each engine. `weights` are the SHA-256 of the files of weights that cells begin with, by their names.
    """

    schema_version: SchemaVersion = Field(default=SCHEMA, alias="schema")
    kind: Literal["rrr-edge study"] = "rrr-edge study"
    data: tuple[DataSet, ...] = Field(min_length=1)
    methods: tuple[Method, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(min_length=1)
    device: Device = "auto"
    max_bad: float = Field(default=0.01, ge=0, le=1)
    target: Target | None = None
    limits: Limits = Limits()
    runs: int = Field(default=200, ge=20)
    pick: bool = False
    weights: dict[str, str] = Field(default_factory=dict)

    @field_validator("data", "methods")
    @classmethod
    def _names_differ(cls, named: tuple[DataSet | Method, ...]) -> tuple[DataSet | Method, ...]:
        twice = [name for name, count in Counter(each.name for each in named).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is there more than once")
        return named

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Seed by seed, so that a study that is stopped is balanced; chains come after what they may continue."""
        purposes: tuple[Purpose, ...] = ("test", "validation") if self.pick else ("test",)
        ordered = sorted(self.methods, key=lambda method: len(method.recipes))
        return tuple(
            self._cell(data, method, seed, purpose)
            for seed in self.seeds
            for purpose in purposes
            for length in sorted({len(method.recipes) for method in ordered})
            for data in self.data
            for method in ordered
            if len(method.recipes) == length
        )

    def _cell(self, data: DataSet, method: Method, seed: int, purpose: Purpose) -> Cell:
        recipes = tuple(
            recipe.model_copy(
                update={
                    "seed": seed,
                    "weights": recipe.weights.replace("{data}", data.name).replace("{backbone}", recipe.backbone),
                }
            )
            for recipe in method.recipes
        )
        return Cell(
            data=data,
            method=method.name,
            recipes=recipes,
            weights_sha256=self.weights.get(_source(recipes[0]), ""),
            seed=seed,
            purpose=purpose,
            device=self.device,
            max_bad=self.max_bad,
            target=self.target if purpose == "test" else None,
            limits=self.limits,
        )


def with_weights(plan: Plan) -> Plan:
    """`plan` with the SHA-256 of each file of weights, or of a bundle's, that its cells begin with.

    Raises UsageError where there is no such file, and what opening a bundle raises.
    """
    names = sorted({_source(cell.recipes[0]) for cell in plan.cells} - {*NAMED_WEIGHTS})
    return plan.model_copy(update={"weights": {name: sha256(_weights_file(Path(name))) for name in names}})


def _source(recipe: Recipe) -> str:
    """What a first recipe begins with: a bundle, or weights by their name."""
    return recipe.start if isinstance(recipe, Chained) and recipe.start else recipe.weights


def _weights_file(path: Path) -> Path:
    if path.is_dir():
        return Bundle.open(path).weights
    if not path.is_file():
        raise UsageError(
            f"There is no file of weights {path}.", advice=f"Give one, or one of {', '.join(NAMED_WEIGHTS)}."
        )
    return path


def find_data(paths: Sequence[Path]) -> tuple[DataSet, ...]:
    """The data sets at `paths`; a folder that is none itself stands for those in it, but for studies.

    Broken ones are among them: their cells fail. Raises BadInput (no folder, nothing in it) and UsageError (two of one
    name, a name that is not UTF-8).
    """
    found: list[DataSet] = []
    for path in paths:
        if not path.is_dir():
            require_local(path)
            raise BadInput(f"There is no folder {path}.")
        require_text(path)
        inside = [folder for folder in _visible_folders(path) if not (folder / PLAN).is_file()]
        folders = [path] if _is_data_set(path) else inside
        if not folders:
            raise BadInput(f"{path} is no data set, and holds none.", advice="Give train/CLASS/* and test/CLASS/*.")
        found += map(DataSet.of, folders)
    names = Counter(data.name for data in found)
    for data in found:
        if names[data.name] > 1:
            where = " and ".join(other.path for other in found if other.name == data.name)
            raise UsageError(f"Two data sets have the name {data.name}: {where}.", advice="Rename one of the folders.")
    return tuple(found)


def _is_data_set(path: Path) -> bool:
    """Whether it has Meta-Album's table, a folder train or test, or folders with pictures in them."""
    if (path / "labels.csv").is_file():
        return True
    folders = _visible_folders(path)
    if any(folder.name in ("train", "test", "val") for folder in folders):
        return True
    return any(has_picture_name(file) for folder in folders for file in _listed(folder))


def _visible_folders(path: Path) -> list[Path]:
    return [each for each in _listed(path) if not each.name.startswith(".") and each.is_dir()]


def _listed(path: Path) -> list[Path]:
    try:
        with reading(path):
            return sorted(path.iterdir())
    except OSError as error:
        raise BadInput(f"{path} cannot be listed: {error.strerror}.") from error


def _listing(path: Path) -> str:
    """Pictures and Meta-Album's tables; a data set that cannot be listed is its own cells' fault to report."""
    lines = []
    try:
        tables = [table for name in ("labels.csv", "info.json") if (table := path / name).is_file()]
        for file in (*image_files(path), *tables):
            content = sha256(file) if os.access(file, os.R_OK) else ""
            lines.append(f"{file.relative_to(path)}\0{content}")
    except (OSError, RRREdgeError):
        return ""
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
