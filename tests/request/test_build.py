"""The call as an HTTP request: the body holds what the caller set, and nothing else."""

from __future__ import annotations

import copy
import json
import math
from collections import UserList
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tir_qwen import ConfigurationError
from tir_qwen._request.build import Request, build_request
from tir_qwen._request.endpoint import resolve_endpoint

TIR = resolve_endpoint(project_id=6530, access_token="canary-token", apikey="key-0815")
LOCAL = resolve_endpoint(base_url="http://localhost:8000/v1")
CANARY = "Where is the canary?"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": CANARY}]


def build(*, stream: bool = False, model: str = "qwen3_32b", messages: Any = MESSAGES, **params: Any) -> Request:
    """A request to TIR."""
    return build_request(TIR, model, messages, params, stream=stream)


def sent(*, stream: bool = False, **params: Any) -> Any:
    """The body of a request as a strict reader of JSON sees it, without what every body holds."""
    body = json.loads(build(stream=stream, **params).content, parse_constant=pytest.fail)
    assert (body.pop("model"), body.pop("messages"), body.pop("stream")) == ("qwen3_32b", MESSAGES, stream)
    return body


def refusal(model: str = "qwen3_32b", messages: Any = MESSAGES, **params: Any) -> str:
    """Why this call is refused."""
    with pytest.raises(ConfigurationError) as caught:
        build(model=model, messages=messages, **params)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "canary" not in str(caught.value)
    return str(caught.value)


UNWRITABLE = (
    "the request cannot be written as JSON: it contains something other than text, numbers, lists and dicts, or"
    " text with lone surrogates."
)


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_but_the_question(stream: bool) -> None:
    """A call without parameters sends the model, the messages and `stream`: the server's defaults hold."""
    assert build(stream=stream) == Request(
        url="https://infer.e2enetworks.net/project/p-6530/genai/qwen3_32b/v1/chat/completions"
        "?project_id=6530&apikey=key-0815",
        headers={
            "accept": "text/event-stream" if stream else "application/json",
            "content-type": "application/json",
            **({"accept-encoding": "identity"} if stream else {}),
            "authorization": "Bearer canary-token",
        },
        content=(
            b'{"model":"qwen3_32b","messages":[{"role":"system","content":"Be brief."},'
            b'{"role":"user","content":"Where is the canary?"}],"stream":' + (b"true}" if stream else b"false}")
        ),
    )


def test_local_server() -> None:
    """A local vLLM gets no credentials, and its own path."""
    request = build_request(LOCAL, "/mnt/models", MESSAGES, {}, stream=False)
    assert request.url == "http://localhost:8000/v1/chat/completions"
    assert request.headers == {"accept": "application/json", "content-type": "application/json"}
    assert json.loads(request.content) == {"model": "/mnt/models", "messages": MESSAGES, "stream": False}


def test_users_headers_win() -> None:
    """Whatever header the user sets replaces ours, and is there once."""
    endpoint = resolve_endpoint(
        base_url="http://localhost:8000/v1",
        access_token="canary-token",
        headers={"ACCEPT": "*/*", "Accept-Encoding": "gzip", "X-Team": "a b"},
    )
    assert build_request(endpoint, "m", MESSAGES, {}, stream=True).headers == {
        "accept": "*/*",
        "content-type": "application/json",
        "accept-encoding": "gzip",
        "authorization": "Bearer canary-token",
        "x-team": "a b",
    }


def test_repr_shows_nothing() -> None:
    """A request that a debugger or a log prints shows neither credentials nor messages."""
    assert not [secret for secret in ("canary", "6530", "0815") if secret in repr(build())]


def test_every_parameter_goes_by_its_own_name() -> None:
    """Parameters go to the server as they are, those that this library has never heard of too."""
    params = {
        "temperature": 0,
        "max_tokens": 1500,
        "top_p": 0.95,
        "frequency_penalty": -0.5,
        "seed": 2**63 - 1,
        "logprobs": False,
        "logit_bias": {"151645": -100},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "auto",
        "a_field_of_tomorrow": [None, True, 1.5, "x", {}],
    }
    assert sent(**params) == params


@pytest.mark.parametrize("name", ["temperature", "max_tokens", "stop", "enable_thinking", "extra_body", "tools"])
def test_none_is_unset(name: str) -> None:
    """None means that the caller leaves it to the server; zero and False mean themselves."""
    assert sent(**{name: None}) == {}
    assert sent(max_tokens=0, logprobs=False, top_p=0.0) == {"max_tokens": 0, "logprobs": False, "top_p": 0.0}


@pytest.mark.parametrize(
    ("stop", "body"),
    [
        (None, {}),
        ([], {}),
        ((), {}),
        ("", {}),
        ("END", {"stop": ["END"]}),
        (["a", "b"], {"stop": ["a", "b"]}),
        (("a", "\n"), {"stop": ["a", "\n"]}),
        (UserList(["a"]), {"stop": ["a"]}),
    ],
)
def test_stop_strings_become_a_list(stop: Any, body: dict[str, Any]) -> None:
    """Stop strings may be one or several, in any sequence; none of them is none."""
    assert sent(stop=stop) == body


@pytest.mark.parametrize("thinking", [True, False])
def test_enable_thinking_goes_where_vllm_reads_it(thinking: bool) -> None:
    """The thinking switch is an argument of the chat template: on the top level vLLM ignores it."""
    assert sent(enable_thinking=thinking) == {"chat_template_kwargs": {"enable_thinking": thinking}}


@pytest.mark.parametrize(
    ("theirs", "merged"),
    [
        ({}, {"enable_thinking": False}),
        (None, {"enable_thinking": False}),
        ({"custom": 1}, {"enable_thinking": False, "custom": 1}),
        ({"enable_thinking": True}, {"enable_thinking": True}),
    ],
)
def test_enable_thinking_beside_other_template_arguments(theirs: Any, merged: dict[str, Any]) -> None:
    """The user's own template arguments stay, and win."""
    assert sent(enable_thinking=False, chat_template_kwargs=theirs) == {"chat_template_kwargs": merged}


def test_template_arguments_alone() -> None:
    """Template arguments need no thinking switch beside them."""
    assert sent(chat_template_kwargs={"custom": 1}) == {"chat_template_kwargs": {"custom": 1}}


@pytest.mark.parametrize("options", [{"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}])
def test_stream_options_only_with_a_stream(options: dict[str, Any]) -> None:
    """Options of streams, which vLLM refuses on a whole answer, are left out there."""
    assert sent(stream=True, stream_options=options) == {"stream_options": options}
    assert sent(stream=False, stream_options=options) == {}


@pytest.mark.parametrize("messages", [[], ()])
def test_empty_messages_are_refused(messages: Any) -> None:
    """There must be something to answer."""
    assert refusal(messages=messages) == "messages is empty: there is nothing to answer."


@pytest.mark.parametrize("model", ["", "  ", None, 3])
def test_an_empty_model_is_refused(model: Any) -> None:
    """There must be someone to answer."""
    assert refusal(model=model) == "model must be the name of a model, such as qwen3_32b."


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_know(number: float) -> None:
    """NaN and infinity, which JSON cannot say, are refused by the parameter's name."""
    assert refusal(temperature=number) == "temperature must be a finite number."


@pytest.mark.parametrize(
    "value",
    [object(), lambda: None, "canary \ud800", b"canary \xff", {"canary": "\udfff"}, {"\ud800": 1}, {(1, object()): 1}],
    ids=["object", "function", "surrogate", "bytes", "value", "key", "tuple"],
)
@pytest.mark.parametrize("where", ["parameter", "nested", "message"])
def test_values_that_json_cannot_hold(where: str, value: Any) -> None:
    """What cannot be written is refused before anything is sent, and without being quoted."""
    if where == "message":
        assert refusal(messages=[{"role": "user", "content": value}]) == UNWRITABLE
    else:
        assert refusal(user=value if where == "parameter" else [{"x": value}]) == UNWRITABLE


def test_endless_values() -> None:
    """A value that holds itself is refused like any other that cannot be written."""
    endless: list[Any] = []
    endless.append(endless)
    assert refusal(tools=endless) == UNWRITABLE


def test_arguments_stay_as_they_are() -> None:
    """A call changes nothing of what it was given: the same arguments may be used again."""
    params = {
        "stop": ["a"],
        "enable_thinking": True,
        "chat_template_kwargs": {"custom": 1},
        "extra_body": {"seed": 1},
        "stream_options": {"include_usage": True},
    }
    messages, before = copy.deepcopy(MESSAGES), copy.deepcopy(params)
    build_request(TIR, "qwen3_32b", messages, params, stream=False)
    assert messages == MESSAGES
    assert params == before


def test_pydantic_models_as_values() -> None:
    """A pydantic model may stand wherever an object may."""

    class Tool(BaseModel):
        name: str = "f"

    assert sent(tools=[Tool()]) == {"tools": [{"name": "f"}]}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_arrives_as_it_was_written(text: str) -> None:
    """Every character of every script arrives, those included that lines are split at."""
    content = build(messages=[{"role": "user", "content": text}], user=text).content
    assert json.loads(content) == {
        "model": "qwen3_32b",
        "messages": [{"role": "user", "content": text}],
        "stream": False,
        "user": text,
    }
    assert b"\n" not in content


@pytest.mark.parametrize("extra", [{"seed": 2, "tomorrow": {"x": 1}}, {"chat_template_kwargs": {"mine": 1}}])
def test_extra_body_over_all(extra: dict[str, Any]) -> None:
    """Fields of `extra_body` replace those of the same name, and stand in the body on their own."""
    assert sent(seed=1, extra_body=extra) == {"seed": 1, **extra}
    assert sent(seed=1, extra_body={}) == {"seed": 1}
    assert json.loads(build(extra_body={"model": "other", "messages": []}).content) == {
        "model": "other",
        "messages": [],
        "stream": False,
    }


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["logit_bias", "chat_template_kwargs", "extra_body", "messages"])
def test_nested_numbers_that_json_does_not_know(name: str, number: float) -> None:
    """NaN and infinity are refused wherever they stand."""
    refusal(**{name: [{"x": number}] if name == "messages" else {"x": number}})


def test_model_that_cannot_be_written() -> None:
    """A model name with lone surrogates is refused like any other text with them."""
    refusal(model="canary\ud800")


@pytest.mark.parametrize(
    "params", [{"extra_body": "canary"}, {"stop": 5}, {"enable_thinking": True, "chat_template_kwargs": "canary"}]
)
def test_parameters_of_a_wrong_type(params: dict[str, Any]) -> None:
    """A parameter that cannot be merged is refused as a ConfigurationError that names it."""
    said = refusal(**params)
    assert [name for name in params if name in said]
