"""What a `response_format` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..types import JSON
from .json_schema import describes_objects


def extract_schema(response_format: Mapping[str, Any] | None) -> JSON | None:
    """Return the schema of a `response_format`; None if it has none."""
    schema: JSON | None = ((response_format or {}).get("json_schema") or {}).get("schema")
    return schema


def expects_json(response_format: Mapping[str, Any] | None) -> bool:
    """Whether a `response_format` asks for JSON."""
    return (response_format or {}).get("type") in ("json_schema", "json_object")


def expects_object(response_format: Mapping[str, Any] | None) -> bool:
    """Whether a `response_format` asks for a JSON object."""
    if not expects_json(response_format):
        return False
    schema = extract_schema(response_format)
    return schema is None or describes_objects(schema)
