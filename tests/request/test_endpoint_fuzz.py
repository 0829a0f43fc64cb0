"""Arbitrary settings produce either a safe request or an error without secrets."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.request.test_build_fuzz import QUESTION, TEXT, check_parameters
from tests.support.decode import FIXED
from tir_qwen import AsyncClient, Client, ConfigurationError
from tir_qwen._request.body import Body
from tir_qwen._request.build import build_request
from tir_qwen._request.endpoint import Endpoint, resolve_endpoint

CANARY = "c4n4ry"
ODD = st.sampled_from(
    [None, True, 0, -5, 10**400, 0.5, math.nan, b"x", b"https://h.invalid/v1", (), {1}, ...]
) | st.builds(object)
"""Values that are not strings."""
ANY = (
    TEXT
    | ODD
    | st.lists(TEXT, max_size=2)
    | st.dictionaries(TEXT | ODD.filter(lambda one: one != {1}), TEXT | ODD, max_size=2)
)
ADDRESS = st.builds("{}://{}{}".format, st.sampled_from(["http", "https", "HTTPS", "ftp"]), TEXT, TEXT)
HEADER = st.sampled_from(["X-A", "Authorization", "x-a\r\n", "é", "host", ""]) | TEXT
ENDS = ["\r\nX-Evil: 1", "\n", "\r", "\0", "\x0b", "\x7f", "\x85", "é", "\u2028", "\ud800"]
"""Characters that end a line or are not allowed in one."""


def secret(text: str) -> str:
    """Return a text that must not leak."""
    return CANARY + text


def check_request(endpoint: Endpoint, model: Any) -> None:
    """Check that the request is either safe or rejected."""
    try:
        request = build_request(endpoint, model, Body(messages=QUESTION), stream=True)
    except ConfigurationError as error:
        assert CANARY not in repr(error)  # noqa: PT017 - both outcomes are right
        return
    for text in (request.url, *request.headers, *request.headers.values()):
        assert text.isascii()
        assert text.isprintable()
    assert " " not in request.url
    assert json.loads(request.content)["model"] == model


def check(arguments: dict[str, Any], model: Any) -> None:
    """Check the result of settings whose secrets contain the canary."""
    try:
        endpoint = resolve_endpoint(**arguments)
    except ConfigurationError as error:
        assert CANARY not in repr(error)  # noqa: PT017 - both outcomes are right
        assert (error.__cause__, error.__context__) == (None, None)  # noqa: PT017
        return
    assert CANARY not in repr(endpoint)
    check_request(endpoint, model)


@settings(FIXED, max_examples=500)
@given(
    project_id=st.sampled_from([6530, "p-1"]) | TEXT.map(secret) | ANY,
    access_token=st.just("t") | TEXT.map(secret) | ANY,
    base_url=st.none() | ADDRESS | TEXT.map(secret) | ADDRESS.map(lambda text: f"{text}?k={CANARY}") | ANY,
    apikey=st.none() | TEXT.map(secret) | ANY,
    headers=st.none() | st.dictionaries(HEADER, TEXT | TEXT.map(secret) | ODD, max_size=2) | ANY,
    allow_http=st.booleans(),
    model=st.just("m") | ANY,
)
@example(project_id=10**400, access_token="t", base_url=None, apikey=None, headers=None, allow_http=False, model="m")
@example(project_id=1, access_token="t", base_url=5, apikey=None, headers=None, allow_http=False, model="m")
@example(project_id=1, access_token="t", base_url=None, apikey=None, headers="x", allow_http=False, model="m")
@example(project_id=1, access_token="t", base_url=None, apikey=None, headers=None, allow_http=False, model="\ud800")
def test_any_settings_give_a_safe_request_or_an_error_without_secrets(model: Any, **arguments: Any) -> None:
    """Any settings, of any type, produce either a safe request or an error without secrets."""
    check(arguments, model)


@pytest.mark.parametrize("end", ENDS, ids=ascii)
@pytest.mark.parametrize("middle", [True, False], ids=["within", "at the end"])
@pytest.mark.parametrize("name", ["access_token", "apikey", "project_id", "base_url", "headers", "header name"])
def test_a_second_line_is_refused(name: str, middle: bool, end: str) -> None:
    """A line break, NUL or non-ASCII character in a setting never reaches the request."""
    value = f"{CANARY}{end}{'x' if middle else ''}"
    given_as: dict[str, Any] = {
        "base_url": {"base_url": f"https://h.invalid/v1?k={value}"},
        "headers": {"headers": {"X-A": value}},
        "header name": {"headers": {f"X{end}A": "x"}},
    }.get(name, {name: value})
    arguments = {"project_id": 6530, "access_token": "t", **given_as}
    if end.isspace() and not middle and name in ("access_token", "apikey", "base_url"):
        check(arguments, "m")  # white space around a value, as a copied one has it, is taken away
        return
    with pytest.raises(ConfigurationError) as caught:
        resolve_endpoint(**arguments)
    assert CANARY not in repr(caught.value)


@pytest.mark.parametrize("end", ENDS, ids=ascii)
@pytest.mark.parametrize("complete", [True, False])
def test_a_second_line_in_the_model_is_quoted_or_refused(end: str, complete: bool) -> None:
    """A line break in the model is percent-encoded or rejected."""
    address = {"base_url": "https://h.invalid/v1"} if complete else {"project_id": 1}
    check_request(resolve_endpoint(access_token="t", **address), f"m{end}x")


@pytest.mark.parametrize("digits", [21, 400, 5000])
def test_very_large_integers_are_handled(digits: int) -> None:
    """An integer too large for Python to print is rejected as a project id and sent in full as a parameter."""
    with pytest.raises(ConfigurationError, match="project_id"):
        resolve_endpoint(project_id=10**digits, access_token="t")
    check_parameters({"seed": 10**digits})


@pytest.mark.parametrize("make", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("base_url", value) for value in (5, b"https://h.invalid/v1", ["x"], {})),
        *(("default_headers", value) for value in (5, "x", ["x"], [("X-A", "x")], {"X-A": None}, {None: "x"})),
        *(("project_id", value) for value in (10**400, -1, 1.0, b"1", [1])),
        *(("access_token", value) for value in (5, b"t", ["t"])),
        *(("apikey", value) for value in (5, b"k", ["k"])),
        *(("timeout", value) for value in ("5", math.nan, math.inf, 0, -1, [5], b"5", 10**400)),
        *(("max_retries", value) for value in ("5", 1.0, -1, [1], None, True)),
    ],
)
def test_an_invalid_client_setting_is_named(make: Any, name: str, value: Any) -> None:
    """An invalid setting raises an error that names it when the client is created."""
    with pytest.raises(ConfigurationError, match=name):
        make(**{"project_id": 1, "access_token": "t", name: value})
