"""Reading and writing JSON."""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from .errors import ConfigurationError
from .types import JSON


def dump_json(value: Any, name: str) -> str:
    """Return `value` as JSON text.

    Raises:
        ConfigurationError: It cannot be written as JSON. The message contains `name`, but no part of the value.
    """
    try:
        text = to_json(value).decode()
        if "NaN" in text or "Infinity" in text:  # perhaps within a string
            from_json(text, allow_inf_nan=False)
    except (PydanticSerializationError, ValueError, RecursionError):
        pass
    else:
        return text
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
