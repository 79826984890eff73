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
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg'][:1].lower()}{e['msg'][1:]}" for e in error.errors()
            )
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
