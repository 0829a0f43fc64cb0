"""Decoding tool calls and log probabilities from chunks of every server version."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.decode import DONE, FIXED, chunk, decode, events, pieces_of, stream, whole
from tir_qwen._response.choice import DecodingOptions
from tir_qwen.types import ToolCall, ToolCallDelta

PARIS = '{"city": "Paris"}'


def call(index: int | None = None, /, id: str | None = None, **function: Any) -> dict[str, Any]:  # noqa: A002
    """Return a tool call as in a delta or, without an index, as in a message."""
    numbered = {} if index is None else {"index": index}
    named = {} if id is None else {"id": id, "type": "function"}
    return {**named, **numbered, "function": function}


def calls(*said: dict[str, Any]) -> dict[str, Any]:
    """Return a delta or message with these tool calls."""
    return {"content": None, "tool_calls": list(said)}


def called(*bodies: bytes) -> list[ToolCall]:
    """Return the tool calls of a complete answer."""
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
        pytest.param([calls(call(0, "i", name="f", arguments=PARIS)), calls(call(0, name="f"))], id="named again"),
        pytest.param(
            [calls(call(0, "i", name="f", arguments=piece)) for piece in (PARIS, "\n}")], id="surplus brace, repeated"
        ),
        pytest.param([calls({"index": 0, "id": "i"}), calls(call(0, name="f", arguments=PARIS))], id="no function"),
        pytest.param([calls(call(3, "i", name="f", arguments=PARIS))], id="another index"),
    ],
)
def test_fragments_form_one_call_in_every_server_version(deltas: list[dict[str, Any]]) -> None:
    """Id and name come once even if the server repeats them, and the fragments form the arguments."""
    outcome = decode(stream(*deltas, finish_reason="tool_calls"))
    assert outcome.completion.tool_calls == [ToolCall("i", "f", PARIS)]
    pieces = [piece for delta in outcome.deltas for piece in delta.tool_calls]
    assert [piece.id for piece in pieces if piece.id is not None] == ["i"]
    assert [piece.name for piece in pieces if piece.name is not None] == ["f"]


@pytest.mark.parametrize(
    "said",
    [
        pytest.param([call(0, name="f"), call(0, "i", name="f", arguments=PARIS)], id="late id"),
        pytest.param(
            [call(0, name="f", arguments=piece) for piece in ('{"city": ', '"Paris"}', "\n", "}")], id="no id"
        ),
    ],
)
def test_a_call_without_an_id_whose_name_is_repeated_is_one_call(said: list[dict[str, Any]]) -> None:
    """A part with the same name is not taken for another call, which would run without arguments."""
    (only,) = called(stream(*map(calls, said)))
    assert (only.name, only.arguments, only.error) == ("f", PARIS, None)


@pytest.mark.parametrize("function", [{"name": "f"}, {"name": "f", "arguments": None}, {"name": "f", "arguments": ""}])
def test_a_call_without_arguments_has_an_empty_object(function: dict[str, Any]) -> None:
    """Missing arguments become `{}`."""
    expected = [ToolCall("i", "f", "{}")]
    assert called(stream(calls(call(0, "i", **function)))) == expected
    assert called(whole(calls(call(None, "i", **function)))) == expected


def test_arguments_sent_as_an_object_become_json() -> None:
    """Arguments sent as an object become JSON text."""
    arguments = {"city": "दिल्ली", "n": [1, None]}
    for body in (
        stream(calls(call(0, "i", name="f", arguments=arguments))),
        whole(calls(call(None, "i", name="f", arguments=arguments))),
    ):
        (only,) = called(body)
        assert json.loads(only.arguments) == arguments
    assert called(whole(calls(call(None, "i", name="f", arguments={})))) == [ToolCall("i", "f", "{}")]


def test_malformed_arguments_are_passed_on() -> None:
    """Malformed arguments are passed on unchanged, with the reason why they are."""
    error = "its arguments are not valid JSON: EOF while parsing an object at line 2 column 0"
    assert called(stream(calls(call(0, "i", name="f", arguments='{"city"\n')))) == [
        ToolCall("i", "f", '{"city"\n', error)
    ]


@pytest.mark.parametrize("arguments", [["Paris"], 5, True])
def test_arguments_of_another_type_make_a_call_invalid(arguments: Any) -> None:
    """Arguments that are sent as a list or a number are those of a call that must not be run."""
    error = "its arguments are not a JSON object"
    (only,) = called(whole(calls(call(None, "i", name="f", arguments=arguments))))
    assert (json.loads(only.arguments), only.error) == (arguments, error)


TRUNCATED = "max_tokens (or the context window) truncated its arguments"


@pytest.mark.parametrize("function", [{"name": "f"}, {"name": "f", "arguments": ""}, {"name": "f", "arguments": '{"a'}])
def test_a_call_that_is_truncated_before_its_arguments_does_not_run(function: dict[str, Any]) -> None:
    """A call whose answer ends after its name is truncated; it is not a call without arguments."""
    for body in (
        stream(calls(call(0, "i", **function)), finish_reason="length"),
        whole(calls(call(None, "i", **function)), "length"),
        events(chunk(calls(call(0, "i", **function))), DONE),  # as vLLM 0.9.2 ends it
    ):
        outcome = decode(body, expected=DecodingOptions(tools=True))
        assert [(one.name, one.error) for one in outcome.completion.tool_calls] == [("f", TRUNCATED)]
        assert outcome.completion.finish_reason == "length"


def test_a_complete_call_at_the_end_of_a_truncated_answer_is_valid() -> None:
    """If the server says itself that the answer is truncated, it has not completed the call."""
    usage = {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10}
    said = [chunk(calls(call(0, "i", name="f", arguments=PARIS))), chunk({}, "length"), chunk(usage=usage)]
    outcome = decode(events(*said, DONE), expected=DecodingOptions(tools=True, max_tokens=9))
    assert outcome.completion.tool_calls == [ToolCall("i", "f", PARIS)]


def test_calls_of_a_complete_response_are_numbered_by_position() -> None:
    """Several calls in a message stay separate and in order without an index."""
    message = calls(*(call(None, f"i{n}", name="f", arguments=f'{{"n": {n}}}') for n in range(12)))
    assert called(whole(message)) == [ToolCall(f"i{n}", "f", f'{{"n": {n}}}') for n in range(12)]


@FIXED
@given(
    st.text('{}"a\né ', max_size=30),
    st.lists(st.integers(0, 30), max_size=8),
    st.lists(st.sampled_from([[0], [1], [0, 1], [1, 0]]), max_size=12),
)
def test_fragments_of_several_calls_may_interleave(text: str, cuts: list[int], order: list[list[int]]) -> None:
    """Fragments are assigned to their calls by index, in any order and size."""
    texts = [json.dumps({"x": text}), json.dumps({"y": [text[::-1], {}]})]
    fragments = [[call(at, arguments=piece) for piece in pieces_of(texts[at], cuts)] for at in (0, 1)]
    deltas = [calls(call(at, f"i{at}", name=f"f{at}")) for at in (0, 1)]
    deltas += [calls(*(fragments[at].pop(0) for at in turn if fragments[at])) for turn in order]
    deltas += [calls(one) for at in (1, 0) for one in fragments[at]]
    assert called(stream(*deltas)) == [ToolCall(f"i{at}", f"f{at}", texts[at]) for at in (0, 1)]


def test_deltas_of_calls_contain_only_new_fragments() -> None:
    """Each delta contains the fragments of its chunk and repeats nothing."""
    outcome = decode(
        stream(
            calls(call(0, "i", name="f", arguments='{"a": '), call(1, "j", name="g")),
            calls(call(1, "j", name="g", arguments='{"b": 2'), call(0, arguments="1}")),
            calls(call(1, arguments=" }}\n")),
        )
    )
    assert [delta.tool_calls for delta in outcome.deltas if delta.tool_calls] == [
        [ToolCallDelta(0, "i", "f", '{"a": '), ToolCallDelta(1, "j", "g", "")],
        [ToolCallDelta(1, None, None, '{"b": 2'), ToolCallDelta(0, None, None, "1}")],
        [ToolCallDelta(1, None, None, " }")],
    ]


@pytest.mark.parametrize("finish_reason", ["tool_calls", "stop", "length"])
def test_calls_are_returned_with_any_finish_reason(finish_reason: str) -> None:
    """Calls are returned with any finish reason, because server versions differ."""
    outcome = decode(stream(calls(call(0, "i", name="f", arguments=PARIS)), finish_reason=finish_reason))
    assert outcome.said == ("", "", [("f", PARIS)], finish_reason)


def test_calls_without_a_finish_reason_are_complete_with_done() -> None:
    """Without a finish reason, as in vLLM 0.9.2, [DONE] completes the calls, and a missing [DONE] is an error."""
    body = events(chunk(calls(call(0, "i", name="f", arguments=PARIS))))
    assert decode(body + events(DONE)).said == ("", "", [("f", PARIS)], None)
    broken = decode(body)
    assert broken.failed == ("StreamInterruptedError", "the answer stopped before its end")
    assert broken.completion.tool_calls == [ToolCall("i", "f", PARIS)]


def test_log_probabilities_of_all_chunks_are_joined() -> None:
    """Each delta has the tokens of its chunk, and the completion has all of them."""
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
    """The stop string or token id that ended a choice is returned."""
    for reason in ("END", 11, None):
        body = chunk({"content": "a"}, "stop")
        body["choices"][0]["stop_reason"] = reason
        outcome = decode(events(body, DONE))
        assert outcome.completion.first.stop_reason == reason
        assert [delta.stop_reason for delta in outcome.deltas] == [reason, None]
        body["choices"][0]["message"] = body["choices"][0].pop("delta")
        assert decode(json.dumps(body).encode()).completion.first.stop_reason == reason
