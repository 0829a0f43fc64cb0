"""Requests with arbitrary parameters."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.calls import read_body
from tests.support.decode import FIXED
from tir_qwen import ConfigurationError
from tir_qwen._request.build import build_request
from tir_qwen._request.endpoint import resolve_endpoint
from tir_qwen._response.server_errors import MAX_TEXT

QUESTION = [{"role": "user", "content": "Hello"}]
TEXT = st.text(max_size=12) | st.text(st.sampled_from("p-0 \r\n\t\0:/?#[]@%é.htps\u0663\ud800\x7f"), max_size=12)


def check_parameters(params: dict[str, Any], messages: Any = QUESTION, streamed: bool = False) -> None:
    """Check that the call is either written as JSON or rejected."""
    try:
        request = build_request(ENDPOINT, "m", read_body(messages, params, stream=streamed), stream=streamed)
    except ConfigurationError as error:
        assert len(str(error)) < MAX_TEXT  # noqa: PT017 - both outcomes are right
        return
    body = json.loads(request.content, parse_constant=pytest.fail, parse_int=str)
    assert body["messages"]
    assert {"model", "stream"} <= body.keys()


def loop(value: Any) -> Any:
    """Return a list that contains itself."""
    value.append(value)
    return value


SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.binary(max_size=3)
    | st.sampled_from([10**400, 10**400, -(2**63), {1}, (1,), ..., object(), 1j, range(3)])
)


VALUE = st.recursive(
    SCALAR | st.builds(loop, st.builds(list)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers() | st.none(), inner, max_size=3),
    max_leaves=6,
)


PARAMS = st.dictionaries(
    st.sampled_from(
        [
            *("temperature", "max_tokens", "stop", "extra_body", "chat_template_kwargs", "enable_thinking", "seed"),
            *("response_format", "tools", "tool_choice", "logit_bias", "stream_options", "n", "whatever"),
        ]
    ),
    VALUE,
    max_size=4,
)


ENDPOINT = resolve_endpoint(project_id=6530, access_token="c4n4ry-token")


@settings(FIXED, max_examples=500)
@given(params=PARAMS, messages=st.just(QUESTION) | VALUE, streamed=st.booleans())
@example(
    params={"chat_template_kwargs": {}, "extra_body": {"chat_template_kwargs": "x"}, "enable_thinking": True},
    messages=QUESTION,
    streamed=True,
)
@example(params={"stop": {1}}, messages=QUESTION, streamed=True)
def test_any_parameters_are_written_as_json_or_rejected(params: dict[str, Any], messages: Any, streamed: bool) -> None:
    """Any parameters are either written as valid JSON or rejected."""
    check_parameters(params, messages, streamed)
