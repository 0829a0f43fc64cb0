"""Which URL the settings produce, and which addresses are rejected."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tir_qwen import ConfigurationError
from tir_qwen._request.endpoint import resolve_endpoint

TOKEN = "eyJhbGciOi.canary-token_4711.c2lnbmF0dXJl"
TIR = "/project/p-6530/genai/qwen3_32b/v1/chat/completions?project_id=6530"
BASE = "https://infer.e2enetworks.net/project/p-6530/genai/qwen3_32b/v1"


def url(base_url: str | None = None, model: str = "qwen3_32b", **settings: Any) -> str:
    """Return the URL for these settings."""
    return resolve_endpoint(project_id=6530, access_token=TOKEN, base_url=base_url, **settings).url(model)


def refusal(base_url: str | None = None, **settings: Any) -> str:
    """Return the message of the error that these settings raise."""
    with pytest.raises(ConfigurationError) as caught:
        url(base_url, **settings)
    return str(caught.value)


def test_the_default_url_needs_only_a_project_id_and_a_token() -> None:
    """A project id and a token are enough for the documented URL."""
    assert url() == ("https://infer.e2enetworks.net/project/p-6530/genai/qwen3_32b/v1/chat/completions?project_id=6530")


def test_the_apikey_follows_the_project_id_in_the_query() -> None:
    """The API key follows the project id in the query."""
    assert url(apikey="key-0815") == f"https://infer.e2enetworks.net{TIR}&apikey=key-0815"


@pytest.mark.parametrize(
    ("model", "quoted"),
    [
        ("llama_4_scout_17b_16e_instruct", "llama_4_scout_17b_16e_instruct"),
        ("Qwen/Qwen3-32B", "Qwen%2FQwen3-32B"),
        ("a b?c#d%e", "a%20b%3Fc%23d%25e"),
        ("../../evil", "..%2F..%2Fevil"),
        ("क्वेन", "%E0%A4%95%E0%A5%8D%E0%A4%B5%E0%A5%87%E0%A4%A8"),
        ("m\r\nHost: evil", "m%0D%0AHost%3A%20evil"),
    ],
)
def test_the_model_is_quoted(model: str, quoted: str) -> None:
    """Any model name is a single segment of the path."""
    assert url(model=model) == (
        f"https://infer.e2enetworks.net/project/p-6530/genai/{quoted}/v1/chat/completions?project_id=6530"
    )


@pytest.mark.parametrize(
    ("host", "root"),
    [
        ("https://gpu.example.com", "https://gpu.example.com"),
        ("https://gpu.example.com/", "https://gpu.example.com"),
        ("  https://gpu.example.com:8443//\n", "https://gpu.example.com:8443"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
    ],
)
@pytest.mark.parametrize("source", ["base_url", "E2E_TIR_BASE_URL", "MODEL_API_CLIENT_HOST"])
def test_a_host_alone_serves_the_same_paths(monkeypatch: pytest.MonkeyPatch, source: str, host: str, root: str) -> None:
    """A host without a path gets TIR's path, from every source and with any ending."""
    if source != "base_url":
        monkeypatch.setenv(source, host)
    assert url(host if source == "base_url" else None) == root + TIR


@pytest.mark.parametrize("host", ["infer.e2enetworks.net", "infer.e2enetworks.net/", "infer.e2enetworks.net:443"])
def test_a_bare_host_name_uses_https(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """A bare host name in MODEL_API_CLIENT_HOST uses https, as in the operator's SDK."""
    monkeypatch.setenv("MODEL_API_CLIENT_HOST", host)
    assert url() == f"https://{host.rstrip('/')}{TIR}"


def test_arguments_take_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is: argument, E2E_TIR_BASE_URL, MODEL_API_CLIENT_HOST, TIR's host."""
    monkeypatch.setenv("MODEL_API_CLIENT_HOST", "https://third.example.com/")
    assert url() == f"https://third.example.com{TIR}"
    monkeypatch.setenv("E2E_TIR_BASE_URL", "https://second.example.com/v1")
    assert url() == "https://second.example.com/v1/chat/completions"
    assert url("https://first.example.com/v1") == "https://first.example.com/v1/chat/completions"
    monkeypatch.setenv("E2E_TIR_BASE_URL", "  ")
    assert url("") == f"https://third.example.com{TIR}"


@pytest.mark.parametrize("end", ["", "/", "//", "/chat/completions", "/chat/completions/"])
@pytest.mark.parametrize(
    "base", [BASE, "https://gpu.example.com/project/p-6530/endpoint/is-17/v1", "http://localhost:8000/v1"]
)
def test_a_complete_base_url_is_used_unchanged(base: str, end: str) -> None:
    """A complete base URL is used unchanged, with or without a trailing slash or `/chat/completions`."""
    assert url(base + end) == f"{base}/chat/completions"


@pytest.mark.parametrize("end", ["", "/", "/chat/completions"])
def test_the_query_of_a_base_url_is_kept(end: str) -> None:
    """The query of a base URL is kept and follows the path."""
    assert url(f"{BASE}{end}?project_id=6530&x=%20y") == f"{BASE}/chat/completions?project_id=6530&x=%20y"
    assert url(f"{BASE}{end}?x=1", apikey="k&y") == f"{BASE}/chat/completions?x=1&apikey=k%26y"
    assert url("https://gpu.example.com?x=1") == f"https://gpu.example.com{TIR.replace('?', '?x=1&')}"


@pytest.mark.parametrize("model", ["qwen3_32b", "/mnt/models", "peft-model"])
def test_a_complete_base_url_does_not_depend_on_the_model(model: str) -> None:
    """The path of a dedicated endpoint does not depend on the model."""
    assert url("https://gpu.example.com/v1", model) == "https://gpu.example.com/v1/chat/completions"


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost", "127.0.0.1", "127.0.0.2", "127.255.255.254", "[::1]", "[0:0:0:0:0:0:0:1]"]
)
def test_plain_http_is_accepted_for_the_local_machine(host: str) -> None:
    """Plain HTTP is accepted for every spelling of the local machine."""
    assert url(f"http://{host}:8000/v1") == f"http://{host}:8000/v1/chat/completions"


@pytest.mark.parametrize(
    "host",
    [
        "vllm",
        "10.0.0.5",
        "0.0.0.0",
        "128.0.0.1",
        "localhost.example.com",
        "127.0.0.1.nip.io",
        "[::2]",
        "[::]",
        "xlocalhost",
    ],
)
def test_plain_http_is_refused_for_other_machines(host: str) -> None:
    """Plain HTTP to another machine is rejected unless the user allows it."""
    assert refusal(f"http://{host}:8000/v1") == (
        "base_url (or E2E_TIR_BASE_URL) must use https:// (http:// sends the token unencrypted; allow_http=True permits"
        " it)."
    )
    assert url(f"http://{host}:8000/v1", allow_http=True) == f"http://{host}:8000/v1/chat/completions"


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("https://canary:pass@gpu.example.com/v1", "must not contain credentials or a fragment."),
        ("https://@gpu.example.com/v1", "must not contain credentials or a fragment."),
        ("https://gpu.example.com/v1#canary", "must not contain credentials or a fragment."),
        ("https://gpu.example.com\\@canary.example.com/v1", "must not contain credentials or a fragment."),
        (
            "https://canary.example.com/\r\nHost:evil",
            "must not contain spaces, control characters or non-ASCII characters.",
        ),
        ("https://canary.exa\tmple.com/v1", "must not contain spaces, control characters or non-ASCII characters."),
        ("https://canary.example.com/a b", "must not contain spaces, control characters or non-ASCII characters."),
        ("https://canary\0.example.com/v1", "must not contain spaces, control characters or non-ASCII characters."),
        ("https://canáry.example.com/v1", "must not contain spaces, control characters or non-ASCII characters."),
        ("https://canary.example.com:https/v1", "is not a URL."),
        ("https://canary.example.com:99999/v1", "is not a URL."),
        ("https://[canary/v1", "is not a URL."),
        ("ftp://canary.example.com/v1", "must be a URL that begins with https:// (or, on this machine, http://)."),
        ("canary.example.com/v1", "must be a URL that begins with https:// (or, on this machine, http://)."),
        ("/canary/v1", "must be a URL that begins with https:// (or, on this machine, http://)."),
        ("https:///canary", "must be a URL that begins with https:// (or, on this machine, http://)."),
        ("https://", "must be a URL that begins with https:// (or, on this machine, http://)."),
        ("localhost:8000/canary", "must be a URL that begins with https:// (or, on this machine, http://)."),
    ],
)
def test_an_invalid_url_is_refused(monkeypatch: pytest.MonkeyPatch, address: str, problem: str) -> None:
    """An invalid URL raises an error that names its source but does not quote it."""
    assert refusal(address) == f"base_url (or E2E_TIR_BASE_URL) {problem}"
    if "\0" not in address:
        monkeypatch.setenv("E2E_TIR_BASE_URL", address)
        assert refusal() == f"E2E_TIR_BASE_URL {problem}"


@given(st.text(max_size=40).filter(lambda model: model.strip() and model.strip(".")))
def test_model_never_leaves_its_segment(model: str) -> None:
    """No model name can change the host, the path or the query."""
    head, _, tail = url(model=model).partition("/genai/")
    assert head == "https://infer.e2enetworks.net/project/p-6530"
    segment = tail.removesuffix("/v1/chat/completions?project_id=6530")
    assert segment != tail
    assert not set(segment) & set("/?#&\\ ")
    assert segment.isascii()
    assert segment.isprintable()


@pytest.mark.parametrize("model", [".", "..", "..."])
def test_a_model_of_dots_is_refused(model: str) -> None:
    """A model name that consists of dots would change the path and is rejected."""
    with pytest.raises(ConfigurationError, match=r"^model must be the name of a model, such as "):
        url(model=model)


@pytest.mark.parametrize("host", ["infer..e2enetworks.net", "a" * 64 + ".example.com", "[v1.x]"])
def test_an_impossible_host_is_refused(host: str) -> None:
    """A host that cannot be resolved is rejected with the settings, not later by the HTTP engine."""
    assert refusal(f"https://{host}/v1") == "base_url (or E2E_TIR_BASE_URL) is not a URL."


def test_a_refused_url_is_not_quoted_by_chained_exceptions() -> None:
    """No chained exception quotes a rejected URL, which may contain a token."""
    with pytest.raises(ConfigurationError) as caught:
        url("https://gpu.example.com:canary/v1")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("base_url", "environment", "token", "warned"),
    [
        pytest.param("https://evil.example/v1", {}, None, True, id="another host"),
        pytest.param("https://note2enetworks.net/v1", {}, None, True, id="a host that looks like the operator's"),
        pytest.param(
            "https://ine.exam/v1", {"E2E_TIR_BASE_URL": "https://mine.example/v1"}, None, True, id="a part of a host"
        ),
        pytest.param("https://evil.example/v1", {"E2E_TIR_BASE_URL": "https://[v1"}, None, True, id="a malformed URL"),
        pytest.param("https://evil.example/v1", {}, "other", False, id="another token"),
        pytest.param("https://infer.e2enetworks.net/project/p-1/v1", {}, None, False, id="the operator's host"),
        pytest.param("http://127.0.0.1:8000/v1", {}, None, False, id="this machine"),
        pytest.param(None, {"E2E_TIR_BASE_URL": "https://mine.example/v1"}, None, False, id="the environment's URL"),
        pytest.param(
            "https://mine.example/v1",
            {"MODEL_API_CLIENT_HOST": "Mine.example"},
            None,
            False,
            id="the environment's host",
        ),
    ],
)
def test_whom_the_token_of_the_environment_is_sent_to(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    base_url: str | None,
    environment: dict[str, str],
    token: str | None,
    warned: bool,
) -> None:
    """The log warns of a host that only the code names: an application may let others choose it."""
    monkeypatch.setattr("tir_qwen._request.endpoint._reported_hosts", set())
    for name, value in {"E2E_TIR_ACCESS_TOKEN": "canary", **environment}.items():
        monkeypatch.setenv(name, value)
    resolve_endpoint(project_id=1, access_token=token, base_url=base_url)
    host = (base_url or "").removeprefix("https://").partition("/")[0]
    text = f"The token of E2E_TIR_ACCESS_TOKEN is sent to {host}, which base_url names."
    assert caplog.messages == ([text] if warned else [])
