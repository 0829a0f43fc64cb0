"""Requests of both integrations to real servers, and their handling of refusals."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.exceptions import ModelError

from tests.support.cassette_fixtures import Server
from tests.support.entry_points import CHATS, SYNC, Way
from tir_qwen import AuthenticationError, BadRequestError, ContextOverflowError, NotFoundError

HELLO = [("user", "Hello")]
GREETING = "Hello! How can I help you today?"
PARAMETERS = {
    "temperature": 0.7,
    "max_tokens": 200,
    "top_p": 0.8,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.2,
    "top_k": 20,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "seed": 7,
    "n": 1,
    "stop": ["###", "END"],
    "logprobs": True,
    "top_logprobs": 1,
}
WRONG = {
    "token": ({"access_token": "wrong-token"}, {}, AuthenticationError, 401),
    "model": ({}, {"extra_body": {"model": "nope"}}, NotFoundError, 404),
    "path": ({"model": "nope"}, {}, NotFoundError, 404),
    "length": ({}, {"max_tokens": 200_000}, ContextOverflowError, 400),
    "value": ({}, {"temperature": -1.0}, BadRequestError, 400),
}


@pytest.mark.parametrize("way", SYNC, ids=str)
@pytest.mark.parametrize("at_call", [False, True], ids=["constructor", "call"])
async def test_all_parameters(server: Server, way: Way, at_call: bool) -> None:
    """Every sampling parameter is accepted by constructor and call, and sent under its own name without any others."""
    parameters = {**PARAMETERS, "enable_thinking": False}
    constructed, given = ({}, parameters) if at_call else (parameters, {})
    answer = await way({**server.settings, **constructed}, HELLO, **given)

    assert answer.content == server.says(GREETING)
    streamed: dict[str, Any] = {"stream": way.cassette == "stream"}
    if streamed["stream"]:
        streamed["stream_options"] = {"include_usage": True}
    assert server.bodies == [
        {
            "model": "qwen3_32b",
            "messages": [{"role": "user", "content": "Hello"}],
            **PARAMETERS,
            "chat_template_kwargs": {"enable_thinking": False},
            **streamed,
        }
    ]


@pytest.mark.parametrize("way", CHATS, ids=str)
@pytest.mark.parametrize("wrong", WRONG)
async def test_a_refusal_raises_the_matching_error(server: Server, wrong: str, way: Way) -> None:
    """A refusal raises the matching error, in LangChain also as its own class, and is not retried."""
    settings, params, error, status = WRONG[wrong]

    with pytest.raises(error) as caught:
        await way({**server.settings, **settings}, HELLO, **params)

    assert (type(caught.value).__name__, caught.value.status_code) == (error.__name__, status)
    assert (caught.value.attempts, caught.value.is_retryable) == (1, False)
    assert isinstance(caught.value, ModelError) is (way.name in ("invoke", "ainvoke", "stream", "astream"))


@pytest.mark.parametrize("way", SYNC, ids=str)
async def test_no_think_in_a_prompt_gives_no_reasoning(server: Server, way: Way) -> None:
    """`/no_think` in a prompt gives an answer without reasoning and without the newlines of the empty think block."""
    answer = await way(server.settings, [("user", "Hello /no_think")])

    assert (answer.content, answer.reasoning) == (server.says(GREETING), "")
