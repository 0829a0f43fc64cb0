"""Answers of servers other than vLLM are read as their server meant them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.decode import DONE, bytewise, chunk, decode, events, stream, whole
from tir_qwen._response.choice import DEFAULT_OPTIONS, DecodingOptions
from tir_qwen.types import Completion, ToolCall

FACTS = {"id": "chatcmpl-1", "created": 1770613777, "model": "qwen3_32b"}
COUNTS = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
FILTER = {
    "id": "",
    "object": "",
    "created": 0,
    "model": "",
    "choices": [],
    "prompt_filter_results": [{"prompt_index": 0}],
}
CALL = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
CALLED = ("", "", [("get_weather", '{"city": "Paris"}')], "tool_calls")


def completion(body: bytes, expected: DecodingOptions = DEFAULT_OPTIONS) -> Completion:
    """Decode a complete answer, in one piece and byte by byte."""
    outcome = decode(body, expected=expected)
    assert outcome.error is None
    assert decode(*bytewise(body), expected=expected) == outcome
    return outcome.completion


@pytest.mark.parametrize(
    ("first", "more"),
    [
        # https://github.com/Azure/azure-sdk-for-go/issues/21086
        pytest.param(events(FILTER), {"prompt_filter_results": [{"prompt_index": 0}]}, id="Azure's filter"),
        # https://github.com/microsoft/autogen/issues/6465
        pytest.param(
            events(FILTER | {"choices": [{"index": 0}], "prompt_filter_results": None}), {}, id="Azure's later"
        ),
        pytest.param(events({"type": "ping", "id": "evt_1"}), {}, id="a ping"),
        pytest.param(b"event: ping\ndata: 17\n\n", {}, id="a ping of another type"),
        pytest.param(events(b"null"), {}, id="null"),
    ],
)
def test_an_event_of_another_kind_may_come_first(first: bytes, more: dict[str, Any]) -> None:
    """The id, time and model are those of the answer, whatever comes before it."""
    answer = completion(first + stream({"content": "Hello"}))
    assert (answer.response, answer.content, answer.finish_reason) == (FACTS | more, "Hello", "stop")


@pytest.mark.parametrize("streamed", [True, False])
def test_a_refusal_is_the_answer(streamed: bool) -> None:
    """OpenAI puts a refusal in a field of its own: it is the text where there is no content."""
    refusals = [{"content": None, "refusal": text} for text in ("I can't", " help.")]
    body = stream(*refusals) if streamed else whole({"content": None, "refusal": "I can't help."})
    assert decode(body).said == ("", "I can't help.", [], "stop")
    assert decode(whole({"content": "Yes.", "refusal": None})).said == ("", "Yes.", [], "stop")


@pytest.mark.parametrize("streamed", [True, False])
def test_the_old_function_call_is_a_tool_call(streamed: bool) -> None:
    """Older OpenAI servers answer with a `function_call`: it is one call, with an id of ours."""
    pieces = [{"name": "get_weather", "arguments": ""}, {"arguments": '{"city": '}, {"arguments": '"Paris"}'}]
    body = (
        stream(*({"content": None, "function_call": piece} for piece in pieces), finish_reason="function_call")
        if streamed
        else whole({"content": None, "function_call": CALL}, "function_call")
    )
    outcome = decode(body)
    assert outcome.said == CALLED
    assert outcome.completion.tool_calls[0].id.startswith("call-")


def test_a_final_message_repeats_the_answer() -> None:
    """A stream whose last chunk has the whole message says nothing twice."""
    end = chunk({}, "stop")
    del end["choices"][0]["delta"]
    for repeated in ({"delta": None}, {}):
        end["choices"][0] |= {"message": {"content": "Hello", "reasoning": "r"}, **repeated}
        body = events(chunk({"reasoning": "r"}), chunk({"content": "Hel"}), chunk({"content": "lo"}), end, DONE)
        assert decode(body).said == ("r", "Hello", [], "stop")
        assert decode(events(chunk({"reasoning": "r"}), end, DONE)).said == ("r", "Hello", [], "stop")
    assert decode(events(chunk({"role": "assistant"}), end, DONE)).said == ("r", "Hello", [], "stop")


def test_a_final_message_repeats_the_calls() -> None:
    """A call that a stream has already said is not said again by the whole message at its end."""
    call = {"index": 0, "id": "c1", "function": CALL}
    end = chunk({}, "tool_calls")
    end["choices"][0] |= {"delta": None, "message": {"content": "Well.", "reasoning": "r", "tool_calls": [call]}}
    body = events(chunk({"reasoning": "r"}), chunk({"tool_calls": [call]}), end, DONE)
    assert decode(body).said == ("r", "", CALLED[2], "tool_calls")


def test_an_empty_id_is_none() -> None:
    """Parts of a call whose id is an empty text or null have no id of their own."""
    for nothing in ("", None):
        later = [{"index": 0, "id": nothing, "function": {"arguments": text}} for text in ('{"a": ', "1}")]
        first = {"index": 0, "id": "c1", "function": {"name": "f"}}
        outcome = decode(stream(*({"tool_calls": [part]} for part in (first, *later)), finish_reason="tool_calls"))
        assert [(call.id, call.arguments) for delta in outcome.deltas for call in delta.tool_calls] == [
            ("c1", ""),
            (None, '{"a": '),
            (None, "1}"),
        ]
        unnamed = {"index": 0, "id": nothing, "function": {"arguments": "{}"}}
        (first_delta, *_) = decode(stream({"tool_calls": [unnamed]}, finish_reason="tool_calls")).deltas
        assert [call.id for call in first_delta.tool_calls] == [None]


def test_usage_may_be_elsewhere() -> None:
    """Groq reports the usage of a stream in `x_groq`, Moonshot in the last choice.

    Sources: the types of Groq's SDK; https://github.com/earendil-works/pi/issues/2017.
    """
    groq = chunk({}, "stop", x_groq={"id": "req_1", "usage": COUNTS})
    moonshot = chunk({}, "stop")
    moonshot["choices"][0]["usage"] = COUNTS
    for end in (groq, moonshot):
        assert decode(events(chunk({"content": "a"}), end, DONE)).completion.usage == COUNTS


TGI = {"id": 0, "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    "calls",
    [
        # https://github.com/huggingface/text-generation-inference/pull/2954
        pytest.param(TGI | {"index": 0}, id="TGI: an object"),
        pytest.param([TGI], id="TGI: a number as id, and arguments as object"),
        pytest.param([TGI | {"id": 7}], id="another number as id"),
        pytest.param([TGI | {"index": "0"}], id="an index as text"),
        pytest.param([TGI | {"index": 0.0, "id": None}], id="an index as float"),
    ],
)
def test_tool_calls_of_other_shapes(calls: Any, streamed: bool) -> None:
    """A call is read whatever the types of its list, index, id and arguments."""
    said = {"content": None, "tool_calls": calls}
    outcome = decode(stream(said, finish_reason="tool_calls") if streamed else whole(said, "tool_calls"))
    assert outcome.error is None
    call = outcome.completion.tool_calls[0]
    assert call.id.startswith("call-")
    assert outcome.completion.tool_calls == [ToolCall(call.id, "get_weather", '{"city":"Paris"}')]


def test_ids_that_are_not_unique() -> None:
    """TGI gives each call of an answer the id "0": results could not be attributed."""
    calls = [{"id": "0", "function": CALL}, {"id": "0", "function": CALL}]
    first, second = decode(whole({"tool_calls": calls}, "tool_calls")).completion.tool_calls
    assert first.id == "0"
    assert re.fullmatch(r"call-[0-9a-f]{24}", second.id)


@pytest.mark.parametrize("streamed", [True, False])
def test_content_in_parts(streamed: bool) -> None:
    """Mistral's content may be a list of parts, among them the reasoning.

    Source: https://docs.mistral.ai/capabilities/reasoning/
    """
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    texts = [
        {"type": "text", "text": "Hel"},
        {"type": "reference", "reference_ids": [1]},
        {"type": "text", "text": "lo"},
    ]
    parts = [thinking, *texts]
    body = stream(*({"content": [part]} for part in parts)) if streamed else whole({"content": parts})
    assert decode(body).said == ("Hm.", "Hello", [], "stop")


@pytest.mark.parametrize("kind", ["output_text", None, "text"])
def test_types_of_text_parts(kind: str | None) -> None:
    """A part of text may have the type of OpenAI's newer interface, or none."""
    assert decode(whole({"content": [{"type": kind, "text": "Hello"}]})).said == ("", "Hello", [], "stop")


def test_an_overflow_may_come_in_a_stream() -> None:
    """TGI and LM Studio report a prompt that is too long with status 200: it is the same error as with others.

    After the answer has begun, it is an error within the answer. Source of TGI's: router/src/server.rs.
    """
    words = "Input validation error: `inputs` must have less than 4096 tokens. Given: 4545"
    frame = {"error": {"message": words, "http_status_code": 422}}
    begun = chunk({"role": "assistant", "content": ""})
    said = f"the server reported an error in its answer: {words}", {"message": words}
    for body in (events(frame, DONE), events(begun, frame), json.dumps(frame).encode()):
        assert decode(body).error == ("ContextOverflowError", *said)
    assert decode(events(begun, chunk({"content": "a"}), frame)).error == ("ServerStreamError", *said)


@pytest.mark.parametrize(
    ("content", "reasoning"),
    [
        pytest.param({"type": "text", "text": "Hello"}, "", id="one part"),
        pytest.param(["Hel", {"type": "text", "text": "lo"}], "", id="a text among parts"),
        pytest.param([{"text": "Hel"}, {"type": "text", "text": None}, {"text": "lo"}], "", id="without a type"),
        pytest.param([{"type": "thinking", "thinking": ["Hm."]}, "Hello"], "Hm.", id="a text as reasoning"),
    ],
)
def test_parts_may_be_a_text_or_stand_alone(content: Any, reasoning: str) -> None:
    """A part of the content may be a text itself, and a single part need not be in a list."""
    expected: Any = (reasoning, "Hello", [], "stop")
    assert [decode(body).said for body in (whole({"content": content}), stream({"content": content}))] == [expected] * 2


def test_indexes_of_choices_as_text() -> None:
    """An index that is text is the same index."""
    assert decode(events(chunk({"content": "a"}, None, 0), chunk({"content": "b"}, "stop", "0"), DONE)).said[1] == "ab"


AT_LIMITS = {"prompt_tokens": 0, "completion_tokens": 2**63 - 1}


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        pytest.param({"prompt_tokens": -1, "completion_tokens": 2**63}, None, id="beyond the limits"),
        pytest.param({"prompt_tokens": 0, "completion_tokens": 2**63 - 1}, AT_LIMITS, id="at the limits"),
        pytest.param([1], None, id="list"),
        pytest.param("12", None, id="text"),
        pytest.param(7, None, id="number"),
        pytest.param(
            {"prompt_tokens": 9.0, "completion_tokens": -3, "total_tokens": "12"}, {"prompt_tokens": 9}, id="odd"
        ),
        pytest.param(
            {**COUNTS, "prompt_tokens_details": {"cached_tokens": 0.5, "audio_tokens": 0}},
            {**COUNTS, "prompt_tokens_details": {"audio_tokens": 0}},
            id="half a token",
        ),
        pytest.param(
            {**COUNTS, "prompt_tokens_details": [1], "completion_tokens_details": None},
            {**COUNTS, "completion_tokens_details": None},
            id="details",
        ),
        pytest.param({**COUNTS, "total_tokens": 10**40}, {"prompt_tokens": 9, "completion_tokens": 3}, id="huge"),
        pytest.param({**COUNTS, "queue_time": 0.03}, {**COUNTS, "queue_time": 0.03}, id="Groq's times"),
    ],
)
def test_odd_counts_are_dropped(usage: Any, read: Any) -> None:
    """Counts that are none are dropped, and the answer is kept."""
    for body in (whole({"content": "a"}, usage=usage), events(chunk({"content": "a"}, "stop", usage=usage), DONE)):
        outcome = decode(body)
        assert (outcome.said, outcome.completion.usage) == (("", "a", [], "stop"), read)


TOKEN = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -0.1, "bytes": [97]}]}


LIMITS = TOKEN | {"bytes": [0, 255]}


@pytest.mark.parametrize(
    ("logprobs", "read"),
    [
        pytest.param([1], None, id="list"),
        pytest.param("x", None, id="text"),
        pytest.param({"content": "x", "refusal": None}, {"refusal": None}, id="content as text"),
        pytest.param({"content": [None, {}, {"token": "a"}, TOKEN]}, {"content": [TOKEN]}, id="odd tokens"),
        pytest.param({"content": [TOKEN | {"bytes": "a"}]}, {"content": [TOKEN | {"bytes": None}]}, id="odd bytes"),
        *(
            pytest.param({"content": [TOKEN | {"bytes": [odd]}]}, {"content": [TOKEN | {"bytes": None}]}, id=repr(odd))
            for odd in ("a", 97.5, -1, 256, True)
        ),
        pytest.param({"content": [LIMITS]}, {"content": [LIMITS]}, id="the least and the greatest byte"),
        pytest.param({"content": [{"logprob": -0.1}, {**TOKEN, "token": 7}]}, {"content": []}, id="no text"),
        pytest.param(
            {"content": [TOKEN | {"top_logprobs": 1}]}, {"content": [TOKEN | {"top_logprobs": []}]}, id="odd others"
        ),
        pytest.param({"content": [TOKEN | {"index": 0}]}, {"content": [TOKEN]}, id="a numbered token"),
    ],
)
def test_odd_log_probabilities_are_dropped(logprobs: Any, read: Any) -> None:
    """Tokens without a text or log-probability are dropped, and the answer is kept."""
    body = json.loads(whole({"content": "a"}))
    body["choices"][0]["logprobs"] = logprobs
    outcome = decode(json.dumps(body).encode())
    assert (outcome.said, outcome.completion.first.logprobs) == (("", "a", [], "stop"), read)


UNOPENED = "Hm.\nSo?\n</think>\n\nIt is Paris."
NO_TAG = DecodingOptions(opening_tag=False)


@pytest.mark.parametrize(
    ("message", "expected", "said"),
    [
        pytest.param({"content": UNOPENED}, DEFAULT_OPTIONS, ("Hm.\nSo?", "It is Paris."), id="reasoning"),
        pytest.param({"content": UNOPENED}, NO_TAG, ("Hm.\nSo?", "It is Paris."), id="as is known of the server"),
        pytest.param(
            {"content": UNOPENED, "reasoning": "r"}, DEFAULT_OPTIONS, ("r", UNOPENED), id="the server parses reasoning"
        ),
        pytest.param({"content": UNOPENED}, DecodingOptions(thinking_off=True), ("", UNOPENED), id="thinking is off"),
        pytest.param({"content": "It is Paris."}, NO_TAG, ("", "It is Paris."), id="no reasoning"),
        pytest.param({"content": "<think>\nHm.\n</think>\n\nNo."}, NO_TAG, ("Hm.", "No."), id="an opening tag"),
    ],
)
def test_whole_answers_without_an_opening_tag(
    message: dict[str, str], expected: DecodingOptions, said: tuple[str, str]
) -> None:
    """Reasoning that the prompt opened is split off a whole answer (https://github.com/vllm-project/vllm/issues/22507)."""
    assert decode(whole(message), expected=expected).said == (*said, [], "stop")


@pytest.mark.parametrize(
    ("parts", "finish_reason", "said"),
    [
        pytest.param([*UNOPENED], "stop", ("Hm.\nSo?", "It is Paris."), id="letter by letter"),
        pytest.param([UNOPENED], "stop", ("Hm.\nSo?", "It is Paris."), id="at once"),
        pytest.param(["<think>\nHm.\n</think>\n\nParis."], "stop", ("Hm.", "Paris."), id="an opening tag"),
        pytest.param(["<think>\nHm."], "stop", ("Hm.", ""), id="only an opening tag"),
        pytest.param(["<think>."], "stop", ("<think>.", "<think>."), id="a mentioned tag"),
        pytest.param(["<"], "stop", ("<", "<"), id="a piece of an opening tag"),
        pytest.param(["Hm", "."], "length", ("Hm.", ""), id="truncated reasoning"),
        pytest.param(["Paris", ".\n"], "stop", ("Paris.", "Paris.\n"), id="an answer that looked like reasoning"),
        pytest.param(["Paris </th"], "stop", ("Paris </th", "Paris </th"), id="a piece of a tag"),
    ],
)
def test_streams_without_an_opening_tag(parts: list[str], finish_reason: str, said: tuple[str, str]) -> None:
    """If it is known that no tag opens the reasoning, a stream starts within it; no answer is lost if it did not."""
    body = stream(*({"content": part} for part in parts), finish_reason=finish_reason)
    outcome = decode(body, expected=NO_TAG)
    assert outcome.said == (*said, [], finish_reason)
    assert decode(*bytewise(body), expected=NO_TAG) == outcome


def test_a_call_ends_reasoning_that_is_not_closed() -> None:
    """Text before a tool call is reasoning if nothing has closed it."""
    call = {"index": 0, "id": "a", "function": CALL}
    body = stream({"content": "Hm."}, {"tool_calls": [call]}, finish_reason="tool_calls")
    options = DecodingOptions(opening_tag=False, tools=True)
    assert decode(body, expected=options).said == ("Hm.", *CALLED[1:])
    labelled = stream({"content": "Hi "}, {"reasoning": "Hm."}, {"content": "Paris."})
    assert decode(labelled, expected=NO_TAG).said == ("Hi Hm.", "Paris.", [], "stop")
