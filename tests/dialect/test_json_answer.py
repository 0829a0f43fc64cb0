"""JSON objects as answers: what is found of them, whole and while they grow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tir_qwen._dialect.json_answer import describe_schema, explain_failure, extract_object, with_description
from tir_qwen._dialect.json_schema import find_mismatch
from tir_qwen._integrations.partial_json import PartialJSON

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_the_model_is_shown_the_schema() -> None:
    """The model is shown the schema itself, and told to write nothing else."""
    assert describe_schema({"type": "object", "description": "नाम"}) == (
        "Give your answer as one JSON object that follows this JSON schema, and nothing else:\n"
        '{"type":"object","description":"नाम"}'
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('Here:\n```json\n{"a": {}}\n```', '{"a": {}}'),
        ('{"a": ', ""),
        ("", ""),
        ("}{", ""),
    ],
)
def test_a_fence_or_a_sentence_is_not_part_of_the_object(text: str, found: str) -> None:
    """A fence or a sentence around an object does not belong to it."""
    assert extract_object(text) == found


@pytest.mark.parametrize(
    ("text", "finish_reason", "problem"),
    [
        ('{"a": ', "length", "max_tokens (or the context window) truncated the answer before its object was complete"),
        ("Sorry.", "stop", "the answer contains no JSON object"),
        ("{}", None, "the answer is not the requested object: boom"),
    ],
)
def test_the_reason_of_a_failure_is_explained(text: str, finish_reason: str | None, problem: str) -> None:
    """What is wrong with an answer is said so that a person can act on it."""
    assert explain_failure(text, finish_reason, ValueError("boom")) == problem


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("Sure: ", None),
        ("{", {}),
        ('{"a', {}),
        ('{"a": 1', {}),
        ('{"a": -1.5e', {}),
        ('{"a": 12,', {"a": 12}),
        ('{"a": "x', {"a": "x"}),
        ('{"a": "x 12', {"a": "x 12"}),
        ('{"a": "say \\"12', {"a": 'say "12'}),
        ('{"a": [1, 2', {"a": [1]}),
        ('{"a": tr', {}),
        ('{"a": {"b": "c"', {"a": {"b": "c"}}),
        ('```json\n{"a": true', {"a": True}),
        ('{"a" "b"}', None),
    ],
)
def test_an_incomplete_object_contains_what_is_certain(text: str, value: Any) -> None:
    """Of an object that has begun there is what is certain: a number only once it has ended, a string as it grows."""
    assert PartialJSON().read(text) == value


@given(value=st.dictionaries(st.text(), VALUES, max_size=4), cut=st.integers(min_value=1, max_value=9))
def test_a_growing_object_ends_as_the_whole_object(value: dict[str, Any], cut: int) -> None:
    """However its text is cut, what is read at the end is the object, and what is read before is never another type."""
    text = json.dumps(value)
    growing = PartialJSON()
    for end in range(cut, len(text) + cut, cut):
        assert isinstance(growing.read(text[:end]), dict)
    assert growing.read(text) == value


def test_reading_backwards() -> None:
    """A shorter text of an earlier response still gives what it holds."""
    growing = PartialJSON()
    assert growing.read('{"a": "xyz') == {"a": "xyz"}
    assert growing.read('{"a": "x') == {"a": "x"}


def test_a_long_object_is_not_parsed_at_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that streams in for long is parsed at fewer and fewer of its tokens, not at each anew."""
    parsed: list[int] = []
    monkeypatch.setattr("tir_qwen._integrations.partial_json._parse_partial", lambda text: parsed.append(len(text)))
    growing = PartialJSON()
    for size in range(100_000):
        growing.read("x" * size)
    assert parsed[:2048] == [*range(1, 2049)]
    assert len(parsed) < 3000
    assert sum(parsed) < 200 * 100_000


TEXT_PART = {"type": "text", "text": "Be kind."}
QUESTION = {"role": "user", "content": "Where?"}


@pytest.mark.parametrize(
    ("messages", "described"),
    [
        ([], []),
        ([QUESTION], [{"role": "system", "content": "As JSON."}, QUESTION]),
        (
            [{"role": "system", "content": "Be kind."}, QUESTION],
            [{"role": "system", "content": "Be kind.\n\nAs JSON."}, QUESTION],
        ),
        (
            [{"role": "system", "content": [TEXT_PART]}, QUESTION],
            [{"role": "system", "content": [TEXT_PART, {"type": "text", "text": "As JSON."}]}, QUESTION],
        ),
        (
            [QUESTION, {"role": "system", "content": "Late."}],
            [{"role": "system", "content": "As JSON."}, QUESTION, {"role": "system", "content": "Late."}],
        ),
    ],
)
def test_with_description(messages: list[Any], described: list[Any]) -> None:
    """The description ends the system message, once however often it is added, and the caller's messages stay."""
    before = json.dumps(messages)
    assert with_description(messages, "As JSON.") == described
    assert with_description(with_description(messages, "As JSON."), "As JSON.") == described
    assert json.dumps(messages) == before


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
        ([], "as a whole, it is not of type object"),
        ("x", "as a whole, it is not of type object"),
        ({}, "it has no 'name'"),
        ({"name": None}, "at /name, it is not of type string"),
        ({"name": "x", "age": "three"}, "at /age, it is not of type integer"),
        ({"name": "x", "age": "3"}, None),
        ({"name": "x", "age": True}, "at /age, it is not of type integer"),
        ({"name": "x", "age": 3.5}, "at /age, it is not of type integer"),
        ({"name": "x", "size": False}, "at /size, it is not of type number"),
        ({"name": "x", "kind": "c"}, "at /kind, it is not one of the allowed values"),
        ({"name": "x", "note": 1}, "at /note, it is not of type string"),
        ({"name": "x", "either": {}}, "at /either, it is not of type integer"),
        ({"name": "x", "maybe": 0}, "at /maybe, it is not of type boolean or null"),
        ({"name": "x", "pets": {}}, "at /pets, it is not of type array"),
        ({"name": "x", "pets": [{"name": "y"}, {}]}, "/pets/1 has no 'name'"),
        ({"name": "x", "pets": [{"name": "y", "of": {"name": 1}}]}, "at /pets/0/of/name, it is not of type string"),
    ],
)
def test_the_first_mismatch_with_a_schema_is_named(value: Any, problem: str | None) -> None:
    """The first place where an object does not fit its schema is named; what fits has none."""
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
def test_misfit_of_what_is_not_known(schema: Any) -> None:
    """What cannot be decided fits: the frameworks validate in full."""
    assert find_mismatch({"a": [1, {"b": None}]}, schema) is None
