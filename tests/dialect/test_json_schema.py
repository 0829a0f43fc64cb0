"""Checking values against a JSON schema."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tir_qwen._dialect.json_schema import describes_objects, find_mismatch

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


LIMITS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "more": {"exclusiveMinimum": 0, "exclusiveMaximum": 10, "multipleOf": 0.5},
        "price": {"multipleOf": 0.01},
        "big": {"multipleOf": 2},
        "name": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[A-Z]"},
        "unit": {"const": "mm"},
        "flag": {"const": 1},
        "marks": {"type": "array", "minItems": 1, "maxItems": 2, "uniqueItems": True},
        "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        "old pair": {"type": "array", "items": [{"type": "integer"}], "additionalItems": {"type": "string"}},
        "counts": {"additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 2},
        "names": {"propertyNames": {"pattern": "^[a-z]+$"}},
        "parts": {"patternProperties": {"^p": {"type": "integer"}}, "additionalProperties": False},
        "all": {"allOf": [{"minimum": 1}, {"maximum": 2}]},
        "rows": {"uniqueItems": True},
        "row": {"enum": [[1, 2], {"a": [1]}]},
    },
}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"share": 1, "more": 0.5, "name": "Ada", "unit": "mm", "flag": 1, "marks": [1], "pair": [1, "a"]}, None),
        ({"old pair": [1, "a", "b"], "counts": {"a": 1}, "names": {"ab": 0}, "parts": {"p1": 1}, "all": 2}, None),
        ({"pair": [1], "more": 9.5, "marks": [0, False]}, None),
        ({"rows": [[1], [2], [True], {"a": 1}, {"a": 2}], "row": [1, 2]}, None),
        ({"row": {"a": [1]}}, None),
        ({"row": [1, 3]}, "/row is not one of the allowed values"),
        ({"row": {"a": [2]}}, "/row is not one of the allowed values"),
        ({"rows": [[1], [1]]}, "/rows has equal items"),
        ({"rows": [{"a": 1}, {"a": 1}]}, "/rows has equal items"),
        ({"share": -0.5}, "/share is less than 0"),
        ({"share": 2}, "/share is greater than 1"),
        ({"more": 0}, "/more is not greater than 0"),
        ({"more": 10}, "/more is not less than 10"),
        ({"more": 0.7}, "/more is not a multiple of 0.5"),
        ({"price": 129225.43}, None),
        ({"price": 129225.435}, "/price is not a multiple of 0.01"),
        ({"big": 10**17 + 1}, "/big is not a multiple of 2"),
        ({"name": "A"}, "/name has fewer than 2 characters"),
        ({"name": "Adele"}, "/name has more than 4 characters"),
        ({"name": "ada"}, "/name does not match the pattern ^[A-Z]"),
        ({"unit": "cm"}, "/unit is not 'mm'"),
        ({"flag": True}, "/flag is not 1"),
        ({"marks": []}, "/marks has fewer than 1 items"),
        ({"marks": [1, 2, 3]}, "/marks has more than 2 items"),
        ({"marks": [1, 1]}, "/marks has equal items"),
        ({"pair": [1, 2]}, "/pair/1 is not of type string"),
        ({"pair": [1, "a", None]}, "/pair/2 is not allowed"),
        ({"old pair": ["a"]}, "/old pair/0 is not of type integer"),
        ({"old pair": [1, 2]}, "/old pair/1 is not of type string"),
        ({"counts": {}}, "/counts has fewer than 1 keys"),
        ({"counts": {"a": 1, "b": 2, "c": 3}}, "/counts has more than 2 keys"),
        ({"counts": {"a": "1"}}, "/counts/a is not of type integer"),
        ({"names": {"A": 1}}, "/names must not have the key 'A'"),
        ({"parts": {"p1": "1"}}, "/parts/p1 is not of type integer"),
        ({"parts": {"x": 1}}, "/parts must not have the key 'x'"),
        ({"all": 3}, "/all is greater than 2"),
    ],
)
def test_the_first_exceeded_limit_is_named(value: Any, problem: str | None) -> None:
    """Limits of numbers, texts, arrays and objects are checked too."""
    assert find_mismatch(value, LIMITS) == problem


NAMES = st.sampled_from(["a", "b", "c1"])
SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, 2.5]) | st.sampled_from(["", "a", "bb"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
TYPES = st.sampled_from(["object", "array", "string", "boolean", "integer", "number", "null"])
SMALL = st.integers(0, 2)
LEAVES = st.fixed_dictionaries(
    {},
    optional={
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3),
        "const": SCALARS,
        "enum": st.lists(SCALARS, min_size=1, max_size=3),
        "minimum": SMALL,
        "maximum": SMALL,
        "exclusiveMinimum": SMALL,
        "exclusiveMaximum": SMALL,
        "multipleOf": st.sampled_from([0.5, 1, 2]),
        "minLength": SMALL,
        "maxLength": SMALL,
        "pattern": st.sampled_from(["^a", "b$"]),
        "minItems": SMALL,
        "maxItems": SMALL,
        "uniqueItems": st.booleans(),
        "minProperties": SMALL,
        "maxProperties": SMALL,
        "required": st.lists(NAMES, max_size=2, unique=True),
        "propertyNames": st.just({"pattern": "^[ab]"}),
    },
)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return schemas that contain others."""
    some = st.lists(inner, min_size=1, max_size=2)
    named = st.dictionaries(NAMES, inner, max_size=2)
    parts = st.fixed_dictionaries(
        {},
        optional={
            "properties": named,
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "1$"]), inner, max_size=2),
            "additionalProperties": inner,
            "prefixItems": some,
            "items": inner,
            "anyOf": some,
            "allOf": some,
            "$ref": st.just("#/$defs/other"),
        },
    )
    return st.builds(lambda one, other: {**one, **other}, LEAVES, parts)


@given(schema=st.recursive(LEAVES | st.booleans(), nested, max_leaves=4), other=LEAVES, value=VALUES)
def test_the_verdict_is_that_of_jsonschema(schema: Any, other: Any, value: Any) -> None:
    """Whether a value follows a schema is decided as by the library jsonschema."""
    if isinstance(schema, dict):
        schema = {**schema, "$defs": {"other": other}}
    valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert (find_mismatch(value, schema) is None) is valid


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
        {"minProperties": "one", "patternProperties": {"(": False}, "required": [1]},
        {"properties": {"a": {"minItems": True, "maxItems": None}}},
        {"anyOf": [{"$ref": "#"}, {"type": "string"}]},
        {"$ref": "#/$defs/A", "$defs": {"A": {"oneOf": [{"$ref": "#/$defs/A"}]}}},
    ],
    ids=repr,
)
def test_malformed_schemas_accept_any_value(schema: Any) -> None:
    """What is wrong in a schema, or refers to another document, is ignored."""
    assert find_mismatch({"a": [1, {"b": None}]}, schema) is None


def test_deep_nesting_is_reported() -> None:
    """A value that is nested too deeply for the check is not accepted without one."""
    value: Any = []
    for _ in range(2000):
        value = [value]
    assert find_mismatch(value, {"type": "array", "items": {"$ref": "#"}}) == "it is nested too deeply"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "object"}, True),
        ({"properties": {"a": {}}}, True),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object"}}}, True),
        ({"anyOf": [{"type": "object"}, {"properties": {}}]}, True),
        ({"allOf": [{}, {"type": "object"}]}, True),
        ({"$ref": "#/$defs/A"}, False),
        ({"$ref": "https://example.com/a.json"}, False),
        ({"anyOf": [{"type": "object"}, True]}, False),
        ({"oneOf": [{"type": "object"}, {"properties": {}}]}, True),
        ({"enum": ["a", "b"]}, False),
        ({"enum": [{"a": 1}, 2]}, False),
        ({"const": "a"}, False),
        ({"type": "array"}, False),
        ({"type": ["object", "null"]}, False),
        ({"anyOf": [{"type": "object"}, {"type": "null"}]}, False),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, False),
        ({}, False),
    ],
)
def test_whether_a_schema_describes_objects(schema: Any, expected: bool) -> None:
    """A schema describes objects if its root says so, which an enum without a type does not."""
    assert describes_objects(schema) is expected
