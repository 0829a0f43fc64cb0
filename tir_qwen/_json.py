"""Reading and writing JSON."""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from .errors import ConfigurationError
from .types import JSON


def dump_json(value: Any, name: str, *, nan_as_text: bool = False) -> bytes:
    """Return `value` as JSON.

    NaN and infinite numbers, which JSON does not have, are an error, or strings with `nan_as_text`.

    Raises:
        ConfigurationError: It cannot be written as JSON. The message contains `name`, but no part of the value.
    """
    try:
        content = to_json(value, inf_nan_mode="strings" if nan_as_text else "constants")
        if nan_as_text:
            return content
        if b"NaN" in content or b"Infinity" in content:  # perhaps within a string
            from_json(content, allow_inf_nan=False)
    except (PydanticSerializationError, ValueError, RecursionError):
        pass
    else:
        return content
    raise ConfigurationError(
        f"{name} cannot be written as JSON: it contains something other than text, numbers, lists and dicts, or text"
        " with lone surrogates."
    )


def parse_object(text: str) -> JSON | None:
    """Parse `text` as a JSON object; return None if it is not one (truncated tool call arguments, for example)."""
    try:
        value = from_json(text)
    except (ValueError, TypeError):  # TypeError: lone surrogates
        return None
    return value if isinstance(value, dict) else None
