"""The base of everything that is stored as JSON or TOML: frozen, validated once, unknown keys refused."""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rrr_edge.errors import BadInput, CorruptArtifact, pip_install, reading

# Far more than any record or setting of ours takes.
_JSON_BYTES = 100_000_000
_TOML_BYTES = 100_000
_TOML_DOTS = 100


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _is_text(self) -> Self:
        """Names of files may be no UTF-8, and JSON may hold half a pair of surrogates; neither can be stored again."""
        for name, value in self.__dict__.items():
            if not all(map(_is_utf8, _strings(value))):
                raise ValueError(f"{name} is not UTF-8 text")
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy without what properties have kept, which would be that of the fields before the update."""
        copy = super().model_copy(update=update, deep=deep)
        for kept in copy.__dict__.keys() - type(copy).model_fields.keys():
            del copy.__dict__[kept]
        return copy

    def to_json(self) -> str:
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    def document(self) -> Any:
        """What `to_json` says, as Python's own types."""
        return json.loads(self.to_json())

    @classmethod
    def parse(cls, data: Any, where: str) -> Self:
        """Validate `data`; a failure is one BadInput that names every wrong key. `where` is said in the message."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            wrong = "; ".join(f"{key}: {why}" if key else why for key, why in faults(error))
            raise BadInput(f"{where} is not a valid {cls.__name__}: {wrong}.") from error

    @classmethod
    def from_json_file(cls, path: Path) -> Self:
        """Raises BadInput."""
        return cls.parse(read_json(path)[0], str(path))

    @classmethod
    def from_toml_file(cls, path: Path) -> Self:
        """Raises BadInput."""
        return cls.parse(read_toml(path), str(path))


def read_json(path: Path) -> tuple[Any, str]:
    """What the file says, and its text.

    Raises CannotRunHere where it may not be read, and BadInput where it cannot be.
    """
    try:
        text = _text(path, _JSON_BYTES)
        data = json.loads(text)
    except (ValueError, OSError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read as JSON: {_why(error)}.") from error
    return data, text


def read_toml(path: Path) -> dict[str, Any]:
    """What the file says. Raises CannotRunHere where it may not be read, BadInput where it cannot be.

    The time that tomllib takes grows with the square of the dots in a key, so lines of many dots are not parsed.
    """
    try:
        text = _text(path, _TOML_BYTES).removeprefix("\ufeff")
        if any(line.count(".") > _TOML_DOTS for line in text.splitlines()):
            raise ValueError(f"it has a line with more than {_TOML_DOTS} dots")
        return tomllib.loads(text)
    except (ValueError, OSError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read as TOML: {_why(error)}.") from error


def _text(path: Path, limit: int) -> str:
    """What is in a file of at most `limit` bytes, or comes through a pipe. Raises ValueError."""
    with reading(path), path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has more than {limit / 1e6:g} MB")
    return data.decode()


def _why(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _strings(value: Any) -> Iterable[str]:
    """Those in a field; records in it look after their own."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, dict):
        return (text for pair in value.items() for text in pair if isinstance(text, str))
    return value if isinstance(value, tuple) and value and isinstance(value[0], str) else ()


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


UNSEALED = 64 * "0"


class Sealed(Record):
    """A record that shows in its file when a byte was changed.

    `seal` is the SHA-256 of the file's text with zeros in the seal's own place. It is no part of the record: `document`
    and `to_json` make it, and reading puts the zeros back.
    """

    seal: str = Field(default=UNSEALED, pattern="^[0-9a-f]{64}$")
    unsealed_before: ClassVar[str | None] = None

    @field_validator("seal")
    @classmethod
    def _is_no_part_of_it(cls, seal: str) -> str:
        return UNSEALED

    def to_json(self) -> str:
        return sealed(super().to_json())

    @classmethod
    def from_json_file(cls, path: Path) -> Self:
        """Raises BadInput, and CorruptArtifact (a newer schema; changed since it was written)."""
        data, text = read_json(path)
        cls.require_sound(data, text, path)
        return cls.parse(data, str(path))

    @classmethod
    def require_sound(cls, data: Any, text: str, path: Path) -> None:
        """Raise CorruptArtifact unless the JSON `data`, read from `text`, is of a known schema and as it was sealed.

        Where `unsealed_before` names a key that came together with the seal, older files have neither.
        """
        if not isinstance(data, dict):
            raise CorruptArtifact(f"{path} is not a valid {cls.__name__}: it is no JSON object.")
        version = data.get("schema")
        if type(version) is int and version > SCHEMA:
            raise CorruptArtifact(
                f"{path} has schema {version}; this rrr-edge reads up to {SCHEMA}.",
                advice=f"Update with: {pip_install(upgrade=True)}",
            )
        if cls.unsealed_before is not None and not {"seal", cls.unsealed_before} & data.keys():
            return
        if not is_sealed(text, str(data.get("seal", UNSEALED))):
            raise CorruptArtifact(f"{path} has changed since it was written (its seal differs).")


def sealed(text: str) -> str:
    """The JSON `text` with its first run of 64 zeros, which a Sealed record begins with, replaced by its SHA-256."""
    return text.replace(UNSEALED, hashlib.sha256(text.encode()).hexdigest(), 1)


def is_sealed(text: str, seal: str) -> bool:
    """Whether `seal` is what `sealed` put into `text`."""
    original = text.replace(seal, UNSEALED, 1)
    return original != text and sealed(original) == text


def faults(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Each wrong key and what is wrong with it; the key of what concerns several is empty."""
    for fault in error.errors():
        yield _place(fault["loc"]), _clause(fault["msg"])


def _place(loc: tuple[int | str, ...]) -> str:
    """The key, without the members of a union that pydantic adds, such as literal['auto'] and constrained-float."""
    return ".".join(part for part in map(str, loc) if "[" not in part and not part.startswith("constrained-"))


def _clause(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


SCHEMA = 1
# A number, never what Python would take for one, such as true or "1".
SchemaVersion = Annotated[int, Field(strict=True, ge=1, le=SCHEMA)]
