"""Exceptions do not contain credentials or parts of the request, even if the server repeats them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tests.response.test_server_errors import REFUSALS
from tests.support.secrets import TOKEN, chain
from tests.support.secrets import shown as all_that_shows
from tir_qwen import APIStatusError, ServerStreamError, TIRError
from tir_qwen._request.endpoint import resolve_endpoint
from tir_qwen._response.server_errors import MAX_TEXT, error_from_frame, error_from_response

SECRETS = (TOKEN, "key-0815", "p-6530", "6530")


def shown(error: TIRError) -> str:
    """Return everything that an exception shows or carries."""
    assert [*chain(error)] == [error]
    return all_that_shows(error)


def texts(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)


def refuse(status: int, body: Any, **headers: str) -> APIStatusError:
    """Return the exception for a body: bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    return error_from_response(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, content, SECRETS
    )


def test_no_recorded_error_repeats_the_question() -> None:
    """The question, which vLLM up to 0.13 repeats in its errors, is not part of the exception."""
    echoing = set()
    for capture in REFUSALS:
        error = error_from_response(capture.status, capture.headers, capture.body)
        for text in texts((capture.request or {}).get("messages")):
            if len(text) > 5:
                if text in capture.body.decode():
                    echoing.add(capture.setup)
                assert text not in shown(error), capture.id
    assert echoing == {"vllm-0.9.2", "vllm-0.10.2"}


class Body(BaseModel):
    """A request model like vLLM's, whose validation errors quote the input."""

    messages: list[dict[str, int]]
    n: int


def validation_errors(text: str) -> Iterator[tuple[str, bytes]]:
    """Yield the validation errors of all vLLM and FastAPI versions for a request with this text."""
    request = {"messages": [{"role": "user", "content": text}], "n": text}
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(request)
    errors = caught.value.errors(include_url=False)
    whole = [{**errors[0], "input": request}, *errors]
    for name, message in (("list", str(whole)), ("text", str(caught.value)), ("lines", "\n  ".join(map(str, whole)))):
        yield f"flat {name}", json.dumps({"object": "error", "message": message, "code": 400}).encode()
        yield f"nested {name}", json.dumps({"error": {"message": message}}, ensure_ascii=False).encode()
    yield "fastapi", json.dumps({"detail": whole}, ensure_ascii=False, separators=(",", ":")).encode()


@given(st.text(st.characters(exclude_categories=["Cs"])), st.data())
def test_no_question_is_repeated(text: str, data: st.DataObject) -> None:
    """No question is repeated in the exception, however it is worded, quoted or cut."""
    question = f"canary {text} canary"
    for name, body in validation_errors(question):
        cut = len(body) if name == "fastapi" else data.draw(st.integers(0, len(body)))
        assert "canary" not in shown(refuse(400, body))
        assert "canary" not in shown(refuse(400, body[:cut]))
        assert "canary" not in shown(error_from_frame(json.loads(body), SECRETS))


@pytest.mark.parametrize("echo", [TOKEN, "key-0815", "p-6530", "6530"])
@pytest.mark.parametrize(
    "form",
    [
        "bad credential {}",
        "Bearer {}, really",
        "/project/p-6530/genai?project_id=6530&apikey={}",
        "'{}'",
        "<html><title>no {}</title></html>",
        '{{"error":{{"message":"no {}","code":401}}}}',
        '{{"object":"error","message":"no {}"}}',
        '{{"detail":[{{"loc":["header"],"msg":"no {}"}}]}}',
        '{{"error":"no {}"}}',
    ],
)
def test_credentials_are_masked(form: str, echo: str) -> None:
    """A credential that the server repeats is masked."""
    said = form.format(echo)
    assert not [secret for secret in SECRETS if secret in shown(refuse(401, said.encode()))]
    assert "***" in str(refuse(401, said.encode()))
    if said.startswith("{"):
        error = error_from_frame(json.loads(said), SECRETS)
        assert isinstance(error, ServerStreamError)
        assert not [secret for secret in SECRETS if secret in shown(error)]


def test_a_project_id_in_the_request_id_is_masked() -> None:
    """A project id that a gateway puts into its request ids is masked."""
    assert refuse(500, b"", x_request_id="p-6530/abc").request_id == "***/abc"


def test_masking_keeps_longer_words() -> None:
    """Longer numbers and words that contain a credential are kept."""
    assert (
        str(refuse(400, b"65301 of 16530 tokens for p-6530x")) == "400 Bad Request: 65301 of 16530 tokens for p-6530x"
    )


@pytest.mark.parametrize("key", ["type", "param", "code"])
def test_other_fields_of_a_body_are_masked_and_truncated(key: str) -> None:
    """The other fields of a body are masked and truncated like the message."""
    for nested in (True, False):
        for value in (f"no {TOKEN}", "x" * 60_000):
            fields = {"message": "no", key: value}
            for error in (
                refuse(401, {"error": fields} if nested else fields),
                error_from_frame({"error": fields}, SECRETS),
            ):
                assert "canary" not in shown(error)
                assert len(repr(error.body)) <= 2 * MAX_TEXT


def test_a_credential_at_the_truncation_is_masked() -> None:
    """A token where a long message is truncated leaves no fragment behind."""
    for body in (b"x " * 240 + TOKEN.encode(), b"<html><title>" + b"x " * 240 + TOKEN.encode() + b"</title>"):
        assert TOKEN[:10] not in shown(refuse(401, body))


def test_a_truncated_fastapi_body_repeats_nothing() -> None:
    """A body too long to be read in full, and therefore invalid JSON, does not repeat the request either."""
    (body,) = [body for name, body in validation_errors("canary " * 20_000) if name == "fastapi"]
    assert "canary" not in shown(refuse(422, body[:65_536]))


VALUES = {
    "key": ("key+canary/08=15&x", ["canary"]),
    "header": ('Digest username="user-canary", response="canary-2\\3"', ["canary"]),
    "token": (TOKEN, ["canary", TOKEN[:20]]),
}
WRITINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in JSON": lambda value: json.dumps(value)[1:-1],
    "in JSON within JSON": lambda value: json.dumps(json.dumps({"a": value})),
    "in Python": lambda value: repr({"a": value}),
    "in a page": html.escape,
    "in a URL": lambda value: quote(value, safe=""),
    "in a URL, in small letters": lambda value: re.sub("%..", lambda code: code[0].lower(), quote(value, safe="")),
    "in a URL within a URL": lambda value: quote(quote(value, safe=""), safe=""),
    "in a word": lambda value: f"token_{value}x",
    "between escapes": lambda value: f"\\u0022{value}\\n",
}


@pytest.mark.parametrize("writing", WRITINGS)
@pytest.mark.parametrize("kind", VALUES)
def test_credentials_in_any_encoding_are_masked(kind: str, writing: str) -> None:
    """A credential is masked in every encoding, wherever the text is cut."""
    value, canaries = VALUES[kind]
    settings = {"key": {"apikey": value}, "header": {"headers": {"X-Auth": value}}, "token": {"access_token": value}}
    endpoint = resolve_endpoint(**{"project_id": 6530, "access_token": "other-token", **settings[kind]})
    said = f"no {WRITINGS[writing](value)} here"
    for body in (said, json.dumps({"message": said}), f"<html><title>{said}</title></html>"):
        error = error_from_response(401, {"x-request-id": said}, body.encode(), endpoint.secrets)
        assert [canary for canary in canaries if canary in shown(error)] == []
    whole = error_from_frame({"error": {"message": said, "code": said}}, endpoint.secrets)
    assert [canary for canary in canaries if canary in shown(whole)] == []


def test_a_truncated_token_is_masked() -> None:
    """A token cut off by a broken connection leaves no fragment behind."""
    for length in range(8, len(TOKEN)):
        assert str(refuse(401, f"no {TOKEN[:length]}".encode())).startswith("401 Unauthorized: no ***. ")


@pytest.mark.parametrize("form", ["project_{}", "project{}", "p{}", "tir_{}_x", "{}_qwen", "p-{}.x"])
def test_a_project_id_within_a_name_is_masked(form: str) -> None:
    """A project id is masked even as part of a name, as gateways use it."""
    assert "6530" not in shown(refuse(404, form.format(6530).encode()))


@pytest.mark.parametrize("key", ["type", "param", "code"])
def test_a_project_id_as_a_number_is_masked(key: str) -> None:
    """A project id is masked even as a number."""
    assert "6530" not in shown(refuse(404, {"error": {"message": "no", key: 6530}}))


CONTROLS = "".join(map(chr, [*range(32), *range(127, 160), 0x200B, 0x2028, 0x202E, 0x2066]))


@pytest.mark.parametrize(
    "body",
    [
        f"no {CONTROLS} no",
        f"<html><title>no {CONTROLS} no</title></html>",
        json.dumps({"error": {"message": CONTROLS, "type": CONTROLS, "param": CONTROLS, "code": CONTROLS}}),
        json.dumps({"object": "error", "message": f"no {CONTROLS}", "type": f"a{CONTROLS}"}),
        json.dumps({"detail": [{"loc": ["body", CONTROLS], "msg": f"no {CONTROLS}"}]}),
    ],
    ids=["text", "page", "nested", "flat", "fastapi"],
)
def test_control_characters_are_removed(body: str) -> None:
    """Messages are a single printable line, so they cannot control a terminal or forge log lines."""
    errors = [error_from_response(400, {"x-request-id": f"a{CONTROLS[1:9]}\x1b[2J"}, body.encode())]
    if body.startswith("{"):
        errors.append(error_from_frame(json.loads(body)))
    for error in errors:
        kept = error.body if isinstance(error.body, dict) else {"": error.body or ""}
        for text in (str(error), getattr(error, "request_id", ""), *map(str, kept.values())):
            assert text.isprintable()
