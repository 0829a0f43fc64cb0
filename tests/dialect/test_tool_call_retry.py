"""Asking the model again if none of its tool calls can be run."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from llama_index.core.llms import ChatMessage

from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen._messages import messages_to_wire
from langchain_tir_qwen._tool_calls import read_invalid_call
from tests.support.scripted_transport import BODY_OF_OVERFLOW, Reply, Scripted, llm_on, model_on
from tir_qwen import Choice, Completion, ContextOverflowError, Delta, ToolCall, ToolCallDelta
from tir_qwen._dialect.tool_call_retry import ToolCallRetry
from tir_qwen._request.body import Body

TOOLS = [
    {
        "type": "function",
        "function": {"name": "save", "parameters": {"type": "object", "properties": {"note": {"type": "string"}}}},
    }
]
BROKEN = Reply("I save it.", (("save", '{"note": "say "hi""}'),), "Hm.", "tool_calls")
GOOD = Reply("Now.", (("save", '{"note": "hi"}'),), "I forgot the escapes.", "tool_calls")
CUT = Reply("", (("save", '{"note": "h'),), finish_reason="length")
EMPTY = Reply("", (), "I save it.")
TEXT = Reply("I cannot save it.")
PROBLEM = "its arguments are not valid JSON: expected `,` or `}` at line 1 column 16"
WARNING = f"A tool call of the model cannot be run: {PROBLEM}."


async def _invoke(model: ChatTIRQwen, **params: Any) -> AIMessage:
    return model.invoke("Save hi.", tools=TOOLS, **params)


async def _ainvoke(model: ChatTIRQwen, **params: Any) -> AIMessage:
    return await model.ainvoke("Save hi.", tools=TOOLS, **params)


async def _stream(model: ChatTIRQwen, **params: Any) -> AIMessage:
    return reduce(add, model.stream("Save hi.", tools=TOOLS, **params))


async def _astream(model: ChatTIRQwen, **params: Any) -> AIMessage:
    return reduce(add, [chunk async for chunk in model.astream("Save hi.", tools=TOOLS, **params)])


FORMS: dict[str, Callable[..., Awaitable[AIMessage]]] = {
    "invoke": _invoke,
    "ainvoke": _ainvoke,
    "stream": _stream,
    "astream": _astream,
}
every_form = pytest.mark.parametrize("form", FORMS)


def calls_of(message: AIMessage) -> list[tuple[str, Any]]:
    """Return the valid calls of a message."""
    return [(call["name"], call["args"]) for call in message.tool_calls]


def errors_of(message: AIMessage) -> list[tuple[str, str]]:
    """Return the arguments and errors of the invalid calls of a message."""
    return [read_invalid_call(call) for call in message.invalid_tool_calls]


@every_form
async def test_the_model_is_asked_again_and_sees_what_was_wrong(form: str, caplog: pytest.LogCaptureFixture) -> None:
    """The second answer continues the first one, and the tokens of both are counted."""
    lab = Scripted(BROKEN, GOOD)

    message = await FORMS[form](model_on(lab))

    assert message.content == "I save it.\nNow."
    assert message.additional_kwargs["reasoning_content"] == "Hm.\nI forgot the escapes."
    assert calls_of(message) == [("save", {"note": "hi"})]
    assert errors_of(message) == [('{"note": "say "hi""}', PROBLEM)]
    assert message.response_metadata["finish_reason"] == "tool_calls"
    assert message.response_metadata["id"] == "chatcmpl-1"
    assert message.usage_metadata == {"input_tokens": 22, "output_tokens": 10, "total_tokens": 32}
    first, second = (body["messages"] for body in lab.bodies)
    assert second == [
        *first,
        {
            "role": "assistant",
            "content": "I save it.",
            "tool_calls": [
                {
                    "id": "c0",
                    "type": "function",
                    "function": {"name": "save", "arguments": r'"{\"note\": \"say \"hi\"\"}"'},
                }
            ],
            "reasoning_content": "Hm.",
        },
        {
            "role": "tool",
            "tool_call_id": "c0",
            "content": f"Error: this tool call was not run: {PROBLEM}. Correct it, or answer without it.",
        },
    ]
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [WARNING]


@every_form
async def test_the_model_is_asked_again_once(form: str, caplog: pytest.LogCaptureFixture) -> None:
    """If the second call is invalid too, both are in the message, each with a warning."""
    lab = Scripted(BROKEN, BROKEN)

    message = await FORMS[form](model_on(lab))

    assert (calls_of(message), errors_of(message)) == ([], [('{"note": "say "hi""}', PROBLEM)] * 2)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [WARNING] * 2


@every_form
async def test_the_second_answer_may_be_text(form: str) -> None:
    """A model that answers in words after all has answered."""
    message = await FORMS[form](model_on(Scripted(BROKEN, TEXT)))

    assert message.content == "I save it.\nI cannot save it."
    assert (calls_of(message), message.response_metadata["finish_reason"]) == ([], "stop")


@every_form
async def test_a_second_answer_without_reasoning_adds_none(form: str) -> None:
    """The reasoning is that of the first answer where the second has none."""
    message = await FORMS[form](model_on(Scripted(BROKEN, Reply("Sorry.", reasoning=""))))

    assert (message.content, message.additional_kwargs) == ("I save it.\nSorry.", {"reasoning_content": "Hm."})


VALID_TOO = Reply("", (*BROKEN.calls, ("save", '{"note": "hi"}')), finish_reason="tool_calls")


@every_form
@pytest.mark.parametrize(
    ("reply", "params"),
    [
        pytest.param(GOOD, {}, id="valid"),
        pytest.param(VALID_TOO, {}, id="another one is valid"),
        pytest.param(BROKEN, {"retry_tool_calls": False}, id="turned off"),
        pytest.param(CUT, {}, id="truncated"),
        pytest.param(TEXT, {}, id="text"),
    ],
)
async def test_one_request_is_enough(form: str, reply: Reply, params: dict[str, Any]) -> None:
    """The model is not asked again in vain, nor if it is turned off."""
    lab = Scripted(reply)

    await FORMS[form](model_on(lab), **params)

    assert len(lab.requests) == 1


@every_form
async def test_a_truncated_call_is_logged(form: str, caplog: pytest.LogCaptureFixture) -> None:
    """A truncated call is invalid, and the log says what helps."""
    message = await FORMS[form](model_on(Scripted(CUT)))

    reason = "max_tokens (or the context window) truncated its arguments"
    assert (calls_of(message), errors_of(message)) == ([], [('{"note": "h', reason)])
    assert [record.message for record in caplog.records] == [
        f"A tool call of the model cannot be run: {reason}. Raise max_tokens."
    ]


@every_form
async def test_the_first_answer_remains_if_the_second_request_fails(
    form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If the model cannot be asked again, the call has the first answer, with its own token counts."""
    refused = Reply(status=400, error=BODY_OF_OVERFLOW)

    message = await FORMS[form](model_on(Scripted(BROKEN, refused), max_retries=0))

    assert message.content == "I save it."
    assert errors_of(message) == [('{"note": "say "hi""}', PROBLEM)]
    assert message.response_metadata["finish_reason"] == "tool_calls"
    assert message.usage_metadata == {"input_tokens": 11, "output_tokens": 5, "total_tokens": 16}
    assert "The model could not be asked for a valid tool call: 400" in caplog.text


@every_form
async def test_an_error_of_the_first_request_is_raised(form: str) -> None:
    """Only the second request may fail without an error."""
    with pytest.raises(ContextOverflowError):
        await FORMS[form](model_on(Scripted(Reply(status=400, error=BODY_OF_OVERFLOW)), max_retries=0))


@every_form
async def test_an_empty_answer_of_a_stream_may_have_lost_a_call(form: str) -> None:
    """Streams of vLLM lose a call that is no object with a name; a whole answer that is empty is empty."""
    lab = Scripted(EMPTY, GOOD) if "stream" in form else Scripted(EMPTY)

    message = await FORMS[form](model_on(lab))

    assert calls_of(message) == ([("save", {"note": "hi"})] if "stream" in form else [])
    if "stream" in form:
        assert [body["stream"] for body in lab.bodies] == [True, False]
        assert lab.bodies[1]["messages"] == lab.bodies[0]["messages"]


LOSSY = Reply(
    frames=[
        {"reasoning_content": "I save 2."},
        {"content": "Now."},
        {"tool_calls": [{"index": 0, "id": "chatcmpl-tool-0", "function": {"name": "save"}}]},
        *({"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in ('{"count":', ' "', "hi", '"}')),
    ],
    finish_reason="tool_calls",
)
"""What vLLM 0.9 streams for `{"count": 2, "note": "hi"}`."""
MEANT = Reply("Now.", (("save", '{"count": 2, "note": "hi"}'),), "I save 2.", "tool_calls")


@pytest.mark.parametrize("form", ["stream", "astream"])
async def test_a_call_that_a_stream_lost_a_part_of_is_requested_whole(
    form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The same request is sent for a whole answer, whose text has already been passed on; the log says so."""
    lab = Scripted(LOSSY, MEANT)
    caplog.set_level("INFO", "tir_qwen")

    message = await FORMS[form](model_on(lab))

    assert calls_of(message) == [("save", {"count": 2, "note": "hi"})]
    assert (message.content, message.additional_kwargs["reasoning_content"]) == ("Now.", "I save 2.")
    assert message.usage_metadata == {"input_tokens": 22, "output_tokens": 10, "total_tokens": 32}
    first, second = lab.bodies
    del first["stream_options"]
    assert second == {**first, "stream": False}
    assert "A stream has lost a tool call or a part of it: a whole answer is requested." in caplog.messages
    assert [call["function"]["name"] for call in messages_to_wire([message])[0]["tool_calls"]] == ["save"]


async def test_other_servers_may_cut_arguments_as_they_like() -> None:
    """Only the ids of vLLM's own parser make a stream suspect: Anthropic's models cut arguments after the key."""
    first = {"tool_calls": [{"index": 0, "id": "toolu_01", "function": {"name": "save"}}]}
    parts = [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in ('{"count":', " 2}")]
    lab = Scripted(replace(LOSSY, frames=[*LOSSY.frames[:2], first, *parts]))

    assert calls_of(await _stream(model_on(lab))) == [("save", {"count": 2})]
    assert [body["stream"] for body in lab.bodies] == [True]


FIRST_FRAME: dict[str, Any] = {"tool_calls": [{"index": 0, "id": "chatcmpl-tool-0", "function": {"name": "save"}}]}
BRACES = Reply(
    frames=[
        FIRST_FRAME,
        *({"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in ('{"note": "', "f({", ")", '"}')),
    ],
    finish_reason="tool_calls",
)
"""What vLLM 0.9 streams for `{"note": "f({})"}`: nothing shows that a brace is missing."""
WRITTEN = '<tool_call>\n{"name": "save", "arguments": {"note": "f({})"}}\n</tool_call>'


@pytest.mark.parametrize("form", ["stream", "astream"])
async def test_the_tools_of_later_streams_are_written_into_the_messages(form: str) -> None:
    """Once the lossy parser has shown itself, only the tools of whole answers are left to the server."""
    note = {"note": "f({})"}
    whole = Reply(calls=(("save", json.dumps(note)),), finish_reason="tool_calls")
    lab = Scripted(BRACES, whole, Reply(WRITTEN), whole, Reply(WRITTEN))
    model = model_on(lab)

    for ask in (FORMS[form], FORMS[form], _invoke, FORMS[form]):
        assert calls_of(await ask(model)) == [("save", note)]
    assert [(body["stream"], "tools" in body) for body in lab.bodies] == [
        (True, True),
        (False, True),
        (True, False),
        (False, True),
        (True, False),
    ]
    assert str(model._client.capabilities) == (
        "The server loses parts of tool calls in streams: tools are written into the messages there."
    )


async def test_a_call_without_arguments_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only arguments show how a parser cuts them, so when streams are tried again, a call without any is no proof."""
    monkeypatch.setattr("tir_qwen._dialect.lesson._CALLS", 2)
    empty = Reply(frames=[FIRST_FRAME, {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}])
    whole = Reply(calls=(("save", json.dumps({"note": "f({})"})),), finish_reason="tool_calls")
    lab = Scripted(BRACES, whole, Reply(WRITTEN), replace(empty, finish_reason="tool_calls"), Reply(WRITTEN))
    model = model_on(lab)

    for _ in range(4):
        await _stream(model)
    assert ["tools" in body for body in lab.bodies] == [True, True, False, True, False]
    assert not model._client.capabilities.streamed_calls


async def test_native_streams_are_confirmed_each_time() -> None:
    """With `tool_calling="native"` the tools stay with the server, and calls that lack braces are asked for again."""
    whole = Reply(calls=(("save", '{"note": "f({})"}'),), finish_reason="tool_calls")
    lab = Scripted(*[BRACES, whole] * 2)
    model = model_on(lab, tool_calling="native")

    for _ in range(2):
        assert calls_of(await _stream(model)) == [("save", {"note": "f({})"})]
    assert [(body["stream"], "tools" in body) for body in lab.bodies] == [(True, True), (False, True)] * 2


async def test_a_call_that_lacks_nothing_takes_one_request() -> None:
    """A first call whose braces are balanced is taken as it is, and later streams are parsed here all the same."""
    parts = ('{"note": "', "f({", "})", '"}')
    frames = [FIRST_FRAME, *({"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in parts)]
    lab = Scripted(replace(BRACES, frames=frames), Reply(WRITTEN))
    model = model_on(lab)

    for _ in range(2):
        assert calls_of(await _stream(model)) == [("save", {"note": "f({})"})]
    assert [(body["stream"], "tools" in body) for body in lab.bodies] == [(True, True), (True, False)]


async def test_calls_that_must_be_made_are_streamed_natively() -> None:
    """The server parses calls that it was told to make in another way, without losses."""
    lab = Scripted(BRACES, Reply(calls=(("save", "{}"),), finish_reason="tool_calls"), BRACES)
    model = model_on(lab)
    for choice in ("auto", "save"):
        await _stream(model, tool_choice=choice)
    assert [(body["stream"], "tools" in body) for body in lab.bodies] == [(True, True), (False, True), (True, True)]


async def test_a_lost_call_that_is_broken_is_corrected_whole() -> None:
    """If the whole answer shows that the model's call was broken, it is corrected, in a whole answer too."""
    lab = Scripted(LOSSY, BROKEN, GOOD)

    message = await _stream(model_on(lab))

    assert calls_of(message) == [("save", {"note": "hi"})]
    assert [body["stream"] for body in lab.bodies] == [True, False, False]


def test_a_call_after_the_finish_reason_is_not_asked_for_again() -> None:
    """A gateway may send a call after the finish reason; then the answer was not empty."""
    retry = ToolCallRetry(Body(messages=[]), for_invalid_calls=True, for_lost_calls=True)
    call = Delta(tool_calls=[ToolCallDelta(0, "c0", "save", "{}")])
    end = Delta(last=True)

    assert [retry.feed(delta) for delta in (Delta(finish_reason="stop"), call, end)] == [Delta(), call, None]
    assert retry.next_request(Completion([Choice(0, tool_calls=[ToolCall("c0", "save", "{}")])])) is None
    assert [*retry.remaining()] == [Delta(finish_reason="stop"), end]


def test_a_lost_call_is_asked_for_in_llama_index_too() -> None:
    """The stream of a LlamaIndex agent ends with the call of the second answer."""
    llm = llm_on(Scripted(EMPTY, GOOD))

    *_, last = llm.stream_chat([ChatMessage("Save hi.")], tools=TOOLS)

    (selection,) = llm.get_tool_calls_from_response(last)
    assert (selection.tool_name, selection.tool_kwargs) == ("save", {"note": "hi"})
    assert last.additional_kwargs["completion_tokens"] == 10


@every_form
async def test_an_object_after_an_invalid_call(form: str) -> None:
    """Tools and a schema together: an invalid call is corrected first, then the object is requested."""
    schema = {"type": "object", "properties": {"saved": {"type": "boolean"}}, "required": ["saved"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    lab = Scripted(BROKEN, TEXT, Reply('{"saved": false}', (), ""))

    message = await FORMS[form](model_on(lab), response_format=response_format)

    assert message.content == '{"saved": false}'
    assert message.usage_metadata == {"input_tokens": 33, "output_tokens": 15, "total_tokens": 48}
    assert ["response_format" in body for body in lab.bodies] == [False, False, True]
