"""Arguments of a call, through every method of both integrations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from llama_index.core.llms import ChatMessage

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.fake_vllm import Lab
from tir_qwen import ConfigurationError

SETTINGS = {"project_id": 1, "api_key": "token"}
UNKNOWN = (
    "a call takes no argument 'temprature' (did you mean 'temperature'?). Further fields of the request body go through"
    " extra_body: extra_body={'temprature': ...}."
)
MESSAGES = [ChatMessage("Hello")]


async def exhaust(stream: Any) -> None:
    """Read a stream to its end."""
    async for _ in stream:
        pass


async def exhaust_llama_index(stream: Any) -> None:
    """Read a stream of LlamaIndex, which has to be awaited first, to its end."""
    await exhaust(await stream)


def langchain(lab: Lab, **settings: Any) -> ChatTIRQwen:
    """Return a LangChain model."""
    return ChatTIRQwen(**SETTINGS, **settings, http_client=lab.client(), http_async_client=lab.async_client())


def llama_index(lab: Lab, **settings: Any) -> TIRQwen:
    """Return a LlamaIndex LLM."""
    return TIRQwen(**SETTINGS, **settings, http_client=lab.client(), async_http_client=lab.async_client())


SYNC: dict[str, Callable[..., Any]] = {
    "invoke": lambda lab, **params: langchain(lab).invoke("Hello", **params),
    "stream": lambda lab, **params: list(langchain(lab).stream("Hello", **params)),
    "batch": lambda lab, **params: langchain(lab).batch(["Hello"], **params),
    "bind": lambda lab, **params: langchain(lab).bind(**params).invoke("Hello"),
    "bind, streamed": lambda lab, **params: list(langchain(lab).bind(**params).stream("Hello")),
    "generate": lambda lab, **params: langchain(lab).generate([[HumanMessage("Hello")]], **params),
    "chat": lambda lab, **params: llama_index(lab).chat(MESSAGES, **params),
    "complete": lambda lab, **params: llama_index(lab).complete("Hello", **params),
    "stream_chat": lambda lab, **params: list(llama_index(lab).stream_chat(MESSAGES, **params)),
    "stream_complete": lambda lab, **params: list(llama_index(lab).stream_complete("Hello", **params)),
    "chat_with_tools": lambda lab, **params: llama_index(lab).chat_with_tools([], "Hello", **params),
}
ASYNC: dict[str, Callable[..., Any]] = {
    "ainvoke": lambda lab, **params: langchain(lab).ainvoke("Hello", **params),
    "astream": lambda lab, **params: exhaust(langchain(lab).astream("Hello", **params)),
    "abatch": lambda lab, **params: langchain(lab).abatch(["Hello"], **params),
    "achat": lambda lab, **params: llama_index(lab).achat(MESSAGES, **params),
    "acomplete": lambda lab, **params: llama_index(lab).acomplete("Hello", **params),
    "astream_chat": lambda lab, **params: exhaust_llama_index(llama_index(lab).astream_chat(MESSAGES, **params)),
    "astream_complete": lambda lab, **params: exhaust_llama_index(llama_index(lab).astream_complete("Hello", **params)),
}
WRONG = [({"temprature": 0.1}, UNKNOWN), ({"temperature": "hot"}, "temperature must be a finite number, not a string.")]


@pytest.mark.parametrize(("params", "words"), WRONG)
@pytest.mark.parametrize("method", SYNC)
def test_a_wrong_argument_is_rejected_before_sending(method: str, params: dict[str, Any], words: str) -> None:
    """An unknown name or a wrong type is rejected, and nothing is sent."""
    lab = Lab()
    with pytest.raises(ConfigurationError) as caught:
        SYNC[method](lab, **params)
    assert (str(caught.value), lab.requests) == (words, [])


@pytest.mark.parametrize(("params", "words"), WRONG)
@pytest.mark.parametrize("method", ASYNC)
async def test_a_wrong_argument_is_rejected_before_sending_asynchronously(
    method: str, params: dict[str, Any], words: str
) -> None:
    """An unknown name or a wrong type is rejected, and nothing is sent."""
    lab = Lab()
    with pytest.raises(ConfigurationError) as caught:
        await ASYNC[method](lab, **params)
    assert (str(caught.value), lab.requests) == (words, [])


KNOWN = {"user": "u", "max_completion_tokens": 5, "guided_choice": ["a"], "top_k": 3, "reasoning_effort": "low"}


@pytest.mark.parametrize("method", SYNC)
def test_fields_of_vllm_and_openai_are_known_by_name(method: str) -> None:
    """Fields that vLLM documents, and OpenAI's own, can be passed as arguments of every method."""
    lab = Lab()
    SYNC[method](lab, **KNOWN)
    (body,) = lab.bodies
    assert {name: body[name] for name in KNOWN} == KNOWN


def test_arguments_of_a_call_win_over_those_of_the_constructor() -> None:
    """A parameter of a call replaces the constructor's, wherever the constructor was given it."""
    extra = {"seed": 1, "top_k": 1, "chat_template_kwargs": {"enable_thinking": True, "x": 1}}
    call: dict[str, Any] = {"seed": 2, "enable_thinking": False, "extra_body": {"top_k": 2}}
    lab = Lab()
    langchain(lab, extra_body=extra, temperature=0.1).invoke("Hello", temperature=0.2, **call)
    llama_index(lab, additional_kwargs=extra, temperature=0.1).complete("Hello", temperature=0.2, **call)
    for body in lab.bodies:
        assert {name: value for name, value in body.items() if name not in ("messages", "model", "stream")} == {
            "seed": 2,
            "top_k": 2,
            "temperature": 0.2,
            "chat_template_kwargs": {"enable_thinking": False, "x": 1},
        }


@pytest.mark.parametrize("make", [langchain, llama_index])
def test_a_call_can_ask_for_thinking(make: Callable[..., Any]) -> None:
    """A call that asks for thinking gets it, whether the constructor turned it off by name or by a budget of 0."""
    for settings, params in (
        ({"thinking_budget": 0}, {"enable_thinking": True}),
        ({"enable_thinking": False}, {"thinking_budget": 500}),
    ):
        lab = Lab()
        model = make(lab, **settings)
        model.invoke("Hi", **params) if make is langchain else model.complete("Hi", **params)
        sent = {name: lab.bodies[0].get(name) for name in ("chat_template_kwargs", "max_tokens")}
        template = {"enable_thinking": True} if "enable_thinking" in params else None
        assert sent == {"chat_template_kwargs": template, "max_tokens": params.get("thinking_budget")}


@pytest.mark.parametrize("where", ["call", "extra_body of the call", "extra_body of the constructor"])
def test_a_stream_of_several_answers_is_rejected(where: str) -> None:
    """Streams have a single answer, wherever `n` is given."""
    lab = Lab()
    params: dict[str, Any] = {"call": {"n": 2}, "extra_body of the call": {"extra_body": {"n": 2}}}.get(where, {})
    extra = {"n": 2} if where == "extra_body of the constructor" else None
    for stream in (
        langchain(lab, extra_body=extra).stream("Hello", **params),
        llama_index(lab, additional_kwargs=extra).stream_complete("Hello", **params),
    ):
        with pytest.raises(ConfigurationError, match=r"^n must be 1 for a stream: the parts of all answers"):
            list(stream)
    assert lab.requests == []
