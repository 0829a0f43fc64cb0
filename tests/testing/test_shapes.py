"""What the fake endpoint writes is what vLLM wrote, but for ids, times, token counts and where chunks are cut."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.captures import CAPTURES, Capture
from tir_qwen.testing import Reply, faults
from tir_qwen.testing._shapes import SHAPES, tokens

VERSIONS = {"0.9": "vllm-0.9.2", "0.32": "vllm-0.32.0"}
BY_ID = {capture.id: capture for capture in CAPTURES}
FRANCE = "The capital of France is Paris."
WEATHER = [("get_weather", '{"city": "Paris"}')]
TWO = [*WEATHER, ("get_weather", '{"city": "London"}')]
SEARCH = [("search_docs", '{"query": "rate limits", "top_k": 3}')]
ALICE = Reply(json={"name": "Alice", "age": 30})
THINKING = Reply(FRANCE, reasoning="The user asks for the capital of France. That is Paris.")
REPLIES = {
    "plain_nothink": Reply(FRANCE),
    "plain_think": THINKING,
    "trunc_nothink": Reply("1, 2, 3, 4", finish_reason="length"),
    "n2": Reply(FRANCE),
    "tool_auto_nothink": Reply(tool_calls=WEATHER),
    "tool_parallel_think": Reply(reasoning="I need two calls: Paris and London.", tool_calls=TWO),
    "tool_content_before_call": Reply("Let me look that up.\n", tool_calls=SEARCH),
    "tool_no_args": Reply(tool_calls=[("get_time", {})]),
    "json_schema": ALICE,
    "stream_nothink": Reply(FRANCE),
    "stream_think": THINKING,
    "stream_usage_think": THINKING,
    "stream_n2": Reply(FRANCE),
    "stream_tool_auto_nothink": Reply(tool_calls=WEATHER),
    "stream_tool_parallel_think": Reply(reasoning="I need two calls: Paris and London.", tool_calls=TWO),
    "stream_tool_no_args": Reply(tool_calls=[("get_time", {})]),
    "stream_json_schema": ALICE,
}
"""Captures, and the replies that should be written like them."""


def normal(body: str) -> str:
    """Return the body without what differs from answer to answer."""
    body = re.sub(r'"(chatcmpl(?:-tool)?)-[0-9a-f]+"', r'"\1"', body)
    body = re.sub(r'("(?:created|\w+_tokens)"):\d+', r"\1:0", body)
    return re.sub(r'"vllm-0[^"]*"', '"vllm"', body)


def joined(events: list[str]) -> list[Any]:
    """Return the events of a stream in their order by choice, with those joined that differ only in their text."""
    chunks: list[Any] = []
    read = [event if event == "data: [DONE]" else json.loads(event.removeprefix("data: ")) for event in events]
    for chunk in sorted(read, key=place):
        if chunks and (text := text_of(chunk)) and text_of(chunks[-1]) and same_but_text(chunk, chunks[-1]):
            set_text(chunks[-1], text_of(chunks[-1]) + text)
        else:
            chunks.append(chunk)
    return chunks


def place(chunk: Any) -> tuple[int, int]:
    """Return what orders a chunk: first the beginnings, then the choices one by one, then the end."""
    if chunk == "data: [DONE]" or not chunk["choices"]:
        return 2, 0
    (choice,) = chunk["choices"]
    return "role" not in choice["delta"], choice["index"]


def holder(chunk: Any) -> tuple[dict[str, Any], str]:
    """Return the object that has the text of a chunk, and the text's name in it."""
    if chunk == "data: [DONE]" or not chunk["choices"]:
        return {}, ""
    delta = chunk["choices"][0]["delta"]
    if delta.get("tool_calls"):
        return delta["tool_calls"][0]["function"], "arguments"
    return delta, next((name for name in ("reasoning_content", "reasoning", "content") if delta.get(name)), "")


def text_of(chunk: Any) -> str:
    """Return the text of a chunk."""
    where, name = holder(chunk)
    return str(where.get(name) or "")


def set_text(chunk: Any, text: str) -> None:
    """Replace the text of a chunk."""
    where, name = holder(chunk)
    where[name] = text


def same_but_text(one: Any, other: Any) -> bool:
    """Return whether two chunks differ only in their text."""
    copies = [json.loads(json.dumps(chunk)) for chunk in (one, other)]
    for copy in copies:
        set_text(copy, "")
    return bool(json.dumps(copies[0]) == json.dumps(copies[1]))


def events_of(body: str) -> list[str]:
    """Return the events of a stream."""
    return [event for event in body.split("\n\n") if event]


@pytest.mark.parametrize("name", REPLIES)
@pytest.mark.parametrize("version", VERSIONS)
def test_replies_are_written_as_vllm_writes_them(version: str, name: str) -> None:
    """Each kind of answer, whole and streamed, has the fields of vLLM, in its order and with its values."""
    capture = BY_ID[f"{VERSIONS[version]}/{name}"]
    assert capture.request
    response = SHAPES[version].respond(REPLIES[name], capture.request, 1)
    if capture.streamed:
        ours, theirs = [event for event, _ in response.events or ()], events_of(capture.body.decode())
        written, expected = (joined([normal(event) for event in events]) for events in (ours, theirs))
        assert [json.dumps(chunk) for chunk in written] == [json.dumps(chunk) for chunk in expected]
    else:
        assert normal(response.content.decode()) == normal(capture.body.decode())
    assert response.headers["content-type"] == capture.headers["content-type"]


REFUSALS = {
    "err_404_model": lambda capture: faults.status(404, message_of(capture)),
    "err_400_ctx_prompt": lambda _: faults.context_overflow(),
    "err_400_temperature_neg": lambda capture: faults.status(400, message_of(capture)),
}


def message_of(capture: Capture) -> str:
    """Return the words of a captured error."""
    body = json.loads(capture.body)
    return str((body.get("error") or body)["message"])


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("version", VERSIONS)
def test_refusals_are_written_as_vllm_writes_them(version: str, name: str) -> None:
    """The body of an error is vLLM's, except for the field that is at fault, which a refusal does not know."""
    capture = BY_ID[f"{VERSIONS[version]}/{name}"]
    response = REFUSALS[name](capture)._respond(SHAPES[version])
    without_field = re.sub(r'"param":"\w+"', '"param":null', capture.body.decode())
    assert (response.status, response.content.decode()) == (capture.status, without_field)


def test_a_busy_engine() -> None:
    """`unavailable` is what vLLM 0.32 writes while its queue is full."""
    capture = BY_ID["vllm-0.32.0-faults/err_503_overflow"]
    response = faults.unavailable()._respond(SHAPES["0.32"])
    assert (response.status, response.content) == (503, capture.body)


@pytest.mark.parametrize(
    ("version", "name"),
    [("0.9", "vllm-0.9.2/faults/magic_stream_dead-mid"), ("0.32", "vllm-0.32.0-faults/stream_engine_killed_mid")],
)
def test_a_dead_engine(version: str, name: str) -> None:
    """`stream_error` ends a stream as vLLM does when its engine dies."""
    setup, _, rest = name.rpartition("/")
    capture = next(one for one in CAPTURES if one.id == f"{setup}/{rest}")
    response = faults.stream_error("a b")._respond(SHAPES[version], {"stream": True}, 1)
    assert [event for event, _ in response.events or ()][-2:] == events_of(capture.body.decode())[-2:]


@pytest.mark.parametrize(
    "text", ["", " ", "a", "  a b", "a,b\n\nc  \n d\t", "नमस्ते दुनिया", "👩‍🚀 x_1", '{"a": [1, "b c"]}']
)
def test_tokens_are_all_of_the_text(text: str) -> None:
    """Text that is cut into tokens is the same text when they are joined."""
    assert "".join(tokens(text)) == text
