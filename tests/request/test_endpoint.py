"""Credentials and headers: what is accepted, what is refused, and that nothing of it shows."""

from __future__ import annotations

import copy
import os
import pickle
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tir_qwen import ConfigurationError
from tir_qwen._request.endpoint import Endpoint, resolve_endpoint

TOKEN = "eyJhbGciOi.canary-token_4711.c2lnbmF0dXJl"
LOCAL = "http://localhost:8000/v1"


def refusal(**settings: Any) -> str:
    """Why these settings are refused."""
    with pytest.raises(ConfigurationError) as caught:
        resolve_endpoint(**settings)
    error = caught.value
    assert isinstance(error, ValueError)
    assert error.args == (str(error),)
    assert not error.is_retryable
    assert error.attempts == 0
    return str(error)


def one_line(text: str) -> bool:
    """Whether a text is fit for one line of a request's head."""
    return text.isascii() and text.isprintable()


@pytest.mark.parametrize("given_as", [6530, "6530", "p-6530", " p-6530 ", "\t6530\n"])
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_project_id_in_every_form(monkeypatch: pytest.MonkeyPatch, given_as: str | int, source: str) -> None:
    """A project id may be written as TIR's dashboard, its URLs or its API write it."""
    if source == "environment":
        monkeypatch.setenv("E2E_TIR_PROJECT_ID", str(given_as))
    endpoint = resolve_endpoint(project_id=given_as if source == "argument" else None, access_token=TOKEN)
    assert endpoint.project_id == "6530"
    assert endpoint.query == "project_id=6530"


@pytest.mark.parametrize(
    "wrong",
    [
        True,
        6530.0,
        -6530,
        b"6530",
        ["6530"],
        "p-",
        "12a",
        "pp-6530",
        "p-p-6530",
        "\u0666\u0665\u0663\u0660",
        "\uff16\uff15\uff13\uff10",
        "65 30",
        "6530/..",
        "1" * 21,
    ],
)
def test_malformed_project_id(wrong: Any) -> None:
    """A project id that is none is refused, by its name and not by its value."""
    said = refusal(project_id=wrong, access_token=TOKEN)
    kinds = (True, 6530.0, b"6530", ["6530"])
    problem = f"a string, not {type(wrong).__name__}" if wrong in kinds else "digits, such as 6530 or p-6530"
    assert said == f"project_id (or E2E_TIR_PROJECT_ID) must be {problem}."


@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_missing_project_id(nothing: str | None) -> None:
    """Without a project id the user is told how to give one."""
    assert refusal(project_id=nothing, access_token=TOKEN) == (
        "project_id is missing: pass project_id=... or set the environment variable E2E_TIR_PROJECT_ID to the project"
        " id, such as 6530 (TIR's dashboard shows it)."
    )


@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_missing_token(nothing: str | None) -> None:
    """Without a token the user is told how to give one."""
    assert refusal(project_id=6530, access_token=nothing) == (
        "access_token is missing: pass access_token=... or set the environment variable E2E_TIR_ACCESS_TOKEN to the"
        " Auth Token of an access token (TIR's dashboard shows it)."
    )


def test_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is passed counts, whatever the environment says."""
    monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", "another-token")
    monkeypatch.setenv("E2E_TIR_PROJECT_ID", "1")
    monkeypatch.setenv("E2E_TIR_API_KEY", "another-key")
    endpoint = resolve_endpoint(project_id=6530, access_token=TOKEN, apikey="key-0815")
    assert endpoint.headers == {"authorization": f"Bearer {TOKEN}"}
    assert endpoint.query == "project_id=6530&apikey=key-0815"


def test_environment_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """All credentials may come from the environment, with the white space that files leave around them."""
    monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", f" {TOKEN}\n")
    monkeypatch.setenv("E2E_TIR_PROJECT_ID", "p-6530\n")
    monkeypatch.setenv("E2E_TIR_API_KEY", "\tkey-0815 ")
    endpoint = resolve_endpoint()
    assert endpoint == Endpoint(
        base_url="https://infer.e2enetworks.net",
        query="project_id=6530&apikey=key-0815",
        project_id="6530",
        headers={"authorization": f"Bearer {TOKEN}"},
        secrets=endpoint.secrets,
    )
    assert {TOKEN, "key-0815", "p-6530", "6530"} <= set(endpoint.secrets)


@pytest.mark.parametrize("source", ["argument", "environment"])
@pytest.mark.parametrize(
    ("name", "variable"), [("access_token", "E2E_TIR_ACCESS_TOKEN"), ("apikey", "E2E_TIR_API_KEY")]
)
@pytest.mark.parametrize("inside", ["\n", "\r\nx-evil: 1", " ", "\x7f", "é", "\u2028"], ids=ascii)
def test_malformed_credential(
    monkeypatch: pytest.MonkeyPatch, source: str, name: str, variable: str, inside: str
) -> None:
    """A credential that would break a header or a query is refused before anything is sent, without being shown."""
    settings: dict[str, Any] = {"project_id": 6530, "access_token": TOKEN}
    bad = f"canary{inside}canary"
    if source == "environment":
        settings.pop(name, None)
        monkeypatch.setenv(variable, bad)
    else:
        settings[name] = bad
    assert refusal(**settings) == f"{name} (or {variable}) must be printable ASCII without spaces or line breaks."


@pytest.mark.parametrize("wrong", [TOKEN.encode(), 4711, True, [TOKEN]])
@pytest.mark.parametrize("name", ["access_token", "apikey"])
def test_credential_of_another_type(name: str, wrong: Any) -> None:
    """A credential that is not a string is refused by its type, not by its value."""
    said = refusal(**{"project_id": 6530, "access_token": TOKEN, name: wrong})
    assert said.startswith(f"{name} (or E2E_TIR_")
    assert said.endswith(f" must be a string, not {type(wrong).__name__}.")


def test_no_token_is_needed_on_this_machine() -> None:
    """A local vLLM needs neither a token nor a project id; another machine's needs the token."""
    endpoint = resolve_endpoint(base_url=LOCAL)
    assert endpoint == Endpoint(base_url=LOCAL)
    assert "access_token is missing" in refusal(base_url="https://vllm.example.com/v1")
    assert "access_token is missing" in refusal(base_url="http://localhost:8000", project_id=6530)


def test_apikey_is_quoted() -> None:
    """A key keeps its meaning within a query."""
    query = resolve_endpoint(project_id=6530, access_token=TOKEN, apikey="a+b/c=&d").query
    assert query == "project_id=6530&apikey=a%2Bb%2Fc%3D%26d"


def test_apikey_is_sent_only_where_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the management API goes from the environment to TIR's host alone, elsewhere only if it is passed."""
    monkeypatch.setenv("E2E_TIR_API_KEY", "key-0815")
    assert resolve_endpoint(base_url=LOCAL).query == ""
    assert resolve_endpoint(base_url=LOCAL, apikey="key-4711").query == "apikey=key-4711"


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ({"headers": {"X-Team": "header-4711"}}, {TOKEN, "6530", "p-6530", "header-4711"}),
        ({"project_id": 17, "apikey": "abc"}, {TOKEN, "p-17"}),
        ({"base_url": "https://e.example.com/project/p-6531/endpoint/is-17/v1"}, {TOKEN, "p-6531", "6531"}),
        ({"base_url": "https://e.example.com/v1"}, {TOKEN}),
    ],
)
def test_what_counts_as_a_secret(settings: dict[str, Any], known: set[str]) -> None:
    """What a server must not repeat is all that identifies the caller; a word of three letters is too common for it."""
    endpoint = resolve_endpoint(**{"project_id": 6530, "access_token": TOKEN, **settings})
    assert set(endpoint.secrets) == known


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
def test_users_header_wins(name: str) -> None:
    """A header of the user's replaces ours, however it is capitalized: it is never sent twice."""
    endpoint = resolve_endpoint(project_id=6530, access_token=TOKEN, headers={name: "Basic abc", "X-Team": ""})
    assert endpoint.headers == {"authorization": "Basic abc", "x-team": ""}


@pytest.mark.parametrize("name", ["", "x y", "x:", "x\r\ny", "é", "x\0", "(x)", 7, None, b"x"], ids=ascii)
def test_malformed_header_name(name: Any) -> None:
    """A header name that HTTP does not know is refused."""
    said = refusal(project_id=6530, access_token=TOKEN, headers={name: "canary-value"})
    assert said == "default_headers must have header names of letters, digits and hyphens."


@pytest.mark.parametrize("value", ["canary\r\nx-evil: 1", "canary\n", "canary\0", "canaryé", b"canary", 4711, None])
def test_malformed_header_value(value: Any) -> None:
    """A header value that would inject another header is refused, and not shown: it counts as a secret."""
    said = refusal(project_id=6530, access_token=TOKEN, headers={"X-Team": value})
    assert said == "default_headers must have a value of printable ASCII for 'X-Team'."


@pytest.mark.parametrize("name", ["Connection", "content-length", "HOST", "Transfer-Encoding"])
def test_headers_that_are_not_the_users(name: str) -> None:
    """A header that says where and how a request travels would contradict the request, and is refused."""
    said = refusal(project_id=6530, access_token=TOKEN, headers={name: "canary"})
    assert said == f"default_headers must leave {name!r} to the HTTP engine."


def test_white_space_around_header_values() -> None:
    """White space around a header's value is no part of it."""
    endpoint = resolve_endpoint(project_id=6530, access_token=TOKEN, headers={"X-Team": "  a b "})
    assert endpoint.headers["x-team"] == "a b"


def test_repr_and_copies() -> None:
    """An endpoint shows no credential, and keeps them through a copy and a pickle."""
    endpoint = resolve_endpoint(
        project_id=6530, access_token=TOKEN, apikey="key-0815", headers={"X-Team": "canary-header"}
    )
    complete = resolve_endpoint(
        base_url="https://e.example.com:8443/project/p-6530/endpoint/is-17/v1?key=key-0815", access_token=TOKEN
    )
    assert repr(endpoint) == str(endpoint)
    assert repr(endpoint) == "<Endpoint https://infer.e2enetworks.net/project/p-***/genai/.../v1/chat/completions>"
    assert repr(complete) == str(complete)
    assert repr(complete) == ("<Endpoint https://e.example.com:8443/project/p-***/endpoint/is-17/v1/chat/completions>")
    for one in (endpoint, complete):
        assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one


hostile = st.text(max_size=30) | st.text(st.sampled_from("p-0 \r\n\t\0:/?#[]@%é.htps\u0663\ud800"), max_size=30)
addresses = hostile | st.builds("{}://{}{}".format, st.sampled_from(["http", "https", "ftp"]), hostile, hostile)


@given(
    project_id=st.none() | st.integers() | hostile,
    access_token=st.none() | hostile,
    base_url=st.none() | addresses,
    apikey=st.none() | hostile,
    headers=st.none() | st.dictionaries(hostile, hostile, max_size=2),
    environment=st.dictionaries(
        st.sampled_from(
            [
                "E2E_TIR_ACCESS_TOKEN",
                "E2E_TIR_API_KEY",
                "E2E_TIR_BASE_URL",
                "E2E_TIR_PROJECT_ID",
                "MODEL_API_CLIENT_HOST",
            ]
        ),
        (addresses | hostile).filter(lambda text: "\0" not in text and text.isascii()),
    ),
    model=st.text(max_size=30).filter(lambda model: model.strip(".")),
)
@example(
    project_id=None,
    access_token="t",
    base_url="https://h\t.e/\r\nx",
    apikey=None,
    headers=None,
    environment={},
    model="m",
)
def test_any_setting_is_accepted_or_refused(environment: dict[str, str], model: str, **arguments: Any) -> None:
    """Whatever is passed gives an endpoint or a ConfigurationError, and never a second line in a request's head."""
    with patch.dict(os.environ, environment):
        try:
            endpoint = resolve_endpoint(**arguments)
        except ConfigurationError as error:
            endpoint, said = None, str(error)
        else:
            said = repr(endpoint)
    assert one_line(said)
    if endpoint is not None:
        assert one_line(endpoint.url(model))
        assert " " not in endpoint.url(model)
        assert all(one_line(name) and one_line(value) for name, value in endpoint.headers.items())
