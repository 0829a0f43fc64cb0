"""JSON objects as answers: what is found of them, whole and while they grow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tir_qwen.objects import GrowingObject, description_of, object_text, problem_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_description() -> None:
    """The model is shown the schema itself, and told to write nothing else."""
    assert description_of({"type": "object", "description": "नाम"}) == (
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
def test_object_text(text: str, found: str) -> None:
    """A fence or a sentence around an object does not belong to it."""
    assert object_text(text) == found


@pytest.mark.parametrize(
    ("text", "finish_reason", "problem"),
    [
        ('{"a": ', "length", "max_tokens (or the context window) cut the answer before its object was complete"),
        ("Sorry.", "stop", "the answer holds no JSON object"),
        ("{}", None, "the answer is not the object that was asked for: boom"),
    ],
)
def test_problem(text: str, finish_reason: str | None, problem: str) -> None:
    """What is wrong with an answer is said so that a person can act on it."""
    assert problem_of(text, finish_reason, ValueError("boom")) == problem


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
def test_begun(text: str, value: Any) -> None:
    """Of an object that has begun there is what is certain: a number only once it has ended, a string as it grows."""
    assert GrowingObject().read(text) == value


@given(value=st.dictionaries(st.text(), VALUES, max_size=4), cut=st.integers(min_value=1, max_value=9))
def test_grown(value: dict[str, Any], cut: int) -> None:
    """However its text is cut, what is read at the end is the object, and what is read before is never another type."""
    text = json.dumps(value)
    growing = GrowingObject()
    for end in range(cut, len(text) + cut, cut):
        assert isinstance(growing.read(text[:end]), dict)
    assert growing.read(text) == value


def test_reading_backwards() -> None:
    """A shorter text of an earlier response still gives what it holds."""
    growing = GrowingObject()
    assert growing.read('{"a": "xyz') == {"a": "xyz"}
    assert growing.read('{"a": "x') == {"a": "x"}


def test_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that streams in for long is parsed at fewer and fewer of its tokens, not at each anew."""
    parsed: list[int] = []
    monkeypatch.setattr("tir_qwen.objects._partial", lambda text: parsed.append(len(text)))
    growing = GrowingObject()
    for size in range(100_000):
        growing.read("x" * size)
    assert parsed[:2048] == [*range(1, 2049)]
    assert len(parsed) < 3000
    assert sum(parsed) < 200 * 100_000
