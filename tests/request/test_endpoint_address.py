"""Addresses: which URL a setting leads to, and which are refused."""

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
    """The URL that these settings lead to."""
    return resolve_endpoint(project_id=6530, access_token=TOKEN, base_url=base_url, **settings).url(model)


def refusal(base_url: str | None = None, **settings: Any) -> str:
    """Why these settings are refused."""
    with pytest.raises(ConfigurationError) as caught:
        url(base_url, **settings)
    return str(caught.value)


def test_default_address() -> None:
    """A project id and a token are enough: the URL is the API reference's on the guides' host."""
    assert url() == ("https://infer.e2enetworks.net/project/p-6530/genai/qwen3_32b/v1/chat/completions?project_id=6530")


def test_apikey_in_the_query() -> None:
    """Where a gateway wants the API key, it follows the project id."""
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
def test_model_is_quoted(model: str, quoted: str) -> None:
    """Any model name stays one segment of the path."""
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
    """Another host serves the same paths, wherever it is named and however it ends."""
    if source != "base_url":
        monkeypatch.setenv(source, host)
    assert url(host if source == "base_url" else None) == root + TIR


@pytest.mark.parametrize("host", ["infer.e2enetworks.net", "infer.e2enetworks.net/", "infer.e2enetworks.net:443"])
def test_host_without_a_scheme(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """The operator's SDK takes a bare host name from MODEL_API_CLIENT_HOST, and so do we: by https."""
    monkeypatch.setenv("MODEL_API_CLIENT_HOST", host)
    assert url() == f"https://{host.rstrip('/')}{TIR}"


def test_arguments_take_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins over E2E_TIR_BASE_URL, that over MODEL_API_CLIENT_HOST, that over TIR's host."""
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
def test_complete_base_url(base: str, end: str) -> None:
    """A complete base URL is used as it is: with or without a trailing slash, or copied with its last words."""
    assert url(base + end) == f"{base}/chat/completions"


@pytest.mark.parametrize("end", ["", "/", "/chat/completions"])
def test_query_of_a_base_url(end: str) -> None:
    """A query stays a query, behind the path."""
    assert url(f"{BASE}{end}?project_id=6530&x=%20y") == f"{BASE}/chat/completions?project_id=6530&x=%20y"
    assert url(f"{BASE}{end}?x=1", apikey="k&y") == f"{BASE}/chat/completions?x=1&apikey=k%26y"
    assert url("https://gpu.example.com?x=1") == f"https://gpu.example.com{TIR.replace('?', '?x=1&')}"


@pytest.mark.parametrize("model", ["qwen3_32b", "/mnt/models", "peft-model"])
def test_complete_base_url_does_not_name_the_model(model: str) -> None:
    """The path of a dedicated endpoint stands for one server, whatever its model is called in the body."""
    assert url("https://gpu.example.com/v1", model) == "https://gpu.example.com/v1/chat/completions"


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost", "127.0.0.1", "127.0.0.2", "127.255.255.254", "[::1]", "[0:0:0:0:0:0:0:1]"]
)
def test_plain_http_on_this_machine(host: str) -> None:
    """A server on this machine needs no TLS, however the machine is spelled."""
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
def test_plain_http_elsewhere(host: str) -> None:
    """A token is not sent unencrypted to another machine, unless the user insists."""
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
        ("ftp://canary.example.com/v1", "must be a URL with https://."),
        ("canary.example.com/v1", "must be a URL with https://."),
        ("/canary/v1", "must be a URL with https://."),
        ("https:///canary", "must be a URL with https://."),
        ("https://", "must be a URL with https://."),
        ("localhost:8000/canary", "must be a URL with https://."),
    ],
)
def test_refused_address(monkeypatch: pytest.MonkeyPatch, address: str, problem: str) -> None:
    """A URL that cannot be meant is refused at once; the message names its source and does not repeat it."""
    assert refusal(address) == f"base_url (or E2E_TIR_BASE_URL) {problem}"
    if "\0" not in address:
        monkeypatch.setenv("E2E_TIR_BASE_URL", address)
        assert refusal() == f"E2E_TIR_BASE_URL {problem}"


@given(st.text(max_size=40).filter(lambda model: model.strip() and model.strip(".")))
def test_model_never_leaves_its_segment(model: str) -> None:
    """No model name can lead a request to another path, query or host."""
    head, _, tail = url(model=model).partition("/genai/")
    assert head == "https://infer.e2enetworks.net/project/p-6530"
    segment = tail.removesuffix("/v1/chat/completions?project_id=6530")
    assert segment != tail
    assert not set(segment) & set("/?#&\\ ")
    assert segment.isascii()
    assert segment.isprintable()


@pytest.mark.parametrize("model", [".", "..", "..."])
def test_model_of_dots(model: str) -> None:
    """A model name of dots, which every URL library takes for a step up the path, is refused."""
    with pytest.raises(ConfigurationError, match=r"^model must be the name of a model, such as "):
        url(model=model)


@pytest.mark.parametrize("host", ["infer..e2enetworks.net", "a" * 64 + ".example.com", "[v1.x]"])
def test_impossible_host(host: str) -> None:
    """A host that no resolver can be asked for is refused with the settings, not with an engine's error later."""
    assert refusal(f"https://{host}/v1") == "base_url (or E2E_TIR_BASE_URL) is not a URL."


def test_refused_address_is_not_quoted_by_a_context() -> None:
    """A piece of a URL, be it a misplaced token, stays out of the whole chain of a refusal."""
    with pytest.raises(ConfigurationError) as caught:
        url("https://gpu.example.com:canary/v1")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
