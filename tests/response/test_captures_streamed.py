"""Streamed and complete responses to the same question agree, and so does the stream that TIR documents."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.captures import CAPTURES, Capture
from tests.support.decode import Outcome, bytewise, decode
from tir_qwen.types import Choice

NO_FINISH = "0.9.2 says stop in whole answers of required tools and nothing in streams, where the calls say tool_calls"
ALL_TOOL_CALLS = "0.10.2 says tool_calls in streams, stop in whole answers"
SWALLOWED = "a stream's parser swallows the torn <tool_call> that a whole answer holds"
LOST = "0.9.2 loses up to eight characters before the end of streamed reasoning where there are stop strings"
NEWLINE = "a stream's parser passes on the newline that ends a malformed call"
DIFFERENCES: dict[str, tuple[set[str], str]] = {
    "vllm-0.10.2/stream_tool_auto_truncated": ({"calls"}, SWALLOWED),
    "vllm-0.10.2/stream_tool_malformed_call": ({"calls"}, NEWLINE),
    "vllm-0.10.2/stream_tool_named_nothink": ({"finish_reason"}, ALL_TOOL_CALLS),
    "vllm-0.10.2/stream_tool_named_think": ({"finish_reason"}, ALL_TOOL_CALLS),
    "vllm-0.10.2/stream_tool_required_nothink": ({"finish_reason"}, ALL_TOOL_CALLS),
    "vllm-0.10.2/stream_tool_required_parallel": ({"finish_reason"}, ALL_TOOL_CALLS),
    "vllm-0.10.2/stream_tool_required_think": (
        {"reasoning", "finish_reason"},
        "0.10.2 throws the reasoning of required tools away in streams, and says tool_calls",
    ),
    "vllm-0.32.0/stream_tool_auto_truncated": ({"calls"}, SWALLOWED),
    "vllm-0.32.0/stream_tool_required_truncated": ({"calls"}, SWALLOWED),
    "vllm-0.9.2/stream_stop_of_12": ({"reasoning"}, LOST),
    "vllm-0.9.2/stream_stop_of_5": ({"reasoning"}, LOST),
    "vllm-0.9.2/stream_stop_of_7_in_answer": ({"reasoning"}, LOST),
    "vllm-0.9.2/stream_stop_of_8": ({"reasoning"}, LOST),
    "vllm-0.9.2/stream_stop_of_9": ({"reasoning"}, LOST),
    "vllm-0.9.2/stream_stop_of_several": ({"reasoning"}, LOST),
    "vllm-0.9.2/stream_tool_auto_truncated": ({"calls"}, SWALLOWED),
    "vllm-0.9.2/stream_tool_malformed_call": ({"calls"}, NEWLINE),
    "vllm-0.9.2/stream_tool_required_nothink": ({"finish_reason"}, NO_FINISH),
    "vllm-0.9.2/stream_tool_required_parallel": ({"finish_reason"}, NO_FINISH),
    "vllm-0.9.2/stream_tool_required_think": ({"finish_reason"}, NO_FINISH),
    "vllm-0.9.2-no-reasoning-parser/stream_tool_required_think": ({"finish_reason"}, NO_FINISH),
}
"""Known differences between a server's streamed and complete responses, with their reasons."""

# The example of "Successful response (Streaming mode)" in the API reference of Qwen3 32B at docs.e2enetworks.com (POST
# /project/p-{Project_Id}/genai/qwen3_32b/v1/chat/completions), verbatim; the page shows it on one line.
SAMPLE = (
    'data: {"id":"chatcmpl-abc123","object":"chat.completion.chunk","created":1770613777,"model":"qwen3_32b",'
    '"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]} '
    'data: {"id":"chatcmpl-abc123","object":"chat.completion.chunk","created":1770613777,"model":"qwen3_32b",'
    '"choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}]} '
    'data: {"id":"chatcmpl-abc123","object":"chat.completion.chunk","created":1770613777,"model":"qwen3_32b",'
    '"choices":[{"index":0,"delta":{"content":"!"},"logprobs":null,"finish_reason":null}]} '
    'data: {"id":"chatcmpl-abc123","object":"chat.completion.chunk","created":1770613777,"model":"qwen3_32b",'
    '"choices":[{"index":0,"delta":{"content":" How"},"logprobs":null,"finish_reason":null}]} '
    'data: {"id":"chatcmpl-abc123","object":"chat.completion.chunk","created":1770613777,"model":"qwen3_32b",'
    '"choices":[{"index":0,"delta":{"content":" can"},"logprobs":null,"finish_reason":null}]} '
    'data: {"id":"chatcmpl-abc123","object":"chat.completion.chunk","created":1770613777,"model":"qwen3_32b",'
    '"choices":[{"index":0,"delta":{"content":" I"},"logprobs":null,"finish_reason":null}]} '
    'data: {"id":"chatcmpl-abc123","object":"chat.completion.chunk","created":1770613777,"model":"qwen3_32b",'
    '"choices":[{"index":0,"delta":{"content":" help"},"logprobs":null,"finish_reason":null}]} '
    'data: {"id":"chatcmpl-abc123","object":"chat.completion.chunk","created":1770613777,"model":"qwen3_32b",'
    '"choices":[{"index":0,"delta":{"content":" you"},"logprobs":null,"finish_reason":null}]} '
    'data: {"id":"chatcmpl-abc123","object":"chat.completion.chunk","created":1770613777,"model":"qwen3_32b",'
    '"choices":[{"index":0,"delta":{"content":"?"},"logprobs":null,"finish_reason":"stop"}]} '
    "data: [DONE]"
)


def question(capture: Capture) -> str:
    """Return the server and the request without its streaming options."""
    asked = {key: value for key, value in (capture.request or {}).items() if key not in {"stream", "stream_options"}}
    return f"{capture.setup} {json.dumps(asked, sort_keys=True)}"


def pairs() -> list[tuple[Capture, Capture]]:
    """Return each streamed response with the complete response to the same request."""
    answered = [capture for capture in CAPTURES if capture.status == 200 and capture.request]
    whole = {question(capture): capture for capture in answered if not capture.streamed}
    return [(whole[question(one)], one) for one in answered if one.streamed and question(one) in whole]


def parts(choice: Choice) -> dict[str, Any]:
    """Return a choice without the ids of its tool calls, which are random."""
    return {
        "content": choice.content,
        "reasoning": choice.reasoning,
        "calls": [(call.name, call.arguments) for call in choice.tool_calls],
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
        "logprobs": choice.logprobs,
    }


def usage(outcome: Outcome) -> dict[str, Any]:
    """Return the usage without the cache, which is warm for the second request."""
    counts = outcome.completion.usage or {}
    return {name: count for name, count in counts.items() if count is not None and name != "prompt_tokens_details"}


@pytest.mark.parametrize(("whole", "streamed"), [pytest.param(a, b, id=b.id) for a, b in pairs()])
def test_a_stream_equals_the_complete_response(whole: Capture, streamed: Capture) -> None:
    """Streaming changes nothing in the answer, except where the server itself differs."""
    one, other = (decode(capture.body, expected=capture.expected) for capture in (whole, streamed))
    assert len(one.completion.choices) == len(other.completion.choices) >= 1
    for a, b in zip(one.completion.choices, other.completion.choices, strict=True):
        said, streams = parts(a), parts(b)
        differing = {part for part in said if said[part] != streams[part]}
        assert differing == DIFFERENCES.get(streamed.id, (set(), ""))[0]
    assert one.failed == other.failed
    assert usage(other) in ({}, usage(one))


def test_all_pairs_are_compared_and_no_difference_is_outdated() -> None:
    """All 110 requests sent both ways are compared, and every listed difference belongs to one of them."""
    assert len(pairs()) == 110
    assert set(DIFFERENCES) <= {streamed.id for _, streamed in pairs()}


def test_the_documented_stream_is_decoded() -> None:
    """The stream in TIR's API reference is decoded in full."""
    body = "\n\n".join([*re.split(r" (?=data: )", SAMPLE), ""]).encode()
    outcome = decode(body)
    assert outcome.error is None
    assert outcome.said == ("", "Hello! How can I help you?", [], "stop")
    contents = [delta.content for delta in outcome.deltas]
    assert contents == ["", "Hello", "!", " How", " can", " I", " help", " you", "?", ""]
    assert [delta.finish_reason for delta in outcome.deltas] == [None] * 8 + ["stop", None]
    assert outcome.completion.usage is None
    assert outcome.completion.response == {"id": "chatcmpl-abc123", "created": 1770613777, "model": "qwen3_32b"}
    assert decode(*bytewise(body)) == outcome


@pytest.mark.parametrize("place", ["at once", "after the usage"])
@pytest.mark.parametrize("capture", [pytest.param(one, id=one.id) for _, one in pairs()])
def test_a_repeated_finish_chunk_changes_nothing(capture: Capture, place: str) -> None:
    """Chunks with a finish reason count once, also if a gateway sends them again, directly or after the usage."""
    events = re.findall(rb".*?\n\n", capture.body, re.DOTALL)
    finishing = [event for event in events if re.search(rb'"finish_reason":\s*"', event)]
    if place == "at once":
        repeated = [event for event in events for _ in range(3 if event in finishing else 1)]
    else:
        repeated = [*events[:-1], *finishing, *finishing, events[-1]]
    expected = decode(capture.body, expected=capture.expected)
    assert decode(b"".join(repeated), expected=capture.expected) == expected
