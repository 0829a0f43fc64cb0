"""Prompting for JSON objects and extracting them from answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tir_qwen._dialect.json_answer import describe_schema, explain_failure, extract_json, with_description


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
    ],
)
def test_a_fence_or_a_sentence_is_not_part_of_the_object(text: str, found: str) -> None:
    """A code fence or a sentence around the object is removed."""
    assert extract_json(text, is_object=True) == found


@pytest.mark.parametrize(
    ("text", "finish_reason", "problem"),
    [
        ('{"a": ', "length", "max_tokens (or the context window) truncated the answer before its object was complete"),
        ("Sorry.", "stop", "the answer contains no JSON object"),
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
