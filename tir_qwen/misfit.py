"""Whether a value is what a JSON schema wants, as far as it can be told without a validator (pure)."""

from __future__ import annotations

import re
from typing import Any

from .types import JSON

_LAX = {
    "integer": re.compile(r"[+-]?\d+(\.0+)?"),
    "number": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    "boolean": re.compile(r"true|false|yes|no|on|off|[01tfyn]", re.IGNORECASE),
}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": (int, float),
    "number": (int, float),
    "null": type(None),
}


def misfit(value: Any, schema: Any) -> str | None:
    """The first place where `value` certainly does not fit a JSON schema; None where no such place is found.

    It knows what decides the shape (types, required keys, enumerations, alternatives, references) and lets pass what
    it does not know, or what the schema's author has mistaken: the frameworks validate in full.
    """
    return _Fitting(schema).misfit(value, schema, "", frozenset())


class _Fitting:
    """One value against one schema. What is within an object or a list is looked at once for each schema.

    Without that, alternatives within alternatives would take exponential time.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[tuple[int, int], str | None] = {}

    def misfit(self, value: Any, schema: Any, where: str, seen: frozenset[str]) -> str | None:
        if isinstance(schema, dict) and isinstance(reference := schema.get("$ref"), str):
            if reference in seen:  # a circle, within the same value
                return None
            seen |= {reference}
            schema = _resolved(reference, self._root)
        if not isinstance(schema, dict):
            return None
        place = f"at {where}" if where else "as a whole"
        kinds = schema.get("type")
        wanted = [kind for kind in ([kinds] if isinstance(kinds, str) else _list(kinds)) if isinstance(kind, str)]
        if wanted and not any(_is(value, kind) for kind in wanted):
            return f"{place}, it is not of type {' or '.join(wanted)}"
        if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
            return f"{place}, it is none of the values that are allowed"
        if branches := _list(schema.get("anyOf")) or _list(schema.get("oneOf")):
            tried = [self.misfit(value, branch, where, seen) for branch in branches]
            if None not in tried:
                return tried[0]
        return self._within(value, schema, where) if isinstance(value, (dict, list)) else None

    def _within(self, value: Any, schema: JSON, where: str) -> str | None:
        key = (id(value), id(schema))
        if key not in self._known:
            look = self._within_object if isinstance(value, dict) else self._within_list
            self._known[key] = look(value, schema, where)
        return self._known[key]

    def _within_object(self, value: JSON, schema: JSON, where: str) -> str | None:
        missing = [key for key in _list(schema.get("required")) if isinstance(key, str) and key not in value]
        if missing:
            return f"{where or 'it'} has no {missing[0]!r}"
        properties = schema.get("properties")
        for key, inner in properties.items() if isinstance(properties, dict) else ():
            if key in value and (problem := self.misfit(value[key], inner, f"{where}/{key}", frozenset())):
                return problem
        return None

    def _within_list(self, value: list[Any], schema: JSON, where: str) -> str | None:
        items = schema.get("items")
        problems = (self.misfit(item, items, f"{where}/{number}", frozenset()) for number, item in enumerate(value))
        return next(filter(None, problems), None)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is(value: Any, kind: str) -> bool:
    if kind in ("integer", "number") and isinstance(value, bool):
        return False
    if isinstance(value, str) and kind in ("integer", "number", "boolean"):
        return bool(_LAX[kind].fullmatch(value.strip()))  # pydantic takes what is written as a text
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, object))


def _resolved(reference: str, root: JSON) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if not isinstance(found, dict):
            return None
        found = found.get(part) if part else found
    return found
