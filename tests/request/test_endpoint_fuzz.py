"""Settings, parameters and refusals of any kind: a request without a second line, or an error without a secret."""

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
from tir_qwen._request.build import build_request
from tir_qwen._request.endpoint import Endpoint, resolve_endpoint

CANARY = "c4n4ry"
ODD = st.sampled_from(
    [None, True, 0, -5, 10**400, 0.5, math.nan, b"x", b"https://h.invalid/v1", (), {1}, ...]
) | st.builds(object)
"""No texts."""
ANY = (
    TEXT
    | ODD
    | st.lists(TEXT, max_size=2)
    | st.dictionaries(TEXT | ODD.filter(lambda one: one != {1}), TEXT | ODD, max_size=2)
)
ADDRESS = st.builds("{}://{}{}".format, st.sampled_from(["http", "https", "HTTPS", "ftp"]), TEXT, TEXT)
HEADER = st.sampled_from(["X-A", "Authorization", "x-a\r\n", "é", "host", ""]) | TEXT
ENDS = ["\r\nX-Evil: 1", "\n", "\r", "\0", "\x0b", "\x7f", "\x85", "é", "\u2028", "\ud800"]
"""What would end a line or does not belong into one."""


def secret(text: str) -> str:
    """A text that must not show."""
    return CANARY + text


def check_request(endpoint: Endpoint, model: Any) -> None:
    """Check that a request is written on one line each, or refused."""
    try:
        request = build_request(endpoint, model, QUESTION, {}, stream=True)
    except ConfigurationError as error:
        assert CANARY not in repr(error)  # noqa: PT017 - both outcomes are right
        return
    for text in (request.url, *request.headers, *request.headers.values()):
        assert text.isascii()
        assert text.isprintable()
    assert " " not in request.url
    assert json.loads(request.content)["model"] == model


def check(arguments: dict[str, Any], model: Any) -> None:
    """Check what comes of settings, which hold the canary wherever there is a secret."""
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
def test_settings_of_any_kind(model: Any, **arguments: Any) -> None:
    """Whatever is passed, even what is no text, makes a request of clean lines or an error that repeats no secret."""
    check(arguments, model)


@pytest.mark.parametrize("end", ENDS, ids=ascii)
@pytest.mark.parametrize("middle", [True, False], ids=["within", "at the end"])
@pytest.mark.parametrize("name", ["access_token", "apikey", "project_id", "base_url", "headers", "header name"])
def test_a_second_line_is_refused(name: str, middle: bool, end: str) -> None:
    """A line end, a NUL or a letter beyond ASCII in any setting never reaches the head of a request."""
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
def test_a_second_line_in_the_name_of_a_model(end: str, complete: bool) -> None:
    """The name of a model is quoted in the path, or refused."""
    address = {"base_url": "https://h.invalid/v1"} if complete else {"project_id": 1}
    check_request(resolve_endpoint(access_token="t", **address), f"m{end}x")


@pytest.mark.parametrize("digits", [21, 400, 5000])
def test_a_number_of_too_many_digits(digits: int) -> None:
    """A number beyond what Python itself writes down is refused like any other that is no project, or is sent whole."""
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
def test_a_client_of_a_wrong_setting(make: Any, name: str, value: Any) -> None:
    """A setting of a wrong kind is refused by its name as soon as the client is made."""
    with pytest.raises(ConfigurationError, match=name):
        make(**{"project_id": 1, "access_token": "t", name: value})
