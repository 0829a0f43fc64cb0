"""Pitfalls of LangChain's message format: each test fails with the obvious, naive conversion."""

from __future__ import annotations

import json
import pickle
from collections.abc import Awaitable, Callable
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage, message_chunk_to_message
from langchain_tests.utils.stream_lifecycle import assert_valid_event_stream

from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen._tool_calls import split_mark
from tests.support.scripted_transport import Reply, Scripted, model_on, model_saying

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
PARIS, LONDON = ("get_weather", '{"city": "Paris"}'), ("get_weather", '{"city": "London"}')
THOUGHT = {"type": "reasoning", "reasoning": "I need both."}
TEXT = {"type": "text", "text": "Let me look."}


def call_block(number: int, name: str, **arguments: Any) -> dict[str, Any]:
    """Return the block of a tool call."""
    return {"type": "tool_call", "name": name, "args": arguments, "id": f"c{number}"}


def broken_block(number: int, arguments: str) -> dict[str, Any]:
    """Return the block of a call whose arguments are not valid JSON."""
    return {"type": "invalid_tool_call", "name": "get_weather", "args": arguments, "id": f"c{number}"}


CALLS = [call_block(0, "get_weather", city="Paris"), call_block(1, "get_weather", city="London")]
CASES: dict[str, tuple[Reply, list[dict[str, Any]]]] = {
    "text": (Reply("Let me look.", reasoning=""), [TEXT]),
    "reasoning and text": (Reply("Let me look.", reasoning="I need both."), [THOUGHT, TEXT]),
    "all": (Reply("Let me look.", (PARIS, LONDON), "I need both.", "tool_calls"), [THOUGHT, TEXT, *CALLS]),
    "calls": (Reply("", (PARIS, LONDON), "", "tool_calls"), CALLS),
    "reasoning and a call": (Reply("", (PARIS,), "I need both.", "stop"), [THOUGHT, CALLS[0]]),
    "no arguments": (Reply("", (("now", ""),), "", "tool_calls"), [call_block(0, "now")]),
    "cut": (Reply("", (("get_weather", '{"city": "Par'),), "", "length"), [broken_block(0, '{"city": "Par')]),
    "valid and cut": (
        Reply("Let me look.", (PARIS, ("get_weather", '{"city": "Lon')), "I need both.", "length"),
        [THOUGHT, TEXT, CALLS[0], broken_block(1, '{"city": "Lon')],
    ),
    "nothing": (Reply("", (), ""), []),
}


async def _all(values: Any) -> list[Any]:
    return [value async for value in values]


async def _invoke(model: ChatTIRQwen) -> AIMessage:
    return model.invoke("?")


async def _ainvoke(model: ChatTIRQwen) -> AIMessage:
    return await model.ainvoke("?")


async def _stream(model: ChatTIRQwen) -> AIMessage:
    return reduce(add, model.stream("?"))


async def _astream(model: ChatTIRQwen) -> AIMessage:
    return reduce(add, await _all(model.astream("?")))


async def _stream_events(model: ChatTIRQwen) -> AIMessage:
    return model.stream_events("?", version="v3").output


async def _astream_events(model: ChatTIRQwen) -> AIMessage:
    return await (await model.astream_events("?", version="v3"))


READINGS: dict[str, Callable[[ChatTIRQwen], Awaitable[AIMessage]]] = {
    "invoke": _invoke,
    "ainvoke": _ainvoke,
    "stream": _stream,
    "astream": _astream,
    "stream_events": _stream_events,
    "astream_events": _astream_events,
}
STREAMS = [name for name in READINGS if "stream" in name]


_INVALID = {"tool_call_chunk": "invalid_tool_call"}


def bare(block: Any) -> dict[str, Any]:
    """Return a block without its index and without errors, which streams append to the arguments."""
    bare_block = {name: value for name, value in block.items() if name not in ("index", "error", "extras")}
    if isinstance(block.get("args"), str):
        bare_block["args"] = split_mark(block["args"])[0]
    return bare_block


def blocks_of(message: AIMessage) -> list[dict[str, Any]]:
    """Return a message's content as LangChain's standard blocks; core leaves an invalid call of a v1 stream a chunk."""
    blocks = [bare(block) for block in message.content_blocks]
    return [{**block, "type": _INVALID.get(block["type"], block["type"])} for block in blocks]


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("case", CASES)
async def test_every_way_of_reading_gives_the_same_blocks(case: str, reading: str, version: str) -> None:
    """An answer has the same blocks, calls and text in all reading methods and both output versions.

    Pitfalls 1, 2 and 7. With the integer indexes of tool calls from the wire, v1 merges the first call into the
    reasoning and the second into the text; OpenAI's translator drops the reasoning; and core repairs `{"city": "Par`
    into a valid call.
    """
    reply, expected = CASES[case]

    message = await READINGS[reading](model_saying(reply, output_version=version))

    assert blocks_of(message) == expected
    assert message.text == "".join(block["text"] for block in expected if block["type"] == "text")
    assert [bare(call) for call in message.tool_calls] == [one for one in expected if one["type"] == "tool_call"]
    invalid = [one for one in expected if one["type"] == "invalid_tool_call"]
    assert [bare(call) for call in message.invalid_tool_calls] == invalid
    assert message.usage_metadata == {"input_tokens": 11, "output_tokens": 5, "total_tokens": 16}


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("reading", READINGS)
async def test_content_is_text_in_v0_and_blocks_in_v1(reading: str, version: str) -> None:
    """The content is text in v0 and a list of blocks in v1 and v3; reasoning is never part of the text."""
    reply, blocks = CASES["all"]

    message = await READINGS[reading](model_saying(reply, output_version=version))

    if version == "v0" and "events" not in reading:
        assert message.content == "Let me look."
        assert message.additional_kwargs == {"reasoning_content": "I need both."}
    else:
        assert [bare(block) for block in message.content] == blocks


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_an_answer_is_sent_back_the_same_in_every_form(version: str, reading: str) -> None:
    """Every form of an answer is sent back to the server as the same message, including reasoning and calls."""
    lab = Scripted(CASES["all"][0], Reply("Sunny."))
    model = model_on(lab, output_version=version)
    answer = await READINGS[reading](model)

    results = [ToolMessage("Sun.", tool_call_id=call["id"]) for call in answer.tool_calls]
    model.invoke([HumanMessage("?"), answer, *results])

    calls = [
        {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": arguments.replace(" ", "")}}
        for number, (name, arguments) in enumerate((PARIS, LONDON))
    ]
    assert lab.bodies[1]["messages"][1] == {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": calls,
        "reasoning_content": "I need both.",
    }


@pytest.mark.parametrize("case", CASES)
async def test_events_are_valid(case: str) -> None:
    """Events of version 3 follow LangChain's rules for every kind of answer, synchronous and asynchronous."""
    reply, _ = CASES[case]
    model = model_saying(reply, reply)

    events = [*model.stream_events("?", version="v3")]
    async_events = await _all(await model.astream_events("?", version="v3"))

    assert_valid_event_stream(events)
    assert_valid_event_stream(async_events)
    assert events[0]["event"] == "message-start"
    assert [event["event"] for event in async_events] == [event["event"] for event in events]


async def test_v3_streams_reasoning_text_and_calls() -> None:
    """The projections of version 3 yield reasoning, text and calls as they arrive."""
    reply, _ = CASES["all"]
    stream = model_saying(reply).stream_events("?", version="v3")

    assert [*stream.reasoning] == ["I ne", "ed b", "oth."]
    assert "".join(stream.text) == "Let me look."
    assert [bare(call) for call in stream.tool_calls.get()] == CALLS


@pytest.mark.parametrize("reading", STREAMS)
async def test_chunk_of_reasoning_and_text(reading: str) -> None:
    """A chunk with the end of the reasoning and the beginning of the text splits neither of them.

    Pitfall 3: without a translator, version 3 makes two blocks out of the text.
    """
    frames = [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "I need "},
        {"reasoning_content": "both.", "content": "Let "},
        {"content": "me look."},
    ]

    message = await READINGS[reading](model_saying(Reply(frames=frames)))

    assert blocks_of(message) == [THOUGHT, TEXT]


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("reading", ["stream", "astream"])
async def test_empty_reasoning(reading: str, version: str) -> None:
    """Empty reasoning is treated as no reasoning.

    Pitfall 2: `additional_kwargs["reasoning_content"] = ""` results in a separate empty block.
    """
    frames = [{"reasoning_content": "", "content": ""}, {"reasoning_content": "", "content": "Let me look."}]

    message = await READINGS[reading](model_saying(Reply(frames=frames), output_version=version))

    assert (blocks_of(message), message.additional_kwargs) == ([TEXT], {})


@pytest.mark.parametrize("reading", STREAMS)
async def test_metadata_is_not_added_up(reading: str) -> None:
    """Each value of the response metadata appears once, as the server sent it.

    Pitfall 4: with metadata on each chunk, names are concatenated to `qwen3_32bqwen3_32b`, and creation times are
    summed.
    """
    message = await READINGS[reading](model_saying(CASES["all"][0]))

    assert {name: value for name, value in message.response_metadata.items() if name != "output_version"} == {
        "model_provider": "tir_qwen",
        "model_name": "qwen3_32b",
        "id": "chatcmpl-1",
        "created": 1,
        "finish_reason": "tool_calls",
    }


@pytest.mark.parametrize("reading", STREAMS)
async def test_usage_is_not_added_up(reading: str) -> None:
    """Tokens are counted once, even if the server reports usage on every chunk.

    Pitfall 5: usage on each chunk is summed, here to 16 tokens times the number of chunks.
    """
    message = await READINGS[reading](model_saying(Reply("Let me look.", counted=True)))

    assert message.usage_metadata == {"input_tokens": 11, "output_tokens": 5, "total_tokens": 16}


def piece(index: int, arguments: str | None = None, **facts: Any) -> dict[str, Any]:
    """Return a delta with a fragment of a tool call."""
    function = {name: facts.pop(name) for name in ("name",) if name in facts}
    function |= {} if arguments is None else {"arguments": arguments}
    return {"tool_calls": [{"index": index, **facts, "function": function}]}


NAMED: dict[str, list[dict[str, Any]]] = {
    "once": [piece(0, id="c0", name="get_weather"), piece(0, '{"city": '), piece(0, '"Paris"}')],
    "repeated": [
        piece(0, "", id="c0", name="get_weather"),
        piece(0, '{"city": ', id="c0", name="get_weather"),
        piece(0, '"Paris"}', id="c0", name="get_weather"),
    ],
    "null": [
        piece(0, id="c0", name="get_weather"),
        piece(0, '{"city": ', id=None, name=None),
        piece(0, '"Paris"}', name=None),
    ],
}


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("reading", STREAMS)
@pytest.mark.parametrize("named", NAMED)
async def test_name_of_a_call(named: str, reading: str, version: str) -> None:
    """A call has its name once, whether the server repeats it, omits it or sends null in later deltas.

    Pitfall 6: a name that is repeated in each delta becomes `get_weatherget_weather`.
    """
    message = await READINGS[reading](model_saying(Reply(frames=NAMED[named]), output_version=version))

    assert blocks_of(message) == CALLS[:1]


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("reading", STREAMS)
async def test_interleaved_calls(reading: str, version: str) -> None:
    """Interleaved fragments of several calls are assigned by index.

    Pitfall 1: core assigns the indexes 0 and 1 of the wire to reasoning and text as well.
    """
    frames = [
        {"reasoning_content": "I need both."},
        {"content": "Let me look."},
        piece(0, id="c0", name="get_weather"),
        piece(1, id="c1", name="get_weather"),
        piece(0, '{"city": '),
        piece(1, '{"city": "Lon'),
        piece(0, '"Paris"}'),
        piece(1, 'don"}'),
    ]

    message = await READINGS[reading](model_saying(Reply(frames=frames), output_version=version))

    assert blocks_of(message) == [THOUGHT, TEXT, *CALLS]


BROKEN = [
    *((reading, text) for reading in READINGS for text in ('{"city": "Par', '{"city": ', '{"a": 1}{}', "city=Paris")),
    # The events of core 1.7 accept any JSON as arguments, and then fail if it is not an object.
    *((reading, text) for reading in READINGS for text in ("[1]", '"Paris"') if "events" not in reading),
]


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize(("reading", "arguments"), BROKEN)
async def test_broken_arguments(reading: str, arguments: str, version: str) -> None:
    """Arguments that are not a JSON object result in an invalid call in every form of an answer.

    Pitfall 7: summed by core, `{"city": "Par` becomes a valid call for a city named Par.
    """
    reply = Reply("", (("get_weather", arguments),), "", "tool_calls")

    message = await READINGS[reading](model_saying(reply, output_version=version))

    assert message.tool_calls == []
    assert [bare(call) for call in message.invalid_tool_calls] == [broken_block(0, arguments)]
    assert blocks_of(message) == [broken_block(0, arguments)]


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("case", CASES)
async def test_only_the_last_chunk_is_marked_as_last(case: str, version: str) -> None:
    """Only the last chunk is marked as such, so that a sum of chunks is known to be complete.

    Pitfall 8: without the mark, core adds an empty chunk of its own, and the sum of ours remains a fragment.
    """
    model = model_saying(*[CASES[case][0]] * 2, output_version=version)

    for chunks in ([*model.stream("?")], await _all(model.astream("?"))):
        assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]
        assert {type(chunk) for chunk in chunks} == {type(chunks[0])}


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("case", CASES)
async def test_serialized_sum(case: str, version: str) -> None:
    """A sum of chunks survives LangChain's serialization and pickling with all of its data."""
    total = await _stream(model_saying(CASES[case][0], output_version=version))

    written = dumps(total)
    read = loads(written, allowed_objects="core")
    again = pickle.loads(pickle.dumps(total))

    assert json.loads(written)["id"] == ["langchain", "schema", "messages", "AIMessageChunk"]
    assert type(read) is AIMessageChunk
    for copy in (read, again):
        assert blocks_of(copy) == CASES[case][1]
        assert (copy.tool_calls, copy.invalid_tool_calls) == (total.tool_calls, total.invalid_tool_calls)
        assert copy.usage_metadata == total.usage_metadata
        assert copy.response_metadata == total.response_metadata
        assert copy.additional_kwargs == total.additional_kwargs


@pytest.mark.parametrize("case", CASES)
async def test_message_of_a_sum(case: str) -> None:
    """A sum of chunks is converted to LangChain's own message class, which other code knows."""
    total = await _stream(model_saying(CASES[case][0]))

    message = message_chunk_to_message(total)

    assert type(message) is AIMessage
    assert blocks_of(message) == CASES[case][1]
    assert blocks_of(loads(dumps(message), allowed_objects="core")) == CASES[case][1]
