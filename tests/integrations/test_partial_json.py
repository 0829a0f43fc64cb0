"""Reading JSON objects while they stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tir_qwen._integrations.partial_json import PartialJSON

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


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
    """Numbers appear once they are complete, strings while they grow."""
    assert PartialJSON().read(text) == value


@given(value=st.dictionaries(st.text(), VALUES, max_size=4), cut=st.integers(min_value=1, max_value=9))
def test_a_growing_object_ends_as_the_whole_object(value: dict[str, Any], cut: int) -> None:
    """Every prefix yields a dict, and the full text yields the whole object."""
    text = json.dumps(value)
    growing = PartialJSON()
    for end in range(cut, len(text) + cut, cut):
        assert isinstance(growing.read(text[:end]), dict)
    assert growing.read(text) == value


def test_a_shorter_text_can_be_read_again() -> None:
    """Reading a shorter, earlier text again returns what it contains."""
    growing = PartialJSON()
    assert growing.read('{"a": "xyz') == {"a": "xyz"}
    assert growing.read('{"a": "x') == {"a": "x"}


def test_a_long_object_is_not_parsed_at_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longer a streamed object gets, the less often it is parsed again."""
    parsed: list[int] = []
    monkeypatch.setattr(
        "tir_qwen._integrations.partial_json._parse_partial", lambda text: parsed.append(len(text)) or {}
    )
    growing = PartialJSON()
    text = '{"a": "' + "x" * 100_000
    for size in range(100_000):
        growing.read(text[:size])
    assert parsed[:2048] == [*range(1, 2049)]
    assert len(parsed) < 3000
    assert sum(parsed) < 200 * 100_000
