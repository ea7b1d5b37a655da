"""Strict checking of what users write: one error line that names the place, the key, and the nearest valid key."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import UserError, did_you_mean

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
"""Settings: immutable, no unknown keys, no silent conversion, no infinite numbers."""

M = TypeVar("M", bound=BaseModel)


def validated(schema: type[M], raw: Any, where: str, prefix: str = "") -> M:
    """`raw` checked against the schema, through JSON: a list may stand for a tuple, types are strict otherwise.

    Raises UserError: `where: prefix.key: what is wrong`.
    """
    try:
        return schema.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join([prefix, *map(str, problem["loc"])] if prefix else map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown key{did_you_mean(str(problem['loc'][-1]), _fields_at(schema, problem['loc'][:-1]))}"
        raise UserError(f"{where}: {key + ': ' if key else ''}{message}") from None


def _fields_at(schema: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the model that lies at a path below `schema`."""
    current: Any = schema
    for part in path:
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else None
        if annotation is not None:
            current = annotation
            for inner in getattr(annotation, "__args__", ()):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    current = inner
    return list(getattr(current, "model_fields", {}))
