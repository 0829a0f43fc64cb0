"""Prompting for JSON objects and extracting them from answers."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from tir_qwen._dialect.json_answer import (
    contains_json,
    describe_error,
    describe_schema,
    explain_failure,
    extract_json,
    with_description,
)


def test_the_model_is_shown_the_schema() -> None:
    """The prompt contains the schema and asks for nothing but the object."""
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
        ('Use {name}:\n```json\n{"a": 1}\n```', '{"a": 1}'),
        ('See [1]: {"a": [2]}.', '{"a": [2]}'),
        ('{"a": 1} and more }', '{"a": 1}'),
        ('{"a": {"b": 1},}', '{"a": {"b": 1},}'),
        ('{"a": 1}\n{"a": 2}', '{"a": 1}\n{"a": 2}'),
        ('```json\n{"a": "```"}\n```', '{"a": "```"}'),
        ('{"a": "\\ud83d \\ud83d\\ude00"}', '{"a": "\ufffd 😀"}'),
    ],
)
def test_a_fence_or_a_sentence_is_not_part_of_the_object(text: str, found: str) -> None:
    """A code fence or a sentence around the object is removed."""
    assert extract_json(text, is_object=True) == found


@pytest.mark.parametrize(
    ("text", "finish_reason", "problem"),
    [
        ('{"a": ', "length", "max_tokens (or the context window) truncated the answer before its object was complete"),
        ("Sorry.", "stop", "the answer contains no JSON"),
        ("{}", None, "the answer is not the requested object: boom"),
    ],
)
def test_the_reason_of_a_failure_is_explained(text: str, finish_reason: str | None, problem: str) -> None:
    """The error explains what is wrong with the answer in terms the user can act on."""
    assert explain_failure(text, finish_reason, ValueError("boom")) == problem


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
def test_the_description_is_added_once_to_the_system_message(messages: list[Any], described: list[Any]) -> None:
    """The description is appended to the system message once, and the caller's messages stay unchanged."""
    before = json.dumps(messages)
    assert with_description(messages, "As JSON.") == described
    assert with_description(with_description(messages, "As JSON."), "As JSON.") == described
    assert json.dumps(messages) == before


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[{"a": 1}]', '[{"a": 1}]'),
        ("The list: [1, 2].", "[1, 2]"),
        ("```json\n[1]\n```", "[1]"),
        ("The list [of primes]: [2, 3] (the first two).", "[2, 3]"),
        ("[1]\n[2]", "[1]\n[2]"),
        ("[true, [", ""),
        ('"red"', '"red"'),
        (" 12\n", "12"),
        ("null", "null"),
        ("red", ""),
        ('"\\udc00"', '"\ufffd"'),
    ],
)
def test_any_json_is_found(text: str, found: str) -> None:
    """Arrays are found within prose, too; other values if they are the whole answer."""
    assert extract_json(text) == found


PROSE = st.lists(st.sampled_from(["a", " ", "\n", "```", "{x}", "[x]", ".", ":"]), max_size=9).map("".join)
VALUES = st.dictionaries(st.sampled_from("ab"), st.text(alphabet='"\\{}[]`a\n') | st.lists(st.integers())) | st.lists(
    st.integers() | st.text(alphabet='"{}[]`a')
)


@given(before=PROSE, value=VALUES, after=PROSE, indent=st.sampled_from([None, 0, 2]))
def test_a_value_is_found_in_any_prose(before: str, value: Any, after: str, indent: int | None) -> None:
    """An object or an array is found whatever prose, fences and brackets surround it."""
    text = json.dumps(value, indent=indent)
    assert json.loads(extract_json(f"{before}{text}{after}")) == value


@given(text=st.text(alphabet=list('{}[]",:`\\u d8123\n')), is_object=st.booleans())
def test_extraction_never_fails(text: str, is_object: bool) -> None:
    """Whatever the answer, there is a text, which is JSON if the answer is."""
    found = extract_json(text, is_object=is_object)
    try:
        value = json.loads(text)
    except ValueError:
        return
    assert contains_json(found) or not isinstance(value, (dict, list))


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000], ids=["arrays", "objects"])
def test_deep_nesting_is_no_json(deep: str) -> None:
    """Nesting beyond what parsers support does not raise."""
    assert not contains_json(deep)


class Limited(BaseModel):
    """Numbers with limits."""

    a: list[Annotated[int, Field(ge=0)]]
    b: int


def test_errors_of_pydantic_are_named_with_their_places() -> None:
    """Each error has its place and pydantic's words, up to a thousand characters."""
    with pytest.raises(ValidationError) as caught:
        Limited.model_validate({"a": [1, -2]})
    assert describe_error(caught.value) == "a.1: Input should be greater than or equal to 0; b: Field required"
    with pytest.raises(ValidationError) as caught:
        Limited.model_validate({"a": [-1] * 100, "b": 1})
    assert len(describe_error(caught.value)) == 1003
    assert describe_error(ValueError("not\n even \udc80")) == "not even ?"


def test_a_bracket_of_the_prose_after_an_object_is_no_other_value() -> None:
    """Where an object is expected, a list in the prose after it is none; where any value is, there are two."""
    text = '{"a": 1} as in [1].'
    assert extract_json(text, is_object=True) == '{"a": 1}'
    assert extract_json(text) == '{"a": 1} as in [1]'


@pytest.mark.parametrize("text", [r'{"a":"\u00e9"}', r'{"a" :"\ud83d\ude00"}', r'["\\ud83d"]'])
def test_json_with_escapes_is_kept_as_it_was_written(text: str) -> None:
    """JSON whose escapes are whole characters is not written anew."""
    assert extract_json(text) == text
