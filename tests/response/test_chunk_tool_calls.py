"""Tool calls and log-probabilities out of the chunks of every version."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.decode import DONE, FIXED, chunk, decode, events, pieces_of, stream, whole
from tir_qwen.types import ToolCall, ToolCallDelta

PARIS = '{"city": "Paris"}'


def call(index: int | None = None, /, id: str | None = None, **function: Any) -> dict[str, Any]:  # noqa: A002
    """A tool call as it stands in a delta or, without an index, in a message."""
    numbered = {} if index is None else {"index": index}
    named = {} if id is None else {"id": id, "type": "function"}
    return {**named, **numbered, "function": function}


def calls(*said: dict[str, Any]) -> dict[str, Any]:
    """A delta or message of these tool calls."""
    return {"content": None, "tool_calls": list(said)}


def called(*bodies: bytes) -> list[ToolCall]:
    """The tool calls of an answer, which is complete."""
    outcome = decode(*bodies)
    assert outcome.error is None
    return outcome.completion.tool_calls


@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param([calls(call(0, "i", name="f")), calls(call(0, arguments=PARIS))], id="name first, as with auto"),
        pytest.param([calls(call(0, "i", name="f", arguments=PARIS))], id="at once"),
        pytest.param(
            [calls(call(0, "i", name="f", arguments='{"ci')), calls(call(0, name=None, arguments='ty": "Paris"}'))],
            id="name null afterwards, as with required",
        ),
        pytest.param(
            [calls(call(0, "i", name="f", arguments=piece)) for piece in ('{"city": ', '"Paris"}')], id="repeated"
        ),
        pytest.param([calls(call(0, "i", name="f", arguments=PARIS)), calls(call(0, arguments=""))], id="an empty end"),
        pytest.param([calls(call(0, "", name="")), calls(call(0, "i", name="f", arguments=PARIS))], id="named late"),
        pytest.param([calls(call(0, "i")), calls(call(0, name="f")), calls(call(0, arguments=PARIS))], id="bit by bit"),
        pytest.param(
            [calls({"index": 0, "id": "i", "function": None}), calls(call(0, name="f", arguments=PARIS))], id="null"
        ),
        pytest.param([calls({"index": 0, "id": "i"}), calls(call(0, name="f", arguments=PARIS))], id="no function"),
        pytest.param([calls(call(3, "i", name="f", arguments=PARIS))], id="another index"),
    ],
)
def test_a_streamed_call_is_one_call_however_it_is_told(deltas: list[dict[str, Any]]) -> None:
    """Id and name come once though versions repeat them or send null, and the fragments make the arguments."""
    outcome = decode(stream(*deltas, finish_reason="tool_calls"))
    assert outcome.completion.tool_calls == [ToolCall("i", "f", PARIS)]
    pieces = [piece for delta in outcome.deltas for piece in delta.tool_calls]
    assert [piece.id for piece in pieces if piece.id is not None] == ["i"]
    assert [piece.name for piece in pieces if piece.name is not None] == ["f"]


@pytest.mark.parametrize("function", [{"name": "f"}, {"name": "f", "arguments": None}, {"name": "f", "arguments": ""}])
def test_a_call_without_arguments_has_an_empty_object(function: dict[str, Any]) -> None:
    """Servers leave the arguments out for tools that take none: what comes out is JSON all the same."""
    expected = [ToolCall("i", "f", "{}")]
    assert called(stream(calls(call(0, "i", **function)))) == expected
    assert called(whole(calls(call(None, "i", **function)))) == expected


def test_arguments_that_are_an_object_become_its_json() -> None:
    """Arguments which a server sends as an object, not as text, are JSON text like all others."""
    arguments = {"city": "दिल्ली", "n": [1, None]}
    for body in (
        stream(calls(call(0, "i", name="f", arguments=arguments))),
        whole(calls(call(None, "i", name="f", arguments=arguments))),
    ):
        (only,) = called(body)
        assert json.loads(only.arguments) == arguments
    assert called(whole(calls(call(None, "i", name="f", arguments={})))) == [ToolCall("i", "f", "{}")]


def test_malformed_arguments_are_passed_on() -> None:
    """What the model wrote is not judged here: torn JSON comes out as it is."""
    assert called(stream(calls(call(0, "i", name="f", arguments='{"city"\n')))) == [ToolCall("i", "f", '{"city"\n')]


def test_calls_of_a_whole_answer_are_numbered_by_their_place() -> None:
    """Several calls in one message stay apart and in order without an index."""
    message = calls(*(call(None, f"i{n}", name="f", arguments=f"[{n}]") for n in range(12)))
    assert called(whole(message)) == [ToolCall(f"i{n}", "f", f"[{n}]") for n in range(12)]


@FIXED
@given(
    st.text('{}"a\né ', max_size=30),
    st.lists(st.integers(0, 30), max_size=8),
    st.lists(st.sampled_from([[0], [1], [0, 1], [1, 0]]), max_size=12),
)
def test_fragments_of_several_calls_may_interleave(text: str, cuts: list[int], order: list[list[int]]) -> None:
    """Fragments find their call by index, in whatever order and size they come, several in a chunk or one."""
    texts = [text, text[::-1]]
    fragments = [[call(at, arguments=piece) for piece in pieces_of(texts[at], cuts)] for at in (0, 1)]
    deltas = [calls(call(at, f"i{at}", name=f"f{at}")) for at in (0, 1)]
    deltas += [calls(*(fragments[at].pop(0) for at in turn if fragments[at])) for turn in order]
    deltas += [calls(one) for at in (1, 0) for one in fragments[at]]
    assert called(stream(*deltas)) == [ToolCall(f"i{at}", f"f{at}", texts[at] or "{}") for at in (0, 1)]


def test_deltas_of_calls_say_what_is_new() -> None:
    """Each delta holds the pieces of its chunk, and nothing that an earlier one has said."""
    outcome = decode(
        stream(
            calls(call(0, "i", name="f", arguments="{"), call(1, "j", name="g")),
            calls(call(1, "j", name="g", arguments="[]"), call(0, arguments="}")),
        )
    )
    assert [delta.tool_calls for delta in outcome.deltas if delta.tool_calls] == [
        [ToolCallDelta(0, "i", "f", "{"), ToolCallDelta(1, "j", "g", "")],
        [ToolCallDelta(1, None, None, "[]"), ToolCallDelta(0, None, None, "}")],
    ]


@pytest.mark.parametrize("finish_reason", ["tool_calls", "stop", "length"])
def test_calls_count_whatever_the_finish_reason_says(finish_reason: str) -> None:
    """Calls come out with each finish reason: versions differ in what they say after required and named tools."""
    outcome = decode(stream(calls(call(0, "i", name="f", arguments=PARIS)), finish_reason=finish_reason))
    assert outcome.said == ("", "", [("f", PARIS)], finish_reason)


def test_calls_without_a_finish_reason_are_complete_with_done() -> None:
    """A stream of required tools of 0.9.2 has no finish_reason: [DONE] ends it, its absence breaks it."""
    body = events(chunk(calls(call(0, "i", name="f", arguments=PARIS))))
    assert decode(body + events(DONE)).said == ("", "", [("f", PARIS)], None)
    broken = decode(body)
    assert broken.failed == ("StreamInterruptedError", "the answer stopped before its end")
    assert broken.completion.tool_calls == [ToolCall("i", "f", PARIS)]


def test_log_probabilities_of_all_chunks_are_joined() -> None:
    """Each delta has the tokens of its chunk, the completion has all of them, streamed and whole."""
    tokens = [{"token": text, "logprob": -0.5, "bytes": [1], "top_logprobs": []} for text in "abc"]
    said = [{"content": [token], "refusal": None} for token in tokens]
    chunks = [chunk({"content": "x"}), chunk({"content": ""}), chunk({}, "stop")]
    for one, logprobs in zip(chunks, said, strict=True):
        one["choices"][0]["logprobs"] = logprobs
    outcome = decode(events(*chunks, DONE))
    assert [delta.logprobs for delta in outcome.deltas] == [*said, None]
    assert outcome.completion.first.logprobs == {"content": tokens, "refusal": None}
    body = json.loads(whole({"content": "xx"}))
    body["choices"][0]["logprobs"] = {"content": tokens, "refusal": None}
    assert decode(json.dumps(body).encode()).completion.first.logprobs == {"content": tokens, "refusal": None}


def test_the_stop_reason_comes_with_the_finish_reason() -> None:
    """The stop string or the token id that ended a choice is told, streamed and whole."""
    for reason in ("END", 11, None):
        body = chunk({"content": "a"}, "stop")
        body["choices"][0]["stop_reason"] = reason
        outcome = decode(events(body, DONE))
        assert outcome.completion.first.stop_reason == reason
        assert [delta.stop_reason for delta in outcome.deltas] == [reason, None]
        body["choices"][0]["message"] = body["choices"][0].pop("delta")
        assert decode(json.dumps(body).encode()).completion.first.stop_reason == reason
