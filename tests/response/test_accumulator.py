"""Accumulating deltas into a completion, without modifying the deltas."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.captures import CAPTURES
from tests.support.decode import FIXED, decode
from tir_qwen._response.accumulator import Accumulator, merge_logprobs
from tir_qwen.types import Choice, Completion, Delta, ToolCall, ToolCallDelta

FRAGMENTS = st.builds(ToolCallDelta, st.integers(0, 2), st.none(), st.none(), st.text("{}", max_size=2))
DELTAS = st.builds(
    Delta,
    index=st.integers(0, 2),
    content=st.text("ab\n", max_size=3),
    reasoning=st.text("rs\n", max_size=3),
    tool_calls=st.lists(FRAGMENTS, max_size=2),
    finish_reason=st.none() | st.sampled_from(["stop", "length"]),
    logprobs=st.none() | st.fixed_dictionaries({"content": st.lists(st.integers(0, 9), max_size=2)}),
)


def fold(deltas: Iterable[Delta]) -> Completion:
    """Return the completion of these deltas."""
    folded = Accumulator()
    for delta in deltas:
        folded.add(delta)
    return folded.completion()


def test_without_deltas_the_completion_is_empty() -> None:
    """Without any deltas there is an empty completion with an empty first choice."""
    nothing = Accumulator().completion()
    assert nothing == Completion()
    assert (nothing.content, nothing.reasoning, nothing.tool_calls, nothing.finish_reason) == ("", "", [], None)
    assert (nothing.first, nothing.id, nothing.model, nothing.usage) == (Choice(), None, None, None)
    assert Accumulator().tool_calls() == Accumulator().tool_calls(7) == []


def test_the_completion_contains_everything_in_the_deltas() -> None:
    """Text is joined, metadata is collected, and the first choice, id and model are accessible."""
    call = [ToolCallDelta(0, "i", "f", "{"), ToolCallDelta(0, arguments="}")]
    deltas = [
        Delta(reasoning="r", response={"id": "1", "model": "m"}),
        Delta(reasoning="s", content="a", logprobs={"content": [1]}),
        Delta(content="b", tool_calls=call[:1]),
        Delta(tool_calls=call[1:], finish_reason="stop", stop_reason=11, logprobs={"content": [2]}),
        Delta(usage={"total_tokens": 3}, response={"system_fingerprint": "f"}, last=True),
    ]
    completion = fold(deltas)
    choice = Choice(0, "ab", "rs", [ToolCall("i", "f", "{}")], "stop", 11, {"content": [1, 2]})
    facts = {"id": "1", "model": "m", "system_fingerprint": "f"}
    assert completion == Completion([choice], {"total_tokens": 3}, facts)
    assert (completion.content, completion.reasoning, completion.finish_reason) == ("ab", "rs", "stop")
    assert (completion.tool_calls, completion.first) == (choice.tool_calls, choice)
    assert (completion.id, completion.model) == ("1", "m")


def test_choices_are_ordered_by_index() -> None:
    """Choices are ordered by index, including empty ones."""
    completion = fold([Delta(2, "c"), Delta(0), Delta(1, "b"), Delta(2, "C"), Delta(usage={}, last=True)])
    assert completion.choices == [Choice(0), Choice(1, "b"), Choice(2, "cC")]
    assert completion.content == ""


def test_the_last_delta_creates_no_choice() -> None:
    """The delta with usage and metadata does not create a choice."""
    completion = fold([Delta(1, "b"), Delta(usage={"total_tokens": 1}, last=True)])
    assert completion == Completion([Choice(1, "b")], {"total_tokens": 1})


def test_an_incomplete_call_is_kept() -> None:
    """An incomplete tool call is kept, with empty strings for what is missing."""
    folded = Accumulator()
    folded.add(Delta(1, tool_calls=[ToolCallDelta(5, "j", "g"), ToolCallDelta(2, arguments="x")]))
    assert folded.tool_calls(1) == [ToolCall("", "", "x"), ToolCall("j", "g", "")]
    assert folded.tool_calls() == []


def test_the_first_id_and_name_and_the_last_finish_reason_count() -> None:
    """The first id and name are kept, and so is the last finish reason."""
    calls = [[ToolCallDelta(0, "i", "f")], [ToolCallDelta(0, "j", "g")]]
    completion = fold(
        [
            Delta(tool_calls=calls[0], finish_reason="stop", stop_reason="x"),
            Delta(tool_calls=calls[1]),
            Delta(finish_reason="length"),
            Delta(content="a"),
        ]
    )
    assert completion.first == Choice(0, "a", "", [ToolCall("i", "f", "")], "length", None)


@pytest.mark.parametrize(
    ("known", "more", "merged"),
    [
        pytest.param(None, {"content": [1]}, {"content": [1]}, id="first"),
        pytest.param({"content": [1]}, {"content": [2, 3]}, {"content": [1, 2, 3]}, id="joined"),
        pytest.param(
            {"content": [1], "refusal": None},
            {"content": [], "refusal": None},
            {"content": [1], "refusal": None},
            id="nulls",
        ),
        pytest.param({"content": [1]}, {"content": None}, {"content": [1]}, id="null after some"),
        pytest.param({"content": None}, {"content": [1]}, {"content": [1]}, id="some after null"),
        pytest.param({"content": [1]}, {"other": "x"}, {"content": [1], "other": "x"}, id="something else"),
    ],
)
def test_log_probabilities_are_joined_by_field(known: Any, more: Any, merged: Any) -> None:
    """Lists of tokens are joined, and null removes nothing."""
    before = copy.deepcopy(more)
    assert merge_logprobs(copy.deepcopy(known), more) == merged
    assert more == before


@FIXED
@given(st.lists(DELTAS, max_size=8))
def test_any_deltas_are_joined_per_choice(deltas: list[Delta]) -> None:
    """For any deltas in any order, each choice is the concatenation of its own deltas."""
    before = copy.deepcopy(deltas)
    completion = fold(deltas)
    assert deltas == before
    assert [choice.index for choice in completion.choices] == sorted({delta.index for delta in deltas})
    for choice in completion.choices:
        own = [delta for delta in deltas if delta.index == choice.index]
        assert choice.content == "".join(delta.content for delta in own)
        assert choice.reasoning == "".join(delta.reasoning for delta in own)
        assert choice.finish_reason == ([delta.finish_reason for delta in own if delta.finish_reason] or [None])[-1]
        tokens = [token for delta in own for token in (delta.logprobs or {}).get("content", ())]
        assert (choice.logprobs or {}).get("content", []) == tokens
        calls: dict[int, str] = {}
        for call in (call for delta in own for call in delta.tool_calls):
            calls[call.index] = calls.get(call.index, "") + call.arguments
        assert [call.arguments for call in choice.tool_calls] == [calls[index] for index in sorted(calls)]


@pytest.mark.parametrize("capture", [one for one in CAPTURES if one.streamed], ids=lambda capture: capture.id)
def test_accumulating_the_deltas_again_gives_the_same_completion(capture: Any) -> None:
    """Accumulating the deltas of a decoder gives the decoder's own completion."""
    outcome = decode(capture.body)
    again = copy.deepcopy(outcome.deltas)
    assert fold(outcome.deltas) == outcome.completion
    assert outcome.deltas == again


def test_a_long_answer_is_joined_in_linear_time() -> None:
    """Joining the text at each of 40,000 deltas would copy 80 GB."""
    start = time.process_time()
    completion = fold(Delta(content="x" * 100, reasoning="y" * 100) for _ in range(40_000))
    assert (len(completion.content), len(completion.reasoning)) == (4_000_000, 4_000_000)
    assert time.process_time() - start < 5


def test_an_early_completion_is_a_snapshot() -> None:
    """An early completion does not change when more deltas arrive."""
    folded = Accumulator()
    folded.add(Delta(content="a", tool_calls=[ToolCallDelta(0, "i", "f", "{")], response={"id": "1"}))
    early = folded.completion()
    before = copy.deepcopy(early)
    folded.add(Delta(content="b", tool_calls=[ToolCallDelta(0, arguments="}")], finish_reason="stop"))
    folded.add(Delta(response={"service_tier": "x"}, usage={"total_tokens": 1}, last=True))
    assert early == before
    assert folded.completion() != before


def test_the_log_probabilities_of_an_early_completion_do_not_change() -> None:
    """The log probabilities of an early completion, such as an error's partial answer, do not change later."""
    folded = Accumulator()
    folded.add(Delta(logprobs={"content": [1]}))
    early = folded.completion()
    folded.add(Delta(logprobs={"content": [2]}))
    assert early.first.logprobs == {"content": [1]}


def test_the_log_probabilities_of_deltas_are_not_modified() -> None:
    """The log probabilities of a delta stay its own, even after deltas with null."""
    deltas = [Delta(logprobs={"content": content}) for content in (None, [1], [2])]
    assert fold(deltas).first.logprobs == {"content": [1, 2]}
    assert [delta.logprobs for delta in deltas] == [{"content": None}, {"content": [1]}, {"content": [2]}]


@pytest.mark.parametrize("other", ["x", 1, {"a": 1}, True], ids=repr)
def test_log_probabilities_may_change_their_type(other: Any) -> None:
    """If a field changes its type between chunks, the later value replaces the earlier one."""
    assert merge_logprobs({"content": other}, {"content": [1]}) == {"content": [1]}
    assert merge_logprobs({"content": [1]}, {"content": other}) == {"content": other}
