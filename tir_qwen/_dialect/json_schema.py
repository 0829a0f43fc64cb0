"""JSON schemas: what a `response_format` asks for, and whether a value has the shape of a schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..types import JSON

_LAX_FORMS = {
    "integer": r"[+-]?\d+(\.0+)?",
    "number": r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?",
    "boolean": r"(?i)true|false|yes|no|on|off|[01tfyn]",
}
"""Strings that pydantic accepts for these types in lax mode."""
_PYTHON_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": (int, float),
    "number": (int, float),
    "null": type(None),
}


def extract_schema(response_format: Mapping[str, Any] | None) -> JSON | None:
    """Return the schema of a `response_format`; None if it has none."""
    schema: JSON | None = ((response_format or {}).get("json_schema") or {}).get("schema")
    return schema


def expects_object(response_format: Mapping[str, Any] | None) -> bool:
    """Whether a `response_format` asks for an object, judging by the root of its schema."""
    if response_format is None:
        return False
    if response_format.get("type") != "json_schema":
        return bool(response_format.get("type") == "json_object")
    schema = extract_schema(response_format) or {}
    may_be_other = any(keyword in schema for keyword in ("enum", "const", "anyOf", "oneOf"))
    return bool(schema.get("type", None if may_be_other else "object") == "object")


def is_dispensable(response_format: Mapping[str, Any] | None) -> bool:
    """Whether it can be left out of the request: objects can be requested in the messages, and text is the default."""
    return expects_object(response_format) or (response_format or {}).get("type") == "text"


def find_mismatch(value: Any, schema: Any) -> str | None:
    """Describe the first definite mismatch between `value` and a JSON schema; return None if there is none.

    Only what determines the shape is checked: types, required keys, enumerations, alternatives and references. All
    else, including mistakes in the schema itself, is ignored, since the frameworks do the full validation.
    """
    return _Matcher(schema).find_mismatch(value, schema, "", frozenset())


class _Matcher:
    """Matches one value against one schema.

    Results for objects and lists are cached for each schema: nested alternatives would otherwise take exponential time.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[tuple[int, int], str | None] = {}  # by the ids of a value and of a schema

    def find_mismatch(self, value: Any, schema: Any, path: str, followed: frozenset[str]) -> str | None:
        """Match the `value` at `path`; `followed` contains the references that led to this schema."""
        if isinstance(schema, dict) and isinstance(reference := schema.get("$ref"), str):
            if reference in followed:  # the schema refers to itself
                return None
            followed |= {reference}
            schema = _resolve(reference, self._root)
        if not isinstance(schema, dict):
            return None
        place = f"at {path}" if path else "as a whole"
        types = schema.get("type")
        names = [name for name in ([types] if isinstance(types, str) else _as_list(types)) if isinstance(name, str)]
        if names and not any(_is_instance(value, name) for name in names):
            return f"{place}, it is not of type {' or '.join(names)}"
        if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
            return f"{place}, it is not one of the allowed values"
        if branches := _as_list(schema.get("anyOf")) or _as_list(schema.get("oneOf")):
            mismatches = [self.find_mismatch(value, branch, path, followed) for branch in branches]
            if None not in mismatches:
                return mismatches[0]
        return self._inside(value, schema, path) if isinstance(value, (dict, list)) else None

    def _inside(self, value: Any, schema: JSON, path: str) -> str | None:
        key = (id(value), id(schema))
        if key not in self._known:
            look = self._inside_object if isinstance(value, dict) else self._inside_list
            self._known[key] = look(value, schema, path)
        return self._known[key]

    def _inside_object(self, value: JSON, schema: JSON, path: str) -> str | None:
        missing = [key for key in _as_list(schema.get("required")) if isinstance(key, str) and key not in value]
        if missing:
            return f"{path or 'it'} has no {missing[0]!r}"
        properties = schema.get("properties")
        for key, subschema in properties.items() if isinstance(properties, dict) else ():
            if key in value and (mismatch := self.find_mismatch(value[key], subschema, f"{path}/{key}", frozenset())):
                return mismatch
        return None

    def _inside_list(self, value: list[Any], schema: JSON, path: str) -> str | None:
        items = schema.get("items")
        mismatches = (
            self.find_mismatch(item, items, f"{path}/{number}", frozenset()) for number, item in enumerate(value)
        )
        return next(filter(None, mismatches), None)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_instance(value: Any, type_name: str) -> bool:
    if type_name in ("integer", "number") and isinstance(value, bool):
        return False
    if isinstance(value, str) and type_name in _LAX_FORMS:
        return bool(re.fullmatch(_LAX_FORMS[type_name], value.strip()))
    if type_name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _PYTHON_TYPES.get(type_name, object))


def _resolve(reference: str, root: JSON) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if not isinstance(found, dict):
            return None
        found = found.get(part) if part else found
    return found
