"""Credentials and headers: which are accepted, which are rejected, and that none of them leaks."""

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
from tir_qwen._request.endpoint import DefaultProject, Endpoint, resolve_endpoint

TOKEN = "eyJhbGciOi.canary-token_4711.c2lnbmF0dXJl"
LOCAL = "http://localhost:8000/v1"


def refusal(**settings: Any) -> str:
    """Return the message of the error that these settings raise."""
    with pytest.raises(ConfigurationError) as caught:
        resolve_endpoint(**settings)
    error = caught.value
    assert isinstance(error, ValueError)
    assert error.args == (str(error),)
    assert not error.is_retryable
    assert error.attempts == 0
    return str(error)


def one_line(text: str) -> bool:
    """Whether the text is safe in a single line of an HTTP head."""
    return text.isascii() and text.isprintable()


@pytest.mark.parametrize("given_as", [6530, "6530", "p-6530", " p-6530 ", "\t6530\n"])
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_every_form_of_a_project_id_is_accepted(
    monkeypatch: pytest.MonkeyPatch, given_as: str | int, source: str
) -> None:
    """A project id is accepted in the forms used by the dashboard, the URLs and the API."""
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
def test_a_malformed_project_id_is_refused(wrong: Any) -> None:
    """A malformed project id raises an error that does not contain the value."""
    said = refusal(project_id=wrong, access_token=TOKEN)
    kinds = (True, 6530.0, b"6530", ["6530"])
    problem = f"a string, not {type(wrong).__name__}" if wrong in kinds else "digits, such as 6530 or p-6530"
    assert said == f"project_id (or E2E_TIR_PROJECT_ID) must be {problem}."


@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_a_missing_project_id_is_explained(nothing: str | None) -> None:
    """The error for a missing project id explains how to set it."""
    assert refusal(project_id=nothing, access_token=TOKEN) == (
        "project_id is missing: pass project_id=... or set the environment variable E2E_TIR_PROJECT_ID to the project"
        " id, such as 6530 (TIR's dashboard shows it)."
    )


@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_a_missing_token_is_explained(nothing: str | None) -> None:
    """The error for a missing token explains how to set it."""
    assert refusal(project_id=6530, access_token=nothing) == (
        "access_token is missing: pass access_token=... or set the environment variable E2E_TIR_ACCESS_TOKEN to the"
        " Auth Token of an access token (TIR's dashboard shows it)."
    )


@pytest.mark.parametrize("nothing", [None, " "])
def test_missing_project_and_token_are_reported_together(monkeypatch: pytest.MonkeyPatch, nothing: str | None) -> None:
    """If nothing is configured, a single error names both the project and the token."""
    if nothing is not None:
        monkeypatch.setenv("E2E_TIR_PROJECT_ID", nothing)
        monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", nothing)
    assert refusal() == (
        "project_id and access_token are missing: pass them, or set the environment variables E2E_TIR_PROJECT_ID to the"
        " project id, such as 6530, and E2E_TIR_ACCESS_TOKEN to the Auth Token of an access token (TIR's dashboard"
        " shows both)."
    )


def test_arguments_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments take precedence over environment variables."""
    monkeypatch.setenv("E2E_TIR_ACCESS_TOKEN", "another-token")
    monkeypatch.setenv("E2E_TIR_PROJECT_ID", "1")
    monkeypatch.setenv("E2E_TIR_API_KEY", "another-key")
    endpoint = resolve_endpoint(project_id=6530, access_token=TOKEN, apikey="key-0815")
    assert endpoint.headers == {"authorization": f"Bearer {TOKEN}"}
    assert endpoint.query == "project_id=6530&apikey=key-0815"


def test_all_credentials_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """All credentials can come from the environment, with whitespace around them."""
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
def test_a_malformed_credential_is_refused(
    monkeypatch: pytest.MonkeyPatch, source: str, name: str, variable: str, inside: str
) -> None:
    """A credential that would break a header or a query raises an error that does not contain it."""
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
def test_a_credential_that_is_not_a_string_is_refused(name: str, wrong: Any) -> None:
    """A credential that is not a string raises an error that names its type but not its value."""
    said = refusal(**{"project_id": 6530, "access_token": TOKEN, name: wrong})
    assert said.startswith(f"{name} (or E2E_TIR_")
    assert said.endswith(f" must be a string, not {type(wrong).__name__}.")


def test_a_local_server_needs_no_token() -> None:
    """A local server needs neither token nor project id; a remote one needs a token."""
    endpoint = resolve_endpoint(base_url=LOCAL)
    assert endpoint == Endpoint(base_url=LOCAL)
    assert "access_token is missing" in refusal(base_url="https://vllm.example.com/v1")
    assert "access_token is missing" in refusal(base_url="http://localhost:8000", project_id=6530)


def test_apikey_is_quoted() -> None:
    """The API key is percent-encoded in the query."""
    query = resolve_endpoint(project_id=6530, access_token=TOKEN, apikey="a+b/c=&d").query
    assert query == "project_id=6530&apikey=a%2Bb%2Fc%3D%26d"


def test_the_apikey_of_the_environment_is_sent_only_to_tir(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API key from the environment is sent only to TIR; other hosts need it as an argument."""
    monkeypatch.setenv("E2E_TIR_API_KEY", "key-0815")
    assert resolve_endpoint(base_url=LOCAL).query == ""
    assert resolve_endpoint(base_url=LOCAL, apikey="key-4711").query == "apikey=key-4711"


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ({"headers": {"X-Team": "header-4711"}}, {TOKEN, "6530", "p-6530", "header-4711"}),
        ({"project_id": 17, "apikey": "abc"}, {TOKEN, "p-17"}),
        (
            {"project_id": None, "base_url": "https://e.example.com/project/p-6531/endpoint/is-17/v1"},
            {TOKEN, "p-6531", "6531"},
        ),
        ({"base_url": "https://e.example.com/v1"}, {TOKEN}),
    ],
)
def test_everything_that_identifies_the_caller_is_a_secret(settings: dict[str, Any], known: set[str]) -> None:
    """Everything that identifies the caller counts as a secret, except very short values."""
    endpoint = resolve_endpoint(**{"project_id": 6530, "access_token": TOKEN, **settings})
    assert set(endpoint.secrets) == known


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_two_projects(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project that is passed must be that of a complete URL; one of the environment gives way to the URL."""
    url = "https://e.example.com/project/p-6531/genai/qwen3_32b/v1"
    where = {"base_url": url} if source == "argument" else {}
    monkeypatch.setenv("E2E_TIR_BASE_URL", "" if where else url)
    monkeypatch.setenv("E2E_TIR_PROJECT_ID", "p-17")
    for project in (None, 17, "p-6531", 6531):  # the models pass what the environment contains
        endpoint = resolve_endpoint(project_id=project, access_token=TOKEN, **where)
        assert (endpoint.url("qwen3_32b"), endpoint.query) == (f"{url}/chat/completions", "")
    for project in ("17", "6530"):
        assert resolve_endpoint(project_id=DefaultProject(project), access_token=TOKEN, **where).query == ""
    said = refusal(project_id=6530, access_token=TOKEN, **where)
    assert said == "project_id is another project than that in base_url (or E2E_TIR_BASE_URL): leave out one of them."


def test_a_token_with_its_scheme() -> None:
    """A token that was copied from a header, with `Bearer`, is rejected, and the error says why."""
    said = refusal(project_id=6530, access_token=f"Bearer {TOKEN}")
    assert said == ("access_token (or E2E_TIR_ACCESS_TOKEN) must not begin with 'Bearer': that is added to the token.")


def test_a_path_that_only_looks_like_a_project() -> None:
    """Only a number is a project, so that any project id may be passed with another path."""
    endpoint = resolve_endpoint(project_id=6530, base_url="http://localhost:8000/project/p-blue/v1")
    assert endpoint.url("m") == "http://localhost:8000/project/p-blue/v1/chat/completions"


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
def test_a_header_of_the_user_replaces_the_default(name: str) -> None:
    """A user's header replaces the default whatever its capitalization, and is sent once."""
    endpoint = resolve_endpoint(project_id=6530, access_token=TOKEN, headers={name: "Basic abc", "X-Team": ""})
    assert endpoint.headers == {"authorization": "Basic abc", "x-team": ""}


@pytest.mark.parametrize("name", ["", "x y", "x:", "x\r\ny", "é", "x\0", "(x)", 7, None, b"x"], ids=ascii)
def test_a_malformed_header_name_is_refused(name: Any) -> None:
    """An invalid header name raises an error."""
    said = refusal(project_id=6530, access_token=TOKEN, headers={name: "canary-value"})
    assert said == "default_headers must have header names of letters, digits and hyphens."


@pytest.mark.parametrize("value", ["canary\r\nx-evil: 1", "canary\n", "canary\0", "canaryé", b"canary", 4711, None])
def test_a_malformed_header_value_is_refused(value: Any) -> None:
    """A value that could inject a header raises an error that does not contain it."""
    said = refusal(project_id=6530, access_token=TOKEN, headers={"X-Team": value})
    assert said == "default_headers must have a value of printable ASCII for 'X-Team'."


@pytest.mark.parametrize("name", ["Connection", "content-length", "HOST", "Transfer-Encoding"])
def test_headers_of_the_transport_are_refused(name: str) -> None:
    """Headers that control how the request is sent raise an error."""
    said = refusal(project_id=6530, access_token=TOKEN, headers={name: "canary"})
    assert said == f"default_headers must leave {name!r} to the HTTP engine."


def test_whitespace_around_header_values_is_removed() -> None:
    """Whitespace around a header value is removed."""
    endpoint = resolve_endpoint(project_id=6530, access_token=TOKEN, headers={"X-Team": "  a b "})
    assert endpoint.headers["x-team"] == "a b"


def test_the_repr_hides_credentials_and_copies_keep_them() -> None:
    """The repr hides the credentials; copies and pickles keep them."""
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


def test_the_redacted_url_keeps_a_path_of_the_user() -> None:
    """The redacted URL masks the project id and shows any other path of a complete base URL as it is."""
    hosted = resolve_endpoint(project_id=6530, access_token=TOKEN, base_url="https://h.example")
    complete = resolve_endpoint(access_token=TOKEN, base_url="https://h.example/MODEL/v1?key=key-0815")
    assert hosted.redacted_url("a/b") == "https://h.example/project/p-***/genai/a%2Fb/v1/chat/completions"
    assert complete.redacted_url("a/b") == "https://h.example/MODEL/v1/chat/completions"
    assert repr(complete) == f"<Endpoint {complete.redacted_url()}>"


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
    """Any settings produce either an endpoint or a ConfigurationError, never an injected line."""
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
