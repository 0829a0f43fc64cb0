"""Checking values against a JSON schema."""

from __future__ import annotations

from typing import Any

import pytest

from tir_qwen._dialect.json_schema import find_mismatch

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "size": {"type": "number"},
        "kind": {"enum": ["a", "b", None]},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "either": {"oneOf": [{"type": "integer"}, {"$ref": "#/$defs/Pet"}]},
        "maybe": {"type": ["boolean", "null"]},
        "pets": {"type": "array", "items": {"$ref": "#/$defs/Pet"}},
        "any": {},
        "all": True,
    },
    "required": ["name"],
    "$defs": {
        "Pet": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "of": {"$ref": "#/$defs/Pet"}},
            "required": ["name"],
        },
        "Odd": {"$ref": "#/$defs/Odd"},
    },
}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"name": "x"}, None),
        ({"name": "x", "more": 1, "any": [1], "all": {}}, None),
        ({"name": "x", "age": 3, "size": 3, "kind": None, "note": None, "maybe": False}, None),
        ({"name": "x", "age": 3.0, "size": 0.5, "either": 1}, None),
        ({"name": "x", "either": {"name": "y"}, "pets": [{"name": "y", "of": {"name": "z"}}]}, None),
        ({"name": "x", "pets": []}, None),
        ([], "it is not of type object"),
        ("x", "it is not of type object"),
        ({}, "it has no 'name'"),
        ({"name": None}, "/name is not of type string"),
        ({"name": "x", "age": "three"}, "/age is not of type integer"),
        ({"name": "x", "age": "3"}, "/age is not of type integer"),
        ({"name": "x", "age": True}, "/age is not of type integer"),
        ({"name": "x", "age": 3.5}, "/age is not of type integer"),
        ({"name": "x", "size": False}, "/size is not of type number"),
        ({"name": "x", "kind": "c"}, "/kind is not one of the allowed values"),
        ({"name": "x", "note": 1}, "/note is not of type string"),
        ({"name": "x", "either": {}}, "/either is not of type integer"),
        ({"name": "x", "maybe": 0}, "/maybe is not of type boolean or null"),
        ({"name": "x", "pets": {}}, "/pets is not of type array"),
        ({"name": "x", "pets": [{"name": "y"}, {}]}, "/pets/1 has no 'name'"),
        ({"name": "x", "pets": [{"name": "y", "of": {"name": 1}}]}, "/pets/0/of/name is not of type string"),
    ],
)
def test_the_first_mismatch_with_a_schema_is_named(value: Any, problem: str | None) -> None:
    """The first mismatch with the schema is named; a valid value has none."""
    assert find_mismatch(value, PERSON) == problem


@pytest.mark.parametrize(
    "schema",
    [
        None,
        True,
        {},
        {"$ref": "#"},
        {"$ref": "#/$defs/Missing"},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "#/$defs/Odd", "$defs": PERSON["$defs"]},
        {"type": "nonsense"},
        {"anyOf": []},
        {"not": {"type": "object"}},
        {"items": [{"type": "string"}]},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "object"}}},
        {"anyOf": [{"$ref": "#"}, {"type": "string"}]},
        {"$ref": "#/$defs/A", "$defs": {"A": {"oneOf": [{"$ref": "#/$defs/A"}]}}},
    ],
    ids=repr,
)
def test_unsupported_schemas_accept_any_value(schema: Any) -> None:
    """A schema that cannot be evaluated accepts any value, because the frameworks validate in full."""
    assert find_mismatch({"a": [1, {"b": None}]}, schema) is None
