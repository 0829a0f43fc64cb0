"""The arguments of a call are read once: names and types are checked, and `extra_body` is merged, before it is sent."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.client.test_dialect import DESCRIBED, FORMAT, PARIS, TOOL, WITH_TOOLS, answer, ask, refusal
from tests.support.server import (
    MESSAGES,
    Driver,
    Loopback,
    Request,
    both_clients,
    echo,
    failure,
    whole_and_streamed,
)
from tir_qwen import Client, Completion, ConfigurationError
from tir_qwen._client import arguments, validation
from tir_qwen._client.parameters import CallParameters, IgnoredParameters, OptionParameters
from tir_qwen._client.validation import PARAMETER_CHECKS


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "temprature",
            "a call takes no argument 'temprature' (did you mean 'temperature'?). Further fields of the request body go"
            " through extra_body: extra_body={'temprature': ...}.",
        ),
        (
            "zzz",
            "a call takes no argument 'zzz'. Further fields of the request body go through extra_body:"
            " extra_body={'zzz': ...}.",
        ),
        ("functions", "a call takes no argument 'functions' (use tools)."),
        ("request_timeout", "a call takes no argument 'request_timeout' (use timeout)."),
        ("additional_kwargs", "a call takes no argument 'additional_kwargs' (use extra_body)."),
        ("system_prompt", "system_prompt is an argument of the constructor, not of a call."),
        ("streaming", "a call takes no streaming: whether to stream is decided by the method that is called."),
        ("api_key", "api_key is an argument of the constructor, not of a call."),
        ("extra_headers", "a call takes no extra_headers: pass default_headers to the constructor."),
        ("extra_query", "a call takes no extra_query: add it to base_url, as in https://host/v1?key=value."),
        ("stream", "a call takes no stream: whether to stream is decided by the method that is called."),
    ],
)
@whole_and_streamed
@both_clients
def test_an_unknown_argument_is_rejected_with_a_hint(driver: Driver, streamed: bool, name: str, words: str) -> None:
    """An unknown argument is rejected by name, with a hint, before anything is sent."""
    with Loopback(echo) as server:
        error = failure(driver, driver.make(base_url=server.base_url), streamed, **{name: None})
    assert (type(error), str(error), server.requests) == (ConfigurationError, words, [])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", "hot", "a finite number, not a string"),
        ("temperature", True, "a finite number"),
        ("temperature", float("nan"), "a finite number"),
        ("max_tokens", "5", "a whole number, not a string"),
        ("max_tokens", 5.5, "a whole number"),
        ("max_tokens", True, "a whole number"),
        ("n", "2", "a whole number, not a string"),
        ("logprobs", 1, "True or False"),
        ("enable_thinking", "false", "True or False, not a string"),
        ("stop", [1], "a string or a list of strings"),
        ("stop", 1, "a string or a list of strings"),
        ("stop_token_ids", ["a"], "a list of whole numbers"),
        ("tools", "x", "a list of dicts"),
        ("tools", ["x"], "a list of dicts"),
        ("tool_choice", 1, "a string or a dict"),
        ("tool_calling", "sometimes", "one of auto, native, prompted"),
        ("schema_in", ["request"], "one of request, messages, both"),
        ("response_format", "json", "a dict"),
        ("extra_body", [("seed", 1)], "a dict"),
        ("chat_template_kwargs", "x", "a dict"),
        ("logit_bias", [1], "a dict"),
        ("chat_template", 1, "a string"),
        ("bad_words", "x", "a list of strings"),
        ("model", 1, "a string"),
        ("on_retry", "print", "a function"),
        ("max_retries", 1.5, "a whole number"),
    ],
)
@whole_and_streamed
@both_clients
def test_a_wrong_type_is_rejected_by_name(driver: Driver, streamed: bool, name: str, value: Any, words: str) -> None:
    """A value of a wrong type is rejected by the name of its parameter, before anything is sent."""
    with Loopback(echo) as server:
        error = failure(driver, driver.make(base_url=server.base_url), streamed, **{name: value})
    assert (type(error), str(error), server.requests) == (ConfigurationError, f"{name} must be {words}.", [])


@pytest.mark.parametrize("name", ["temperature", "n", "tools", "response_format", "stop", "chat_template_kwargs"])
@both_clients
def test_a_wrong_type_in_extra_body_is_rejected_too(driver: Driver, name: str) -> None:
    """A parameter within `extra_body` is checked like one outside of it."""
    with Loopback(echo) as server:
        client = driver.make(base_url=server.base_url)
        errors = [failure(driver, client, False, **params) for params in ({name: 0j}, {"extra_body": {name: 0j}})]
    assert str(errors[0]) == str(errors[1]) == f"{name} must be {PARAMETER_CHECKS[name][1]}."
    assert server.requests == []


def test_each_replacement_is_a_parameter_of_a_call() -> None:
    """What an error says to use instead is accepted, and what it replaces is not."""
    assert CallParameters.__annotations__.keys() >= set(validation._REPLACEMENTS.values())
    assert CallParameters.__annotations__.keys().isdisjoint(validation._REPLACEMENTS)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("extra_body", "put its fields there directly"),
        ("extra_headers", "pass default_headers to the constructor"),
        ("extra_query", "add it to base_url, as in https://host/v1?key=value"),
    ],
)
def test_an_argument_of_the_openai_sdk_in_extra_body_is_rejected(name: str, advice: str) -> None:
    """OpenAILike takes these in `additional_kwargs`; in the body, the server would ignore them silently."""
    with pytest.raises(ConfigurationError) as caught:
        arguments.read_arguments(MESSAGES, {"extra_body": {name: {"top_k": 1}}}, stream=False)
    assert str(caught.value) == f"{name} is not a field of the request body: {advice}."


def test_an_enable_thinking_that_the_template_would_ignore_is_rejected() -> None:
    """Qwen's chat template compares `enable_thinking` with `false`, so that another value would have no effect."""
    with pytest.raises(ConfigurationError, match=r"^enable_thinking must be True or False, not a string\.$"):
        arguments.read_arguments(MESSAGES, {"chat_template_kwargs": {"enable_thinking": "no"}}, stream=False)


SAMPLES = {
    "True or False": True,
    "a dict": {"a": 1},
    "a finite number": 0.5,
    "a function": print,
    "a list": ["a"],
    "a list of dicts": [{"a": "b"}],
    "a list of strings": ["a"],
    "a list of whole numbers": [1],
    "a string": "a",
    "a string or a dict": "auto",
    "a string or a list of strings": ["a"],
    "a whole number": 1,
    "one of auto, native, prompted": "native",
    "one of left, right": "left",
    "one of request, messages, both": "request",
}
OPTIONS = OptionParameters.__annotations__.keys() | {"extra_body", "thinking_budget"}


@pytest.mark.parametrize("name", sorted(CallParameters.__annotations__.keys() - OPTIONS))
def test_each_known_field_is_sent_under_its_name(name: str) -> None:
    """Each field of vLLM's and OpenAI's requests is known by name, and is sent unchanged."""
    value = SAMPLES[PARAMETER_CHECKS[name][1]]
    _, body = arguments.read_arguments(MESSAGES, {name: value}, stream=True)  # type: ignore[typeddict-item]
    sent = {"chat_template_kwargs": {name: value}} if name == "enable_thinking" else {name: value}
    assert body.fields() == {"stream_options": {"include_usage": True}, **sent}


def test_a_parameter_without_effect_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenAI's own fields are sent; that they have no effect is logged once for each."""
    monkeypatch.setattr(arguments, "_reported_as_ignored", set())
    assert IgnoredParameters.__annotations__.keys() >= {"user", "store", "metadata", "reasoning_effort"}
    with caplog.at_level(logging.WARNING, "tir_qwen"):
        for _ in range(2):
            _, body = arguments.read_arguments(MESSAGES, {"user": "u-1", "store": None}, stream=False)
            arguments.read_arguments(MESSAGES, {"extra_body": {"store": True}}, stream=False)
    assert body.fields() == {"user": "u-1"}
    assert caplog.messages == ["user has no effect on Qwen3 and vLLM.", "store has no effect on Qwen3 and vLLM."]


@pytest.mark.parametrize("where", ["client", "call"])
def test_reasoning_effort_has_an_effect_on_other_models(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That `reasoning_effort` has no effect is only logged for Qwen3."""
    monkeypatch.setattr(arguments, "_reported_as_ignored", set())
    named = {where: "gpt_oss_120b"}
    with Loopback(echo) as server, caplog.at_level(logging.WARNING, "tir_qwen"):
        client = Client(base_url=server.base_url, model=named.get("client", "qwen3_32b"))
        client.complete(MESSAGES, model=named.get("call"), reasoning_effort="low")
        assert caplog.messages == []
        client.complete(MESSAGES, model="qwen3_32b", extra_body={"reasoning_effort": "low"})
    assert caplog.messages == ["reasoning_effort has no effect on Qwen3 and vLLM."]


def without_field(name: str, reply: str) -> Any:
    """Simulate a server that rejects a field."""

    def serve(request: Request) -> list[bytes]:
        body = request.json()
        return refusal(f"Unknown field: {name}") if name in body else answer(body, reply)

    return serve


@pytest.mark.parametrize(
    ("field", "value", "reply", "messages"),
    [
        ("response_format", FORMAT, PARIS, [DESCRIBED, *MESSAGES]),
        ("tools", [TOOL], "Hello.", WITH_TOOLS),
        (
            "chat_template_kwargs",
            {"enable_thinking": False},
            "Hello.",
            [{"role": "user", "content": f"{MESSAGES[0]['content']} /no_think"}],
        ),
    ],
)
@whole_and_streamed
@both_clients
def test_fields_of_extra_body_take_the_same_fallbacks(
    driver: Driver, streamed: bool, field: str, value: Any, reply: str, messages: Any
) -> None:
    """A field that the server rejects is written into the messages, in `extra_body` as in a parameter."""

    def asked(**params: Any) -> tuple[Completion, list[Any]]:
        with Loopback(without_field(field, reply)) as server:
            found = ask(driver, driver.make(base_url=server.base_url), streamed, **params)
            return found, [request.json() for request in server.requests]

    found, requests = asked(extra_body={field: value})
    assert (found, requests) == asked(**{field: value})
    assert (found.content, requests[-1]["messages"], len(requests)) == (reply, messages, 2)


@both_clients
def test_extra_body_is_corrected_to_the_object_like_a_parameter(driver: Driver) -> None:
    """A `response_format` in `extra_body` leads to the object even if the first answer is not one."""
    replies = iter(["Paris.", PARIS])
    with Loopback(lambda request: answer(request.json(), next(replies))) as server:
        client = driver.make(base_url=server.base_url)
        found = driver.complete(client, extra_body={"response_format": FORMAT, "tools": [TOOL]})
    assert (found.content, len(server.requests)) == (PARIS, 2)


@both_clients
def test_extra_body_wins_and_is_merged(driver: Driver) -> None:
    """Fields of `extra_body` win over parameters; template arguments of both are merged; None takes a field away."""
    with Loopback(echo) as server:
        driver.complete(
            driver.make(base_url=server.base_url),
            seed=1,
            stop="a",
            temperature=0.5,
            enable_thinking=True,
            chat_template_kwargs={"a": 1, "b": 1},
            tools=[TOOL],
            extra_body={
                "seed": 2,
                "stop": ["b"],
                "temperature": None,
                "chat_template_kwargs": {"b": 2},
                "enable_thinking": False,
                "tools": None,
                "new": {"x": 1},
            },
        )
        (request,) = server.requests
    assert request.json() == {
        "model": "qwen3_32b",
        "messages": MESSAGES,
        "stream": False,
        "seed": 2,
        "stop": ["b"],
        "temperature": None,
        "chat_template_kwargs": {"enable_thinking": False, "a": 1, "b": 2},
        "new": {"x": 1},
    }
