"""The base of everything that is stored as JSON or TOML: frozen, validated once, unknown keys refused."""

import hashlib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from rrr_edge.errors import BadInput


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

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
        try:
            data = json.loads(path.read_text("utf-8"))
        except (ValueError, OSError) as error:
            raise BadInput(f"{path} cannot be read as JSON: {error}.") from error
        return cls.parse(data, str(path))

    @classmethod
    def from_toml_file(cls, path: Path) -> Self:
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except (ValueError, OSError) as error:
            raise BadInput(f"{path} cannot be read as TOML: {error}.") from error
        return cls.parse(data, str(path))


UNSEALED = 64 * "0"


class Sealed(Record):
    """A record that shows in its file when a byte was changed.

    `seal` is the SHA-256 of the file's text with zeros in the seal's own place. It is no part of the record: `document`
    and `to_json` make it, and reading puts the zeros back.
    """

    seal: str = Field(default=UNSEALED, pattern="^[0-9a-f]{64}$")

    @field_validator("seal")
    @classmethod
    def _is_no_part_of_it(cls, seal: str) -> str:
        return UNSEALED

    def to_json(self) -> str:
        return sealed(super().to_json())


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
    """The key, without the members of a union that pydantic puts between, such as literal['auto']."""
    return ".".join(str(part) for part in loc if "[" not in str(part))


def _clause(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


SCHEMA = 1
