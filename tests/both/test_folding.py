"""The chunks of real streams add up to the whole answer in both integrations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import reduce
from itertools import pairwise
from operator import add

import pytest
from llama_index.core.base.llms.types import ChatResponse, ThinkingBlock

from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen._messages import chunk_from_delta, message_from_choice
from langchain_tir_qwen._tool_calls import ToolCallChunks, read_invalid_call
from llama_index_tir_qwen import TIRQwen
from llama_index_tir_qwen._messages import response_from_completion
from llama_index_tir_qwen._stream import ResponseStream
from tests.support.captures import CAPTURES, Capture
from tests.support.server import DONE, END, STREAM_HEAD, Loopback, event
from tests.support.server import chunk as framed
from tir_qwen import Completion, Delta
from tir_qwen._response.response import ResponseDecoder
from tir_qwen.testing import Request

STREAMS = [
    capture
    for capture in CAPTURES
    if capture.streamed
    and capture.request
    and (capture.request.get("n") or 1) == 1
    and capture.body.endswith(b"data: [DONE]\n\n")
    and b'"error"' not in capture.body
    and b'"abort"' not in capture.body
]
"""The captured streams that contain a single, complete answer."""


def decode(capture: Capture) -> tuple[list[Delta], Completion]:
    """Return the parsed deltas of a stream and the answer they add up to."""
    decoder = ResponseDecoder(options=capture.expected)
    return [*decoder.feed(capture.body), *decoder.close()], decoder.completion()


def test_there_are_streams() -> None:
    """Streams of every server are included."""
    setups = {capture.setup for capture in STREAMS}
    assert setups >= {"vllm-0.9.2", "vllm-0.10.2", "vllm-0.32.0", "vllm-0.32.0-no-parsers"}
    assert len(STREAMS) > 50


@pytest.mark.parametrize("capture", STREAMS, ids=lambda capture: capture.id)
def test_langchain_chunks_add_up_to_the_whole_answer(capture: Capture) -> None:
    """The sum of a stream's chunks equals the message of a whole answer in every part."""
    deltas, completion = decode(capture)
    calls = ToolCallChunks()
    chunks = [chunk_from_delta(delta, calls).message for delta in deltas]

    total, whole = reduce(add, chunks), message_from_choice(completion.first, completion)

    for part in ("content", "additional_kwargs", "tool_calls", "usage_metadata"):
        assert getattr(total, part) == getattr(whole, part)
    invalid = [[*map(read_invalid_call, message.invalid_tool_calls)] for message in (total, whole)]
    assert invalid[0] == invalid[1]
    assert total.response_metadata == whole.response_metadata
    assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]


@pytest.mark.parametrize("capture", STREAMS, ids=lambda capture: capture.id)
def test_llama_index_chunks_add_up_to_the_whole_answer(capture: Capture) -> None:
    """The last response of a stream equals that of a whole answer, and so does the text of its deltas."""
    deltas, completion = decode(capture)
    stream = ResponseStream()
    responses = [stream.add(delta) for delta in deltas]

    whole = response_from_completion(completion)
    assert responses[-1] == whole.model_copy(update={"delta": ""})
    assert "".join(response.delta or "" for response in responses) == (whole.message.content or "")
    assert "".join(response.additional_kwargs.get("thinking_delta", "") for response in responses) == thought(whole)
    texts = [response.message.content or "" for response in responses]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


def thought(response: ChatResponse) -> str:
    """Return the reasoning of a response."""
    return "".join(block.content for block in response.message.blocks if isinstance(block, ThinkingBlock))


async def test_a_finish_reason_in_two_chunks() -> None:
    """A finish reason that a gateway sends in two chunks, the second with the usage, appears once in both integrations.

    LangChain would join them to `stopstop`.
    """

    def answer(_: Request) -> Iterator[bytes]:
        again = {"index": 0, "delta": {}, "finish_reason": "stop"}
        last = {"id": "x", "choices": [again], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
        yield STREAM_HEAD + event("Good day!", "stop") + event("", "stop")
        yield framed(b"data: " + json.dumps(last).encode() + b"\n\n") + DONE + END

    with Loopback(answer) as server:
        model, llm = ChatTIRQwen(base_url=server.base_url), TIRQwen(api_base=server.base_url)
        messages = [reduce(add, model.stream("Hi")), reduce(add, [chunk async for chunk in model.astream("Hi")])]
        responses = [
            [*llm.stream_complete("Hi")],
            [response async for response in await llm.astream_complete("Hi")],
        ]
    for message in messages:
        assert (message.text, message.response_metadata["finish_reason"]) == ("Good day!", "stop")
        assert message.usage_metadata == {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    for streamed in responses:
        assert streamed[-1].text == "Good day!"
        finish_reasons = [response.raw["choices"][0]["finish_reason"] for response in streamed[:-1]]
        assert [reason for reason in finish_reasons if reason] == ["stop"]
