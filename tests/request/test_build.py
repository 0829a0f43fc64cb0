"""The HTTP request of a call: the body contains what the caller set, and nothing else."""

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

from tests.support.calls import read_body
from tir_qwen import ConfigurationError
from tir_qwen._request.body import Body
from tir_qwen._request.build import Request, build_request
from tir_qwen._request.endpoint import resolve_endpoint

TIR = resolve_endpoint(project_id=6530, access_token="canary-token", apikey="key-0815")
LOCAL = resolve_endpoint(base_url="http://localhost:8000/v1")
CANARY = "Where is the canary?"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": CANARY}]


def build(*, stream: bool = False, model: str = "qwen3_32b", messages: Any = MESSAGES, **params: Any) -> Request:
    """Build a request to TIR."""
    body = read_body(messages, {"stream_options": None, **params}, stream=stream)
    return build_request(TIR, model, body, stream=stream)


def sent(*, stream: bool = False, **params: Any) -> Any:
    """Parse the body strictly, and drop the fields that every body has."""
    body = json.loads(build(stream=stream, **params).content, parse_constant=pytest.fail)
    assert (body.pop("model"), body.pop("messages"), body.pop("stream")) == ("qwen3_32b", MESSAGES, stream)
    return body


def refusal(model: str = "qwen3_32b", messages: Any = MESSAGES, **params: Any) -> str:
    """Return the message of the error that these arguments raise."""
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
def test_a_call_without_parameters_sends_only_the_messages(stream: bool) -> None:
    """Without parameters, only the model, the messages and `stream` are sent."""
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


def test_a_local_server_gets_no_credentials() -> None:
    """A local vLLM server gets its own path and no credentials."""
    request = build_request(LOCAL, "/mnt/models", Body(messages=MESSAGES), stream=False)
    assert request.url == "http://localhost:8000/v1/chat/completions"
    assert request.headers == {"accept": "application/json", "content-type": "application/json"}
    assert json.loads(request.content) == {"model": "/mnt/models", "messages": MESSAGES, "stream": False}


def test_headers_of_the_user_replace_the_defaults() -> None:
    """Headers set by the user replace the defaults and are sent once."""
    endpoint = resolve_endpoint(
        base_url="http://localhost:8000/v1",
        access_token="canary-token",
        headers={"ACCEPT": "*/*", "Accept-Encoding": "gzip", "X-Team": "a b"},
    )
    assert build_request(endpoint, "m", Body(messages=MESSAGES), stream=True).headers == {
        "accept": "*/*",
        "content-type": "application/json",
        "accept-encoding": "gzip",
        "authorization": "Bearer canary-token",
        "x-team": "a b",
    }


def test_the_repr_contains_no_secrets() -> None:
    """The repr contains neither credentials nor messages."""
    assert not [secret for secret in ("canary", "6530", "0815") if secret in repr(build())]


def test_parameters_are_sent_under_their_own_names() -> None:
    """Parameters are sent unchanged, and so are the unknown fields of `extra_body`."""
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
    }
    tomorrow = {"a_field_of_tomorrow": [None, True, 1.5, "x", {}]}
    assert sent(**params, extra_body=tomorrow) == {**params, **tomorrow}


@pytest.mark.parametrize("name", ["temperature", "max_tokens", "stop", "enable_thinking", "extra_body", "tools"])
def test_none_is_unset(name: str) -> None:
    """None leaves a parameter unset; zero and False are sent."""
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
    """`stop` accepts a string or any sequence, and an empty one is not sent."""
    assert sent(stop=stop) == body


@pytest.mark.parametrize("thinking", [True, False])
def test_enable_thinking_goes_where_vllm_reads_it(thinking: bool) -> None:
    """`enable_thinking` goes into `chat_template_kwargs`, because vLLM ignores it at the top level."""
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
def test_enable_thinking_is_merged_with_template_arguments(theirs: Any, merged: dict[str, Any]) -> None:
    """The user's own template arguments are kept and take precedence."""
    assert sent(enable_thinking=False, chat_template_kwargs=theirs) == {"chat_template_kwargs": merged}


def test_template_arguments_need_no_enable_thinking() -> None:
    """Template arguments are sent without `enable_thinking` too."""
    assert sent(chat_template_kwargs={"custom": 1}) == {"chat_template_kwargs": {"custom": 1}}


@pytest.mark.parametrize("options", [{"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}])
def test_stream_options_are_sent_only_with_a_stream(options: dict[str, Any]) -> None:
    """`stream_options` is sent only with a stream, because vLLM rejects it otherwise."""
    assert sent(stream=True, stream_options=options) == {"stream_options": options}
    assert sent(stream=False, stream_options=options) == {}


@pytest.mark.parametrize("messages", [[], ()])
def test_empty_messages_are_refused(messages: Any) -> None:
    """Empty messages raise an error."""
    assert refusal(messages=messages) == "messages is empty: there is nothing to answer."


@pytest.mark.parametrize("model", ["", "  ", None, 3])
def test_an_empty_model_is_refused(model: Any) -> None:
    """A missing or invalid model raises an error."""
    assert refusal(model=model) == "model must be the name of a model, such as qwen3_32b."


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(number: float) -> None:
    """NaN and infinity raise an error that names the parameter."""
    assert refusal(temperature=number) == "temperature must be a finite number."


@pytest.mark.parametrize(
    "value",
    [object(), lambda: None, "canary \ud800", b"canary \xff", {"canary": "\udfff"}, {"\ud800": 1}, {(1, object()): 1}],
    ids=["object", "function", "surrogate", "bytes", "value", "key", "tuple"],
)
@pytest.mark.parametrize("where", ["parameter", "nested", "message"])
def test_values_that_are_not_json_are_refused(where: str, value: Any) -> None:
    """A value that JSON cannot represent raises an error that does not quote it."""
    if where == "message":
        assert refusal(messages=[{"role": "user", "content": "Hi", "name": value}]) == UNWRITABLE
    else:
        assert refusal(extra_body={"x": value if where == "parameter" else [{"x": value}]}) == UNWRITABLE


def test_a_value_that_contains_itself_is_refused() -> None:
    """A value that contains itself raises an error."""
    endless: list[Any] = []
    endless.append(endless)
    assert refusal(extra_body={"x": endless}) == UNWRITABLE


def test_arguments_are_not_modified() -> None:
    """A call does not modify its arguments."""
    params = {
        "stop": ["a"],
        "enable_thinking": True,
        "chat_template_kwargs": {"custom": 1},
        "extra_body": {"seed": 1},
        "stream_options": {"include_usage": True},
    }
    messages, before = copy.deepcopy(MESSAGES), copy.deepcopy(params)
    build_request(TIR, "qwen3_32b", read_body(messages, params), stream=False)
    assert messages == MESSAGES
    assert params == before


def test_pydantic_models_are_accepted_as_values() -> None:
    """A pydantic model can be used in place of a dict."""

    class Tool(BaseModel):
        name: str = "f"

    assert sent(extra_body={"x": [Tool()]}) == {"x": [{"name": "f"}]}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_is_sent_unchanged(text: str) -> None:
    """Any text is sent unchanged, on a single line."""
    content = build(messages=[{"role": "user", "content": text}], user=text).content
    assert json.loads(content) == {
        "model": "qwen3_32b",
        "messages": [{"role": "user", "content": text}],
        "stream": False,
        "user": text,
    }
    assert b"\n" not in content


@pytest.mark.parametrize("extra", [{"seed": 2, "tomorrow": {"x": 1}}, {"chat_template_kwargs": {"mine": 1}}])
def test_extra_body_overrides_other_parameters(extra: dict[str, Any]) -> None:
    """Fields of `extra_body` override other parameters."""
    assert sent(seed=1, extra_body=extra) == {"seed": 1, **extra}
    assert sent(seed=1, extra_body={}) == {"seed": 1}
    assert json.loads(build(extra_body={"model": "other", "messages": []}).content) == {
        "model": "other",
        "messages": [],
        "stream": False,
    }


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["logit_bias", "chat_template_kwargs", "extra_body", "messages"])
def test_nested_nan_and_infinity_are_refused(name: str, number: float) -> None:
    """NaN and infinity raise an error at any depth."""
    refusal(**{name: [{"x": number}] if name == "messages" else {"x": number}})


def test_a_model_with_lone_surrogates_is_refused() -> None:
    """A model name with lone surrogates raises an error."""
    refusal(model="canary\ud800")


@pytest.mark.parametrize(
    "params", [{"extra_body": "canary"}, {"stop": 5}, {"enable_thinking": True, "chat_template_kwargs": "canary"}]
)
def test_parameters_of_a_wrong_type_are_refused(params: dict[str, Any]) -> None:
    """A parameter that cannot be merged raises a ConfigurationError that names it."""
    said = refusal(**params)
    assert [name for name in params if name in said]
