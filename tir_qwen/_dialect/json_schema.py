"""JSON schemas: whether a value follows one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from operator import ge, gt, le, lt
from typing import Any

from ..types import JSON

_PYTHON_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": (int, float),
    "number": (int, float),
    "null": type(None),
}
_Bounds = dict[str, tuple[Callable[[Any, Any], bool], str]]
_NUMBER: _Bounds = {
    "minimum": (ge, "is less than {}"),
    "maximum": (le, "is greater than {}"),
    "exclusiveMinimum": (gt, "is not greater than {}"),
    "exclusiveMaximum": (lt, "is not less than {}"),
    "multipleOf": (lambda value, step: Decimal(str(value)) % Decimal(str(step)) == 0, "is not a multiple of {}"),
}
_STRING: _Bounds = {
    "minLength": (lambda value, least: len(value) >= least, "has fewer than {} characters"),
    "maxLength": (lambda value, most: len(value) <= most, "has more than {} characters"),
    "pattern": (lambda value, pattern: re.search(pattern, value) is not None, "does not match the pattern {}"),
}
_ARRAY: _Bounds = {
    "minItems": (lambda value, least: len(value) >= least, "has fewer than {} items"),
    "maxItems": (lambda value, most: len(value) <= most, "has more than {} items"),
}
_OBJECT: _Bounds = {
    "minProperties": (lambda value, least: len(value) >= least, "has fewer than {} keys"),
    "maxProperties": (lambda value, most: len(value) <= most, "has more than {} keys"),
}
"""For each type of value: keywords that limit it, whether a value keeps to the limit, and the words if it does not."""


def describes_objects(schema: JSON) -> bool:
    """Whether all values of a schema are objects, judging by its root."""
    return _describes_objects(schema, schema, frozenset())


def _describes_objects(schema: Any, root: JSON, followed: frozenset[str]) -> bool:
    if not isinstance(schema, Mapping):
        return False
    if isinstance(reference := schema.get("$ref"), str) and reference not in followed:
        return _describes_objects(_resolve(reference, root), root, followed | {reference})
    if "type" in schema:
        return bool(schema["type"] == "object")
    if branches := _as_list(schema.get("anyOf")) or _as_list(schema.get("oneOf")):
        return all(_describes_objects(branch, root, followed) for branch in branches)
    if branches := _as_list(schema.get("allOf")):
        return any(_describes_objects(branch, root, followed) for branch in branches)
    return "properties" in schema


def find_mismatch(value: Any, schema: Any) -> str | None:
    """Describe the first mismatch between `value` and a JSON schema; return None if there is none.

    These are not checked: `format`, `contains`, `not`, `if`, `dependent...`, `unevaluated...`, and references to other
    documents. As in vLLM's grammars, several branches of a `oneOf` may match. Mistakes in the schema are ignored.
    """
    try:
        return _Matcher(schema).find_mismatch(value, schema, "", frozenset())
    except RecursionError:
        return "it is nested too deeply"


class _Matcher:
    """Matches one value against one schema.

    Results for objects and arrays are cached for each schema: nested alternatives would otherwise take exponential
    time.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[tuple[int, int], str | None] = {}  # by the ids of a value and of a schema

    def find_mismatch(self, value: Any, schema: Any, path: str, followed: frozenset[str]) -> str | None:
        """Match the `value` at `path`; `followed` contains the references that led to this schema."""
        if schema is False:
            return f"{path or 'it'} is not allowed"
        if not isinstance(schema, dict):
            return None
        if not isinstance(value, (dict, list)):
            return next(self._mismatches(value, schema, path, followed), None)
        key = (id(value), id(schema))
        if key not in self._known:
            self._known[key] = None  # in progress: a cycle counts as a match
            self._known[key] = next(self._mismatches(value, schema, path, followed), None)
        return self._known[key]

    def _mismatches(self, value: Any, schema: JSON, path: str, followed: frozenset[str]) -> Iterator[str]:
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in followed:
            yield from self._all(value, [_resolve(reference, self._root)], path, followed | {reference})
        place = path or "it"
        types = schema.get("type")
        names = [name for name in ([types] if isinstance(types, str) else _as_list(types)) if isinstance(name, str)]
        if names and not any(_is_instance(value, name) for name in names):
            yield f"{place} is not of type {' or '.join(names)}"
            return
        if "const" in schema and not _are_equal(value, schema["const"]):
            yield f"{place} is not {schema['const']!r}"
        if isinstance(schema.get("enum"), list) and not any(_are_equal(value, one) for one in schema["enum"]):
            yield f"{place} is not one of the allowed values"
        yield from self._combinations(value, schema, path, followed)
        if isinstance(value, dict):
            yield from self._within_object(value, schema, path)
        elif isinstance(value, list):
            yield from self._within_array(value, schema, path)
        elif isinstance(value, str):
            yield from _exceeded_limits(value, schema, _STRING, place)
        elif not isinstance(value, bool):
            yield from _exceeded_limits(value, schema, _NUMBER, place)

    def _combinations(self, value: Any, schema: JSON, path: str, followed: frozenset[str]) -> Iterator[str]:
        yield from self._all(value, _as_list(schema.get("allOf")), path, followed)
        for keyword in ("anyOf", "oneOf"):
            mismatches = list(self._each(value, _as_list(schema.get(keyword)), path, followed))
            if mismatches and None not in mismatches:
                yield str(mismatches[0])

    def _each(self, value: Any, schemas: list[Any], path: str, followed: frozenset[str]) -> Iterator[str | None]:
        return (self.find_mismatch(value, schema, path, followed) for schema in schemas)

    def _all(self, value: Any, schemas: list[Any], path: str, followed: frozenset[str]) -> Iterator[str]:
        return filter(None, self._each(value, schemas, path, followed))

    def _within_object(self, value: JSON, schema: JSON, path: str) -> Iterator[str]:
        place = path or "it"
        for key in _as_list(schema.get("required")):
            if isinstance(key, str) and key not in value:
                yield f"{place} has no {key!r}"
        yield from _exceeded_limits(value, schema, _OBJECT, place)
        properties, patterns = _as_dict(schema.get("properties")), _as_dict(schema.get("patternProperties"))
        for key, item in value.items():
            if "propertyNames" in schema and self.find_mismatch(key, schema["propertyNames"], path, frozenset()):
                yield f"{place} must not have the key {key!r}"
            schemas = [properties[key]] if key in properties else []
            schemas += [subschema for pattern, subschema in patterns.items() if _matches(key, pattern)]
            if not schemas:
                if schema.get("additionalProperties") is False:
                    yield f"{place} must not have the key {key!r}"
                schemas = [schema.get("additionalProperties")]
            yield from self._all(item, schemas, f"{path}/{key}", frozenset())

    def _within_array(self, value: list[Any], schema: JSON, path: str) -> Iterator[str]:
        place = path or "it"
        yield from _exceeded_limits(value, schema, _ARRAY, place)
        if schema.get("uniqueItems") is True and len({*map(_hashable, value)}) < len(value):
            yield f"{place} has equal items"
        items = schema.get("items")
        first, others = _as_list(schema.get("prefixItems")), items
        if isinstance(items, list):  # until draft 2019-09
            first, others = items, schema.get("additionalItems")
        for number, item in enumerate(value):
            expected = first[number] if number < len(first) else others
            yield from self._all(item, [expected], f"{path}/{number}", frozenset())


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _as_dict(value: Any) -> JSON:
    return value if isinstance(value, dict) else {}


def _exceeded_limits(value: Any, schema: JSON, bounds: _Bounds, place: str) -> Iterator[str]:
    """Describe the limits of a schema that a value exceeds."""
    for keyword, (is_within, words) in bounds.items():
        if keyword in schema and not _is_within(value, schema[keyword], is_within):
            yield f"{place} {words.format(schema[keyword])}"


def _is_within(value: Any, limit: Any, is_within: Callable[[Any, Any], bool]) -> bool:
    try:
        return isinstance(limit, bool) or is_within(value, limit)
    except (TypeError, ValueError, ArithmeticError, re.error):  # a mistake in the schema
        return True


def _matches(key: str, pattern: str) -> bool:
    try:
        return re.search(pattern, key) is not None
    except re.error:  # a mistake in the schema
        return False


def _are_equal(one: Any, other: Any) -> bool:
    return bool(_hashable(one) == _hashable(other))


def _hashable(value: Any) -> Any:
    """Return something that is equal for equal JSON values, and only for these."""
    if isinstance(value, dict):
        return frozenset((key, _hashable(item)) for key, item in value.items())
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    return (value,) if isinstance(value, bool) else value


def _is_instance(value: Any, type_name: str) -> bool:
    if isinstance(value, bool) and type_name in ("integer", "number"):
        return False
    if isinstance(value, float) and type_name == "integer":
        return value.is_integer()
    return isinstance(value, _PYTHON_TYPES.get(type_name, object))


def _resolve(reference: str, root: Any) -> Any:
    """Return what a reference within the schema points to; None if there is no such thing."""
    if not reference.startswith("#"):
        return None
    found = root
    for part in reference[1:].strip("/").split("/"):
        if not isinstance(found, dict):
            return None
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if part else found
    return found
