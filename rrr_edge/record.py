"""The base of everything that is stored as JSON or TOML: frozen, validated once, unknown keys refused."""

import json
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from rrr_edge.errors import BadInput


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def to_json(self) -> str:
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    @classmethod
    def parse(cls, data: Any, where: str) -> Self:
        """Validate `data`; a failure is one BadInput that names every wrong key. `where` is said in the message."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            wrong = "; ".join(f"{_place(e['loc'])}: {_clause(e['msg'])}" for e in error.errors())
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


def _place(loc: tuple[int | str, ...]) -> str:
    """The key, without the members of a union that pydantic puts between, such as literal['auto']."""
    return ".".join(str(part) for part in loc if "[" not in str(part)) or "it"


def _clause(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"
