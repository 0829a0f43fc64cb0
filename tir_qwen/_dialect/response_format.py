"""What a `response_format` asks for, and the other fields that constrain an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._request.body import Body
from ..types import JSON
from .json_schema import describes_objects

_CONSTRAINTS = frozenset(
    ("guided_choice", "guided_grammar", "guided_json", "guided_regex", "structural_tag", "structured_outputs")
)
"""The fields of vLLM that constrain an answer."""


def is_constrained(body: Body) -> bool:
    """Whether the server constrains the text of the answer from its first token on, as by a grammar."""
    is_free = (body.response_format or {"type": "text"}).get("type") == "text"
    return not is_free or body.forces_call or any(body.other.get(name) for name in _CONSTRAINTS)


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
