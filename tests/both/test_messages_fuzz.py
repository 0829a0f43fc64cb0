"""Messages and parameters of any shape are sent as JSON or rejected with our own errors, in every layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from llama_index.core.base.llms import types as llama
from pydantic import BaseModel

from langchain_tir_qwen._messages import messages_to_wire as langchain_to_wire
from llama_index_tir_qwen._messages import messages_to_wire as llama_index_to_wire
from tests.support.decode import FIXED
from tir_qwen import AsyncClient, Client, ConfigurationError
from tir_qwen._request.body import Body
from tir_qwen._request.build import build_request
from tir_qwen._request.endpoint import resolve_endpoint

ADDRESS = "http://127.0.0.1:1/v1"


def endless(value: Any) -> Any:
    """Return a list or dict that contains itself."""
    if isinstance(value, list):
        value.append(value)
    else:
        value["x"] = value
    return value


def deep(levels: int) -> Any:
    """Return a deeply nested list."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


NAMES = ["role", "content", "type", "text", "name", "function", "arguments", "id", "schema", "json_schema", "reasoning"]
TEXT = st.sampled_from(["", "a", "user", "tool", "text", "function", "json_object", "\ud800", "\x00"]) | st.text(
    max_size=3
)
ODD_VALUES = [None, True, -1, 2, 10**400, 0.5, float("nan"), float("inf"), b"\xff", {1}, (), ..., object()]
SCALAR = TEXT | st.sampled_from(ODD_VALUES)
ENDLESS = st.builds(endless, st.builds(list) | st.builds(dict)) | st.builds(deep, st.just(300))
KEY = st.sampled_from(NAMES) | st.sampled_from([1, None, b"x", "\ud800"])
ODD = st.recursive(
    SCALAR | SCALAR | ENDLESS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEY, inner, max_size=3),
    max_leaves=4,
)
"""Any value, whether JSON can represent it or not."""


def almost(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for objects with some of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


ROLE = st.sampled_from(["user", "assistant", "system", "tool"])
PART = almost(type=st.just("text") | ODD, text=TEXT | ODD)
CONTENT = TEXT | st.lists(PART | ODD, max_size=2) | ODD
FUNCTION = almost(name=TEXT | ODD, arguments=st.sampled_from(['{"a": 1}', "{", "5"]) | ODD)
CALLS = st.lists(almost(id=TEXT | ODD, function=FUNCTION | ODD) | ODD, max_size=2) | ODD
MORE = {"tool_calls": CALLS, "name": ODD, "tool_call_id": ODD, "reasoning_content": ODD, "reasoning": ODD}
LIKELY = st.fixed_dictionaries({"role": ROLE, "content": TEXT}, optional={"tool_calls": CALLS})
MESSAGE = st.one_of(LIKELY, st.fixed_dictionaries({"role": ROLE}, optional={"content": CONTENT, **MORE}), ODD)
MESSAGES = st.lists(LIKELY, min_size=1, max_size=3) | st.lists(MESSAGE, max_size=3) | ODD

TOOL = almost(type=st.just("function"), function=almost(name=TEXT, parameters=ODD) | ODD)
SCHEMA = almost(
    type=st.sampled_from(["object", ["object", "null"]]) | ODD,
    **dict.fromkeys(("properties", "enum", "anyOf", "required", "items", "$ref"), ODD),
)
FORMAT = almost(
    type=st.sampled_from(["json_schema", "json_object", "text"]) | ODD,
    json_schema=almost(name=TEXT, schema=SCHEMA | ODD) | ODD,
)
PARAMS = almost(
    tools=st.lists(TOOL | ODD, max_size=2) | ODD,
    tool_choice=st.sampled_from(["auto", "none", "required"]) | almost(function=FUNCTION | ODD) | ODD,
    response_format=FORMAT | ODD,
    tool_calling=st.sampled_from(["auto", "native", "prompted"]) | ODD,
    schema_in=st.sampled_from(["request", "messages", "both"]) | ODD,
    enable_thinking=st.booleans() | ODD,
    extra_body=almost(chat_template_kwargs=ODD, stop=ODD, enable_thinking=ODD) | ODD,
    **dict.fromkeys(("chat_template_kwargs", "n", "stop", "timeout", "max_retries", "model", "stream_options"), ODD),
    **dict.fromkeys(("parallel_tool_calls", "temperature", "logprobs", "whatever"), ODD),
)


class Server:
    """An in-memory server that records requests and answers each with a JSON object."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.client = httpx.Client(transport=httpx.MockTransport(self.answer))
        self.async_client = httpx.AsyncClient(transport=httpx.MockTransport(self.aanswer))

    def answer(self, request: Any) -> Any:
        """Return the response to a request."""
        self.bodies.append(request.content)
        message = {"reasoning": "Hm.", "content": '{"a": [1]}'}
        return httpx.Response(200, json={"choices": [{"message": message, "finish_reason": "stop"}]})

    async def aanswer(self, request: Any) -> Any:
        """Return the response to a request, asynchronously."""
        return self.answer(request)


@pytest.fixture(scope="module")
def lab() -> Iterator[Server]:
    """Share one client between all examples, as creating one is slow."""
    made = Server()
    with made.client:
        yield made


def check_sent(lab: Server, ask: Callable[[Any], Any]) -> None:
    """Check that a call is either sent as JSON or rejected before anything is sent."""
    lab.bodies.clear()
    try:
        ask(Client(base_url=ADDRESS, http_client=lab.client))
    except ConfigurationError as error:
        assert lab.bodies == [], error  # noqa: PT017 - that nothing was sent is what the class promises
        return
    for body in lab.bodies:
        assert json.loads(body)["messages"]


@FIXED
@given(messages=MESSAGES, params=PARAMS, streamed=st.booleans())
def test_a_call_with_anything_in_it(lab: Server, messages: Any, params: dict[str, Any], streamed: bool) -> None:
    """A call with any messages and parameters is either sent and answered or rejected with one of our errors."""
    if streamed:
        check_sent(lab, lambda client: list(client.stream(messages, **params)))
    else:
        check_sent(lab, lambda client: client.complete(messages, **params))


@FIXED
@given(messages=st.lists(LIKELY, min_size=1, max_size=3), schema=SCHEMA)
def test_a_schema_with_anything_in_it(lab: Server, messages: Any, schema: Any) -> None:
    """An answer is not lost because of an invalid schema."""
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    check_sent(lab, lambda client: client.complete(messages, response_format=wanted))


USER = {"role": "user", "content": "Hello"}
ROLELESS = {"content": "Hello"}
PROMPTED = {"tool_calling": "prompted"}
AN_OBJECT = {"response_format": {"type": "json_object"}}
ODD_CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "no list": ("Hello", {}),
    "nothing": (None, {}),
    "a dict": (USER, {}),
    "no dict": (["Hello"], {}),
    "no dict, with tools in the messages": (["Hello"], PROMPTED),
    "no dict, with an object for an answer": (["Hello"], AN_OBJECT),
    "no role, with tools in the messages": ([ROLELESS], PROMPTED),
    "no role, with an object for an answer": ([ROLELESS], AN_OBJECT),
    "no role, with thinking": ([ROLELESS], {"enable_thinking": False}),
    "content is a number": ([{"role": "user", "content": 5}], PROMPTED),
    "a part is a text": ([{"role": "user", "content": ["Hello"]}], PROMPTED),
    "the text of a part is none": ([{"role": "user", "content": [{"type": "text", "text": 5}]}], PROMPTED),
    "a call of nothing": ([{"role": "assistant", "tool_calls": [{}]}], PROMPTED),
    "a call of no name": ([{"role": "assistant", "tool_calls": [{"function": {}}]}], PROMPTED),
    "calls are a number": ([{"role": "assistant", "tool_calls": 5}], PROMPTED),
    "tools are a number": ([USER], {"tools": 5, **PROMPTED}),
    "a tool is no JSON": ([USER], {"tools": [{"x": {1}}], **PROMPTED}),
    "a tool holds itself": ([USER], {"tools": [endless({})], **PROMPTED}),
    "a choice of nothing": ([USER], {"tools": [{}], "tool_choice": {}, **PROMPTED}),
    "a choice of no name": ([USER], {"tool_choice": {"function": {}}}),
    "a choice of no function": ([USER], {"tool_choice": {"function": None}}),
    "a format is a text": ([USER], {"response_format": "json_object"}),
    "a schema is a text": ([USER], {"response_format": {"type": "json_schema", "json_schema": "x"}}),
    "a schema within is a text": ([USER], {"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}}),
    "a schema is no JSON": (
        [USER],
        {"response_format": {"type": "json_object", "json_schema": {"schema": {"x": {1}}}}},
    ),
    "a number is a text": ([USER], {"n": "2", "tools": [{}], **AN_OBJECT}),
    "template arguments are a text": ([USER], {"enable_thinking": True, "extra_body": {"chat_template_kwargs": "x"}}),
    "a model is a list": ([USER], {"model": ["x"]}),
}


@pytest.mark.parametrize(("messages", "params"), ODD_CALLS.values(), ids=ODD_CALLS.keys())
async def test_an_odd_call_by_either_client(lab: Server, messages: Any, params: dict[str, Any]) -> None:
    """Both clients handle mistakes in a call alike: they reject them, or leave that to the server."""
    check_sent(lab, lambda client: client.complete(messages, **params))
    check_sent(lab, lambda client: list(client.stream(messages, **params)))
    bodies = [*lab.bodies]
    lab.bodies.clear()
    client = AsyncClient(base_url=ADDRESS, http_client=lab.async_client)
    try:
        deltas = [delta async for delta in client.stream(messages, **params)]
        assert deltas[-1].last
    except ConfigurationError:
        assert lab.bodies == []
    assert lab.bodies == bodies


def written(to_wire: Callable[[Any], list[dict[str, Any]]], messages: Any) -> None:
    """Check that messages which a framework accepts are converted or rejected."""
    try:
        content = build_request(
            resolve_endpoint(base_url=ADDRESS), "m", Body(messages=to_wire(messages)), stream=True
        ).content
    except ConfigurationError:
        return
    assert [message["role"] for message in json.loads(content)["messages"]]


KINDS = st.sampled_from(["text", "reasoning", "thinking", "tool_use", "json", "image_url", "refusal", "new"])
BLOCK = almost(type=KINDS | ODD, text=TEXT | ODD, reasoning=TEXT | ODD, json=ODD)
BLOCKS = TEXT | st.lists(TEXT | BLOCK, max_size=3)
MARKS = almost(
    reasoning_content=TEXT | ODD,
    function_call=FUNCTION | ODD,
    tool_calls=CALLS,
    name=ODD,
)
FRAMEWORK_CALL = st.fixed_dictionaries({"name": TEXT, "args": st.dictionaries(TEXT, ODD, max_size=2), "id": TEXT})
LANGCHAIN = st.one_of(
    st.builds(HumanMessage, BLOCKS, additional_kwargs=MARKS),
    st.builds(SystemMessage, BLOCKS, additional_kwargs=MARKS),
    st.builds(AIMessage, BLOCKS, additional_kwargs=MARKS.filter(lambda marks: not marks.get("tool_calls"))),
    st.builds(AIMessage, BLOCKS, tool_calls=st.lists(FRAMEWORK_CALL, max_size=2)),
    st.builds(ToolMessage, BLOCKS, tool_call_id=TEXT, artifact=ODD),
    st.builds(ChatMessage, BLOCKS, role=TEXT),
)


@FIXED
@given(st.lists(LANGCHAIN, min_size=1, max_size=3))
def test_odd_langchain_messages_raise_only_our_errors(messages: list[BaseMessage]) -> None:
    """LangChain messages with any blocks, tool calls and extra fields raise no errors but ours."""
    written(langchain_to_wire, messages)


class Function(BaseModel):
    """A function call as represented by OpenAI's library."""

    name: Any
    arguments: Any = None


class ForeignCall(BaseModel):
    """A tool call as represented by OpenAI's library."""

    id: Any
    function: Any


FOREIGN = st.builds(ForeignCall, id=TEXT, function=ODD | st.builds(Function, name=TEXT | ODD, arguments=TEXT | ODD))
TEXT_BLOCK = st.builds(llama.TextBlock, text=TEXT)
LLAMA_INDEX = st.builds(
    llama.ChatMessage,
    role=st.sampled_from(llama.MessageRole),
    blocks=st.lists(
        st.one_of(
            TEXT_BLOCK,
            st.builds(llama.ThinkingBlock, content=st.none() | TEXT, additional_information=st.just({})),
            st.builds(llama.ToolCallBlock, tool_name=TEXT, tool_kwargs=TEXT | st.dictionaries(TEXT, ODD, max_size=2)),
            st.builds(llama.CitableBlock, content=st.lists(TEXT_BLOCK, max_size=2), title=TEXT, source=TEXT),
            st.builds(
                llama.CitationBlock,
                cited_content=TEXT_BLOCK,
                source=TEXT,
                title=TEXT,
                additional_location_info=st.just({}),
            ),
        ),
        max_size=3,
    ),
    additional_kwargs=almost(tool_calls=CALLS | st.lists(FOREIGN, max_size=2), name=ODD, tool_call_id=ODD),
)


@FIXED
@given(st.lists(LLAMA_INDEX, min_size=1, max_size=3))
def test_odd_llama_index_messages_raise_only_our_errors(messages: list[llama.ChatMessage]) -> None:
    """LlamaIndex messages with any blocks and extra fields raise no errors but ours."""
    written(llama_index_to_wire, messages)
