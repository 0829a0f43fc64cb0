"""`ChatTIRQwen` itself: arguments, calls and callbacks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import reduce
from operator import add
from typing import Any

import httpx
import httpx2
import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_json_schema
from pydantic import BaseModel, Field

from langchain_tir_qwen import ChatTIRQwen
from tests.support.fake_vllm import CREATED, ID, MODEL, USAGE, Lab
from tir_qwen import ConfigurationError

GREETING = "Good day!"
COUNTED = {"input_tokens": 11, "output_tokens": 5, "total_tokens": 16}
KNOWN = {"project_id": 1, "access_token": "token"}


def model_on(lab: Lab, **settings: Any) -> ChatTIRQwen:
    """Return a model whose server is `lab`."""
    return ChatTIRQwen(**{**KNOWN, "http_client": lab.client(), "http_async_client": lab.async_client(), **settings})


@pytest.mark.parametrize("engine", [httpx, httpx2], ids=lambda engine: engine.__name__)
async def test_client_of_the_user(engine: Any) -> None:
    """A user's httpx or httpx2 client is used for all calls, and stays open."""
    lab = Lab()
    client, async_client = lab.client(engine), lab.async_client(engine)
    model = ChatTIRQwen(**KNOWN, http_client=client, http_async_client=async_client)

    said = [model.invoke("Hello").content, (await model.ainvoke("Hello")).content]
    said += ["".join(chunk.content for chunk in model.stream("Hello"))]
    said += ["".join([chunk.content async for chunk in model.astream("Hello")])]

    assert said == [GREETING] * 4
    assert len(lab.requests) == 4
    assert not client.is_closed
    assert not async_client.is_closed


def test_whole_message() -> None:
    """An answer is a single message with every value in its proper place."""
    assert model_on(Lab()).invoke("Hello").model_dump(exclude={"id"}, exclude_defaults=True) == {
        "content": GREETING,
        "additional_kwargs": {"reasoning_content": "Hm."},
        "response_metadata": {
            "model_provider": "tir_qwen",
            "model_name": MODEL,
            "id": ID,
            "created": CREATED,
            "finish_reason": "stop",
            "token_usage": USAGE,
        },
        "usage_metadata": COUNTED,
    }


@pytest.mark.parametrize(
    ("settings", "given", "sent"),
    [
        ({}, {}, {}),
        ({"temperature": 0.0, "n": 1}, {}, {"temperature": 0.0, "n": 1}),
        ({"temperature": 0.1, "max_tokens": 5}, {"max_tokens": 7}, {"temperature": 0.1, "max_tokens": 7}),
        ({"temperature": 0.1}, {"temperature": None}, {}),
        ({"stop": ["a"]}, {}, {"stop": ["a"]}),
        ({"stop": "a"}, {}, {"stop": ["a"]}),
        ({"stop": ["a"]}, {"stop": ["b"]}, {"stop": ["b"]}),
        ({"stop": ["a"]}, {"stop": []}, {}),
        ({"stop": []}, {}, {}),
        ({"enable_thinking": True}, {"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({}, {"stream": False}, {}),
        ({}, {"timeout": 3.0}, {}),
        ({}, {"model": "qwen3_8b"}, {"model": "qwen3_8b"}),
        ({}, {"min_tokens": 2}, {"min_tokens": 2}),
    ],
    ids=str,
)
def test_parameters_of_a_call_override_the_constructor(
    settings: dict[str, Any], given: dict[str, Any], sent: dict[str, Any]
) -> None:
    """Parameters of a call or binding override those of the constructor; unset ones are not sent."""
    lab = Lab()
    model_on(lab, **settings).invoke("Hello", **given)
    model_on(lab, **settings).bind(**given).invoke("Hello")

    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False, **sent}
    assert lab.bodies == [body, body]
    assert f"/genai/{body['model']}/v1/" in str(lab.requests[0].url)


def test_configurable_fields() -> None:
    """A model with configurable parameters keeps its token and its client."""
    lab = Lab()
    model = model_on(lab).configurable_fields(temperature=ConfigurableField(id="heat"))

    model.with_config(configurable={"heat": 0.9}).invoke("Hello")

    assert lab.bodies[0]["temperature"] == 0.9
    assert lab.requests[0].headers["authorization"] == "Bearer token"


@pytest.mark.parametrize(
    ("settings", "given", "streamed"),
    [
        ({}, {}, False),
        ({}, {"stream": True}, True),
        ({"streaming": True}, {}, True),
        ({"streaming": True}, {"stream": False}, False),
        ({"streaming": False}, {}, False),
        ({"disable_streaming": True, "streaming": True}, {}, False),
    ],
    ids=str,
)
async def test_streaming_within_invoke(settings: dict[str, Any], given: dict[str, Any], streamed: bool) -> None:
    """`streaming` and `stream=` control how a whole answer is fetched, but not the result."""
    lab = Lab()
    model = model_on(lab, **settings)

    for answer in (model.invoke("Hello", **given), await model.ainvoke("Hello", **given)):
        assert (answer.content, answer.usage_metadata) == (GREETING, COUNTED)
        assert type(answer) is AIMessage
        assert answer.additional_kwargs == {"reasoning_content": "Hm."}
    assert [body["stream"] for body in lab.bodies] == [streamed, streamed]


@pytest.mark.parametrize("disabled", [True, "tool_calling"])
def test_disabled_streaming(disabled: Any) -> None:
    """If streaming is disabled, entirely or for tools, a stream consists of one whole answer."""

    @tool
    def look(where: str) -> str:
        """Look there."""
        return where

    lab = Lab()
    chunks = [*model_on(lab, disable_streaming=disabled).bind_tools([look]).stream("Hello")]
    assert [chunk.content for chunk in chunks] == [GREETING]
    assert [body["stream"] for body in lab.bodies] == [False]


@pytest.mark.parametrize(
    ("settings", "given", "asked"),
    [
        ({}, {}, True),
        ({}, {"stream": False}, True),
        ({"stream_usage": False}, {}, False),
        ({"stream_usage": False}, {"stream_usage": True}, True),
    ],
    ids=str,
)
def test_stream_usage(settings: dict[str, Any], given: dict[str, Any], asked: bool) -> None:
    """Usage is requested in streams unless the user turns it off."""
    lab = Lab()
    answer = reduce(add, model_on(lab, **settings).stream("Hello", **given))

    assert (answer.content, answer.usage_metadata) == (GREETING, COUNTED if asked else None)
    options = {"stream_options": {"include_usage": True}} if asked else {}
    messages = [{"role": "user", "content": "Hello"}]
    assert lab.bodies == [{"model": MODEL, "messages": messages, "stream": True, **options}]


@pytest.mark.parametrize(("settings", "given"), [({"n": 2}, {}), ({}, {"n": 2}), ({"n": 2, "streaming": True}, {})])
async def test_more_than_one_stream(settings: dict[str, Any], given: dict[str, Any]) -> None:
    """More than one answer in a stream is rejected before sending, as LangChain would merge them into one."""
    lab = Lab()
    model = model_on(lab, **settings)

    with pytest.raises(ConfigurationError, match=r"^n must be 1 for a stream"):
        [*model.stream("Hello", **given)]
    with pytest.raises(ConfigurationError, match=r"^n must be 1 for a stream"):
        [chunk async for chunk in model.astream("Hello", **given)]
    assert lab.requests == []


def test_more_than_one_answer() -> None:
    """`generate` returns all answers to each prompt."""
    result = model_on(Lab(), n=2).generate([[HumanMessage("Hello")], [HumanMessage("Hello")]])
    assert [[one.text for one in answers] for answers in result.generations] == [[GREETING, GREETING]] * 2


class Tokens(BaseCallbackHandler):
    """Records each new token with its reasoning."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str]] = []

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        self.noted.append((token, chunk.message.additional_kwargs.get("reasoning_content", "")))


class AsyncTokens(AsyncCallbackHandler):
    """The asynchronous version of `Tokens`."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str]] = []

    async def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        self.noted.append((token, chunk.message.additional_kwargs.get("reasoning_content", "")))


async def _all(chunks: Any) -> list[Any]:
    return [chunk async for chunk in chunks]


async def _now(value: Any) -> Any:
    return value


WAYS: dict[str, Callable[[ChatTIRQwen, Any], Awaitable[Any]]] = {
    "stream": lambda model, config: _now([*model.stream("Hello", config)]),
    "invoke": lambda model, config: _now(model.invoke("Hello", config, stream=True)),
    "astream": lambda model, config: _all(model.astream("Hello", config)),
    "ainvoke": lambda model, config: model.ainvoke("Hello", config, stream=True),
    "astream_events": lambda model, config: _all(model.astream_events("Hello", config, version="v2")),
}


@pytest.mark.parametrize(
    ("way", "handler"),
    [*((way, Tokens) for way in WAYS), *((way, AsyncTokens) for way in WAYS if way.startswith("a"))],
)
async def test_a_callback_sees_each_chunk_once(way: str, handler: type[Tokens | AsyncTokens]) -> None:
    """A callback receives each chunk once, including reasoning, whichever method was called."""
    tokens = handler()
    await WAYS[way](model_on(Lab()), {"callbacks": [tokens]})
    assert tokens.noted == [("", "Hm."), ("Good ", ""), ("day", ""), ("!", ""), ("", ""), ("", "")]


@pytest.mark.parametrize(
    ("settings", "given", "sent"),
    [
        ({"extra_body": {"a": 1, "b": 1}}, {"extra_body": {"b": 2}}, {"a": 1, "b": 2}),
        ({"extra_body": {"top_k": 1}, "top_k": 2}, {}, {"top_k": 1}),
    ],
    ids=["merged", "over all"],
)
def test_extra_body_overrides_other_fields(
    settings: dict[str, Any], given: dict[str, Any], sent: dict[str, Any]
) -> None:
    """Fields of `extra_body` override all others in the body, and `extra_body` itself is not sent."""
    lab = Lab()
    model_on(lab, **settings).invoke("Hello", **given)
    assert lab.bodies == [{"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False, **sent}]


def test_usage_beside_few_facts() -> None:
    """Usage is read even if the server reports hardly anything else."""

    def answer(request: httpx.Request) -> httpx.Response:
        message = {"role": "assistant", "content": GREETING}
        return httpx.Response(200, json={"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE})

    model = ChatTIRQwen(**KNOWN, http_client=httpx.Client(transport=httpx.MockTransport(answer)))
    assert model.invoke("Hello").usage_metadata == COUNTED


def test_switches_are_not_sent() -> None:
    """Options that only LangChain or the client uses are never sent to the server."""
    lab = Lab()
    model_on(lab).bind(stream_usage=True).invoke("Hello")
    assert lab.bodies == [{"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False}]


def test_changed_attribute() -> None:
    """A model name that is changed later is used in requests, traces and caches."""
    lab = Lab()
    model = model_on(lab)
    model.model = "qwen3_8b"

    model.invoke("Hello")

    assert model._get_ls_params()["ls_model_name"] == "qwen3_8b"
    assert lab.bodies[0]["model"] == "qwen3_8b"


class Joke(BaseModel):
    """A joke."""

    setup: str = Field(description="How it begins.")


class Options(BaseCallbackHandler):
    """Records the options that a call was started with."""

    def __init__(self) -> None:
        self.noted: list[dict[str, Any]] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, *, options: Any = None, **kwargs: Any) -> None:
        self.noted.append(options)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_schema_in_traces(method: str) -> None:
    """Traces show the schema of structured output in LangChain's own format, which its standard tests compare."""
    options = Options()
    model = model_on(Lab('{"setup": ', '"Well."}')).with_structured_output(Joke, method=method)

    assert model.invoke("A joke!", {"callbacks": [options]}) == Joke(setup="Well.")

    (noted,) = options.noted
    assert noted["ls_structured_output_format"]["schema"] == convert_to_json_schema(Joke)
