"""The soft switch: `/think` and `/no_think` in the messages."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.calls import dialect_of, sent_by
from tir_qwen._dialect.capabilities import Capabilities


def part(text: str) -> dict[str, str]:
    """Return a text part."""
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("content", "thinking", "switched"),
    [
        ("Hi.", False, "Hi. /no_think"),
        ("Hi.", True, "Hi. /think"),
        ("Hi /no_think", False, "Hi /no_think"),
        ("Hi /no_think\n", True, "Hi /no_think\n"),
        ("Is it /no_think?", False, "Is it /no_think? /no_think"),
        ([part("Hi."), part("You?")], False, [part("Hi."), part("You?"), part(" /no_think")]),
        ([part("Hi /no_think")], False, [part("Hi /no_think")]),
        ([part("Hi /think")], False, [part("Hi /think")]),
    ],
)
def test_the_soft_switch_is_written_once_at_the_end(content: Any, thinking: bool, switched: Any) -> None:
    """The switch is appended once to the last user message, unless that already ends with one."""
    messages = [{"role": "user", "content": "First."}, {"role": "assistant", "content": "Yes?"}]
    last, after = {"role": "user", "content": content}, {"role": "tool", "content": "20"}
    dialect = dialect_of([*messages, last, after], {"enable_thinking": thinking}, Capabilities(template_kwargs=False))
    assert sent_by(dialect) == ([*messages, {**last, "content": switched}, after], {})
    assert sent_by(dialect) == ([*messages, {**last, "content": switched}, after], {})


def test_messages_without_a_user_get_no_soft_switch() -> None:
    """Messages without a user message stay unchanged."""
    messages = [{"role": "system", "content": "Be kind."}]
    assert sent_by(dialect_of(messages, {"enable_thinking": False}, Capabilities(template_kwargs=False))) == (
        messages,
        {},
    )
