"""Deltas to a completion: the whole of what was said, at any time, without touching what was handed out."""

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
    """What these deltas say as a whole."""
    folded = Accumulator()
    for delta in deltas:
        folded.add(delta)
    return folded.completion()


def test_nothing_folds_to_an_empty_completion() -> None:
    """Before anything has come a completion can be asked for, and its first choice too."""
    nothing = Accumulator().completion()
    assert nothing == Completion()
    assert (nothing.content, nothing.reasoning, nothing.tool_calls, nothing.finish_reason) == ("", "", [], None)
    assert (nothing.first, nothing.id, nothing.model, nothing.usage) == (Choice(), None, None, None)
    assert Accumulator().tool_calls() == Accumulator().tool_calls(7) == []


def test_deltas_fold_to_all_that_they_say() -> None:
    """Text is joined, facts are gathered, and the first choice, id and model are within reach."""
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
    """Choices come out in the order of their numbers, whichever spoke first, also one that has said nothing."""
    completion = fold([Delta(2, "c"), Delta(0), Delta(1, "b"), Delta(2, "C"), Delta(usage={}, last=True)])
    assert completion.choices == [Choice(0), Choice(1, "b"), Choice(2, "cC")]
    assert completion.content == ""


def test_the_last_delta_is_of_no_choice() -> None:
    """Usage and facts belong to the response: the delta that brings them makes no choice of its own."""
    completion = fold([Delta(1, "b"), Delta(usage={"total_tokens": 1}, last=True)])
    assert completion == Completion([Choice(1, "b")], {"total_tokens": 1})


def test_a_call_without_id_or_name_still_is_a_call() -> None:
    """A torn call comes out as far as it had come, with strings where something is missing, in order of index."""
    folded = Accumulator()
    folded.add(Delta(1, tool_calls=[ToolCallDelta(5, "j", "g"), ToolCallDelta(2, arguments="x")]))
    assert folded.tool_calls(1) == [ToolCall("", "", "x"), ToolCall("j", "g", "{}")]
    assert folded.tool_calls() == []


def test_the_first_id_and_name_and_the_last_finish_reason_count() -> None:
    """Repeated ids and names change nothing; a finish reason is replaced only by another one."""
    calls = [[ToolCallDelta(0, "i", "f")], [ToolCallDelta(0, "j", "g")]]
    completion = fold(
        [
            Delta(tool_calls=calls[0], finish_reason="stop", stop_reason="x"),
            Delta(tool_calls=calls[1]),
            Delta(finish_reason="length"),
            Delta(content="a"),
        ]
    )
    assert completion.first == Choice(0, "a", "", [ToolCall("i", "f", "{}")], "length", None)


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
    """Token lists are joined and null takes nothing away."""
    before = copy.deepcopy(more)
    assert merge_logprobs(copy.deepcopy(known), more) == merged
    assert more == before


@FIXED
@given(st.lists(DELTAS, max_size=8))
def test_any_deltas_fold_to_their_parts_joined(deltas: list[Delta]) -> None:
    """Whatever comes in whatever order, each choice is the join of its deltas, and the deltas stay as they were."""
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
        assert [call.arguments for call in choice.tool_calls] == [calls[index] or "{}" for index in sorted(calls)]


@pytest.mark.parametrize("capture", [one for one in CAPTURES if one.streamed], ids=lambda capture: capture.id)
def test_a_fold_of_what_was_handed_out_is_the_completion(capture: Any) -> None:
    """Folding the deltas that a caller has got gives the completion that the decoder has, and leaves them alone."""
    outcome = decode(capture.body)
    again = copy.deepcopy(outcome.deltas)
    assert fold(outcome.deltas) == outcome.completion
    assert outcome.deltas == again


def test_a_long_answer_is_joined_once() -> None:
    """Forty thousand deltas are gathered in linear time: joining at each one would copy 80 gigabytes."""
    start = time.process_time()
    completion = fold(Delta(content="x" * 100, reasoning="y" * 100) for _ in range(40_000))
    assert (len(completion.content), len(completion.reasoning)) == (4_000_000, 4_000_000)
    assert time.process_time() - start < 5


def test_a_completion_asked_for_early_is_a_snapshot() -> None:
    """What a completion says of text, calls and facts does not change when more comes."""
    folded = Accumulator()
    folded.add(Delta(content="a", tool_calls=[ToolCallDelta(0, "i", "f", "{")], response={"id": "1"}))
    early = folded.completion()
    before = copy.deepcopy(early)
    folded.add(Delta(content="b", tool_calls=[ToolCallDelta(0, arguments="}")], finish_reason="stop"))
    folded.add(Delta(response={"service_tier": "x"}, usage={"total_tokens": 1}, last=True))
    assert early == before
    assert folded.completion() != before


def test_the_log_probabilities_of_an_early_completion_stay_as_they_were() -> None:
    """The log-probabilities of a completion, such as an error's partial one, do not change when more comes."""
    folded = Accumulator()
    folded.add(Delta(logprobs={"content": [1]}))
    early = folded.completion()
    folded.add(Delta(logprobs={"content": [2]}))
    assert early.first.logprobs == {"content": [1]}


def test_deltas_handed_out_stay_as_they_were() -> None:
    """Log-probabilities of a delta that a caller holds stay its own, also if those before it were null."""
    deltas = [Delta(logprobs={"content": content}) for content in (None, [1], [2])]
    assert fold(deltas).first.logprobs == {"content": [1, 2]}
    assert [delta.logprobs for delta in deltas] == [{"content": None}, {"content": [1]}, {"content": [2]}]


@pytest.mark.parametrize("other", ["x", 1, {"a": 1}, True], ids=repr)
def test_log_probabilities_may_change_their_kind(other: Any) -> None:
    """Where a server changes the kind of a field between chunks the later one counts, and nothing is raised."""
    assert merge_logprobs({"content": other}, {"content": [1]}) == {"content": [1]}
    assert merge_logprobs({"content": [1]}, {"content": other}) == {"content": other}
