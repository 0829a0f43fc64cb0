"""Converting error responses to exceptions, without repeating the request."""

from __future__ import annotations

import json
import pickle
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.captures import CAPTURES, Capture
from tests.support.paths import DATA
from tir_qwen import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)
from tir_qwen._response.server_errors import MAX_TEXT, error_from_frame, error_from_response

REFUSALS = [capture for capture in CAPTURES if not 200 <= capture.status < 300]
WORDS = dict(line.split(" |", 1) for line in (DATA / "refusals.txt").read_text(encoding="utf-8").splitlines())
HINTS = {
    401: " Check the access token (access_token or E2E_TIR_ACCESS_TOKEN): a TIR token belongs to one project and"
    " expires 365 days after it was created.",
    403: " Check that the access token was created for this project (project_id or E2E_TIR_PROJECT_ID) and is valid.",
    404: " Check the project id, the model name and the base URL.",
}


def refuse(status: int, body: Any) -> APIStatusError:
    """Return the exception for a body: bytes as they are, anything else as JSON."""
    return error_from_response(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode())


def sentence(status: int, words: str) -> str:
    """Return the expected message: the status line with the server's message, and a hint as a sentence of its own."""
    line = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    stop = "" if words.endswith(".") or status not in HINTS else "."
    return (f"{line}: {words}{stop}" if words else f"{line}.") + HINTS.get(status, "")


def test_a_request_without_a_token() -> None:
    """If there was no token to refuse, the error says so."""
    error = error_from_response(401, {}, b'{"error": "Unauthorized"}', has_credentials=False)
    assert str(error) == "401 Unauthorized. No token was sent: pass access_token or set E2E_TIR_ACCESS_TOKEN."
    assert str(error_from_response(500, {}, b"no", has_credentials=False)) == "500 Internal Server Error: no"


@pytest.mark.parametrize("capture", REFUSALS, ids=lambda capture: capture.id)
def test_every_recorded_error_becomes_one_sentence(capture: Capture) -> None:
    """Error responses of every vLLM version give a few classes and one readable sentence."""
    error = error_from_response(capture.status, capture.headers, capture.body)
    kind, _, words = WORDS[capture.id].strip().partition(" |")
    assert type(error).__name__ == kind
    assert str(error) == sentence(capture.status, words.strip())
    assert error.status_code == capture.status
    assert error.request_id == capture.headers.get("x-request-id")
    assert error.retry_after is None


def test_every_recorded_error_has_an_expectation() -> None:
    """No recorded error response is missing from refusals.txt."""
    assert list(WORDS) == [capture.id for capture in REFUSALS]


UPSTREAM = (
    "upstream connect error or disconnect/reset before headers. reset reason: connection failure, transport failure"
    " reason: delayed connect error: 111"
)
NGINX = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    b"<hr><center>nginx/1.25.3</center>\r\n</body>\r\n</html>\r\n"
)


WRONG = "['body', 'n']: Input should be a valid integer"
TOO_LONG = "the prompt exceeds the maximum context length"


@pytest.mark.parametrize(
    ("status", "body", "kind", "words", "kept"),
    [
        (503, UPSTREAM.encode(), "InternalServerError", UPSTREAM, UPSTREAM),
        (503, b"no healthy upstream", "InternalServerError", "no healthy upstream", "no healthy upstream"),
        (
            504,
            b"upstream request timeout",
            "InternalServerError",
            "upstream request timeout",
            "upstream request timeout",
        ),
        (403, b"RBAC: access denied", "PermissionDeniedError", "RBAC: access denied", "RBAC: access denied"),
        (401, b"Jwt is missing", "AuthenticationError", "Jwt is missing", "Jwt is missing"),
        (401, b"Jwt is expired\n", "AuthenticationError", "Jwt is expired", "Jwt is expired"),
        (429, b"local_rate_limited", "RateLimitError", "local_rate_limited", "local_rate_limited"),
        (404, b"", "NotFoundError", "", None),
        (500, b"", "InternalServerError", "", None),
        (500, b" \n", "InternalServerError", "", None),
        (502, NGINX, "InternalServerError", "", "502 Bad Gateway"),
        (502, NGINX.replace(b"502 Bad Gateway", b"So\n  sorry"), "InternalServerError", "So sorry", "So sorry"),
        (502, b"<!DOCTYPE html><HTML><p>x", "InternalServerError", "an HTML page", "an HTML page"),
        (
            504,
            b"<html><body><h1>504 Gateway Time-out</h1>\nThe server didn't respond in time.\n</body></html>\n",
            "InternalServerError",
            "",
            "504 Gateway Time-out",
        ),
        (599, b"odd", "InternalServerError", "odd", "odd"),
        (500, b"\xff\xfe", "InternalServerError", "\ufffd\ufffd", "\ufffd\ufffd"),
        (401, {"error": "Unauthorized"}, "AuthenticationError", "", {"message": "Unauthorized"}),
        (404, {"detail": "Not Found"}, "NotFoundError", "", {"message": "Not Found"}),
        (
            500,
            {"error": {"message": "", "type": "x", "param": None, "code": 5}},
            "InternalServerError",
            "",
            {"message": "", "type": "x", "code": 5},
        ),
        (
            422,
            {"detail": [{"loc": ["body", "n"], "msg": WRONG[15:], "input": "x"}]},
            "BadRequestError",
            WRONG,
            {"message": WRONG},
        ),
        (413, {"message": TOO_LONG}, "ContextOverflowError", TOO_LONG, {"message": TOO_LONG}),
        (413, b"too large a body", "APIStatusError", "too large a body", "too large a body"),
        (302, b"", "APIStatusError", "", None),
    ],
)
def test_errors_of_gateways_become_one_sentence(status: int, body: Any, kind: str, words: str, kept: Any) -> None:
    """Errors of gateways give one sentence too, without a page and without a repeated status line."""
    error = refuse(status, body)
    assert type(error).__name__ == kind
    assert str(error) == sentence(status, words)
    assert error.body == kept


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 32768 tokens. Please reduce the length.",
        "max_tokens=40000 cannot be greater than max_model_len=32768.",
        "The prompt (length 40000) is longer than the maximum model length of 32768.",
        "'max_tokens' or 'max_completion_tokens' is too large: 40000.",
        "your prompt contains at least 32769 input tokens",
    ],
)
def test_every_wording_of_an_overflow_is_recognized(words: str) -> None:
    """Every wording of a context overflow raises the error that frameworks expect, whatever the status."""
    errors = [refuse(status, {"error": words}) for status in (400, 413, 422, 500)]
    assert [(type(error).__name__, error.status_code, error.is_retryable) for error in errors] == [
        ("ContextOverflowError", status, False) for status in (400, 413, 422, 500)
    ]
    assert not error_from_frame({"error": {"message": words}}).is_retryable


nested = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["error", "message", "detail", "code", "x"]), inner)
    ),
    max_leaves=5,
)


@given(st.integers(300, 599), st.binary() | nested)
def test_any_body_gives_an_error_with_its_status(status: int, body: Any) -> None:
    """No response body makes the conversion fail or hides the status."""
    error = refuse(status, body)
    assert error.status_code == status
    assert str(error).startswith(str(status))
    assert pickle.loads(pickle.dumps(error)).body == error.body


@pytest.mark.parametrize(
    "body", [b"x" * 100_000, {"error": {"message": "x " * 50_000}}, {"detail": [{"msg": "x" * 900}] * 9}]
)
def test_long_bodies_are_truncated(body: Any) -> None:
    """Long error bodies are truncated, so they do not flood the log."""
    error = refuse(500, body)
    assert len(str(error)) <= MAX_TEXT + 40
    assert len(repr(error.body)) <= MAX_TEXT + 40


@pytest.mark.parametrize(("status", "name"), [(400, "ContextOverflowError"), (500, "InternalServerError")])
def test_a_failure_that_mentions_the_limit_is_no_overflow(status: int, name: str) -> None:
    """The short name of the limit means an overflow in a refusal only: errors of the server mention it, too."""
    assert type(refuse(status, {"message": "See max_model_len."})).__name__ == name


def test_the_first_500_characters_of_an_error_are_kept() -> None:
    """Of a long message, as much is kept in the body as in the error's text."""
    words = " ".join(f"word{number}" for number in range(200))
    error = refuse(500, {"message": words})
    assert (str(error), error.body) == (sentence(500, words[:MAX_TEXT]), {"message": words[:MAX_TEXT]})


def test_the_error_of_a_list_is_in_its_first_object() -> None:
    """Gemini's body is a list whose first object is the error."""
    assert refuse(400, [{"error": {"message": "No."}}, {"msg": "x"}]).body == "No."
    assert refuse(400, [{"loc": "a", "msg": "b"}, {"loc": "c", "msg": "d", "error": "x"}]).body == "a: b; c: d"


def test_the_message_type_parameter_and_code_are_kept() -> None:
    """The message, type, parameter and code are kept; several validation errors become one line."""
    fields = {"message": "no", "type": "x", "param": "n", "code": 400}
    assert refuse(400, {"error": {**fields, "more": {"x": 1}}}).body == fields
    assert refuse(400, {"object": "error", **fields, "type": None}).body == {"message": "no", "param": "n", "code": 400}
    detail = [{"loc": ["a"], "msg": "b"}, {"loc": ["c"], "msg": "d"}, "e"]
    assert refuse(422, {"detail": detail}).body == {"message": "['a']: b; ['c']: d"}


def test_a_page_is_recognized_by_its_first_thousand_characters() -> None:
    """A page is named by its title, and a text that mentions one later is a text."""
    texts = [f"{'x' * before}<html><title>Gone</title>" for before in (995, 996)]
    assert [error_from_frame(text).body for text in texts] == ["Gone", texts[1][:MAX_TEXT]]


@pytest.mark.parametrize("words", ["grammar error:", "prompt is too long"])
def test_what_makes_an_error_final_is_searched_up_to_the_limit(words: str) -> None:
    """An error in an answer is final if the part of its text that is kept says so."""
    texts = [f"{'x' * (length - len(words) - 1)} {words}" for length in (MAX_TEXT, MAX_TEXT + 1)]
    assert [error_from_frame({"message": text}).is_retryable for text in texts] == [False, True]


RETRYABLE_STATUSES = {408, 409, 429, *range(500, 600)}


def test_class_and_is_retryable_by_status() -> None:
    """Each status has its class, and only 408, 409, 429 and 5xx are retryable."""
    classes = {
        400: BadRequestError,
        401: AuthenticationError,
        403: PermissionDeniedError,
        404: NotFoundError,
        422: BadRequestError,
        429: RateLimitError,
        **dict.fromkeys(range(500, 600), InternalServerError),
    }
    found = {status: error_from_response(status, {}, b"") for status in range(300, 600)}
    assert {status: type(error) for status, error in found.items()} == {
        status: classes.get(status, APIStatusError) for status in found
    }
    assert {status for status, error in found.items() if error.is_retryable} == RETRYABLE_STATUSES
    assert {error.status_code for error in found.values()} == set(found)


@pytest.mark.parametrize(
    ("request_body", "url", "words"),
    [
        (b"", "", "the model name and the base URL."),
        (
            b'{"model":"e5","input":["secret question"]}',
            "https://tir.test/project/p-6530/genai/e5/v1/embeddings?project_id=6530",
            "the model name (e5) and the base URL: https://tir.test/project/p-***/genai/e5/v1/embeddings",
        ),
        (
            b'{"model":"canary-key","input":[]}',
            "https://tir.test/canary-key/v1/embeddings?apikey=canary-key",
            "the model name (***) and the base URL: https://tir.test/***/v1/embeddings",
        ),
        (b"{}", "https://tir.test/v1/embeddings", "the model name and the base URL: https://tir.test/v1/embeddings"),
        (
            b"{}",
            "https://a.test/embeddings",
            "the model name and the base URL: https://a.test/embeddings (is /v1 missing?)",
        ),
    ],
    ids=["nothing", "TIR", "secrets", "no model", "without v1"],
)
def test_what_was_not_found(request_body: bytes, url: str, words: str) -> None:
    """A 404 names the model and the address, without its query and secrets."""
    error = error_from_response(404, {}, b"", ["canary-key"], request_body, url=url)
    assert str(error) == f"404 Not Found. Check the project id, {words}"
