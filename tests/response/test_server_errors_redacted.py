"""Errors repeat nothing of what was sent, whatever a server repeats."""

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
    """All that an error shows or carries, wherever it goes."""
    assert [*chain(error)] == [error]
    return all_that_shows(error)


def texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)


def refuse(status: int, body: Any, **headers: str) -> APIStatusError:
    """The error for a body: bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    return error_from_response(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, content, SECRETS
    )


def test_no_recorded_refusal_repeats_the_question() -> None:
    """The question that vLLM up to 0.13 echoes in its refusal is nowhere in the error."""
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
    """As vLLM's model of a request: validation fails, and the complaint quotes the input."""

    messages: list[dict[str, int]]
    n: int


def complaints(text: str) -> Iterator[tuple[str, bytes]]:
    """How the versions of vLLM and FastAPI say that a request with this text is wrong."""
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
def test_no_echo_whatever_the_question(text: str, data: st.DataObject) -> None:
    """However a question is worded, quoted and cut, an error repeats nothing of it."""
    question = f"canary {text} canary"
    for name, body in complaints(question):
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
def test_credentials_are_blackened(form: str, echo: str) -> None:
    """A credential that a server repeats shows nowhere in the error."""
    said = form.format(echo)
    assert not [secret for secret in SECRETS if secret in shown(refuse(401, said.encode()))]
    assert "***" in str(refuse(401, said.encode()))
    if said.startswith("{"):
        error = error_from_frame(json.loads(said), SECRETS)
        assert isinstance(error, ServerStreamError)
        assert not [secret for secret in SECRETS if secret in shown(error)]


def test_credential_in_a_request_id() -> None:
    """A gateway that builds its request ids of the project's id does not give it away."""
    assert refuse(500, b"", x_request_id="p-6530/abc").request_id == "***/abc"


def test_blackening_spares_other_words() -> None:
    """Only the credential itself is blackened: longer numbers and words that hold it say something else."""
    assert (
        str(refuse(400, b"65301 of 16530 tokens for p-6530x")) == "400 Bad Request: 65301 of 16530 tokens for p-6530x"
    )


@pytest.mark.parametrize("key", ["type", "param", "code"])
def test_other_fields_of_a_body(key: str) -> None:
    """What holds for the message holds for the other fields of a body: no credential, no flood."""
    for nested in (True, False):
        for value in (f"no {TOKEN}", "x" * 60_000):
            fields = {"message": "no", key: value}
            for error in (
                refuse(401, {"error": fields} if nested else fields),
                error_from_frame({"error": fields}, SECRETS),
            ):
                assert "canary" not in shown(error)
                assert len(repr(error.body)) <= 2 * MAX_TEXT


def test_credential_at_the_cut() -> None:
    """A token that stands where a long message is cut does not leave its first half there."""
    for body in (b"x " * 240 + TOKEN.encode(), b"<html><title>" + b"x " * 240 + TOKEN.encode() + b"</title>"):
        assert TOKEN[:10] not in shown(refuse(401, body))


def test_no_echo_in_a_cut_body_of_fastapi() -> None:
    """A refusal that is too long to be read whole, and hence is no JSON any more, repeats nothing either."""
    (body,) = [body for name, body in complaints("canary " * 20_000) if name == "fastapi"]
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
def test_credentials_in_any_writing(kind: str, writing: str) -> None:
    """However a server writes a credential that it repeats, and wherever the text is cut, it shows nowhere."""
    value, canaries = VALUES[kind]
    settings = {"key": {"apikey": value}, "header": {"headers": {"X-Auth": value}}, "token": {"access_token": value}}
    endpoint = resolve_endpoint(**{"project_id": 6530, "access_token": "other-token", **settings[kind]})
    said = f"no {WRITINGS[writing](value)} here"
    for body in (said, json.dumps({"message": said}), f"<html><title>{said}</title></html>"):
        error = error_from_response(401, {"x-request-id": said}, body.encode(), endpoint.secrets)
        assert [canary for canary in canaries if canary in shown(error)] == []
    whole = error_from_frame({"error": {"message": said, "code": said}}, endpoint.secrets)
    assert [canary for canary in canaries if canary in shown(whole)] == []


def test_token_that_is_cut() -> None:
    """A connection that breaks within a repeated token does not leave its first half in the error."""
    for length in range(8, len(TOKEN)):
        assert str(refuse(401, f"no {TOKEN[:length]}".encode())).startswith("401 Unauthorized: no *** ")


@pytest.mark.parametrize("form", ["project_{}", "project{}", "p{}", "tir_{}_x", "{}_qwen", "p-{}.x"])
def test_project_in_a_word(form: str) -> None:
    """A project's id shows nowhere either as a part of a name, which is how gateways use it."""
    assert "6530" not in shown(refuse(404, form.format(6530).encode()))


@pytest.mark.parametrize("key", ["type", "param", "code"])
def test_project_as_a_number(key: str) -> None:
    """A project's id that a server repeats as a number shows nowhere either."""
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
def test_no_control_character(body: str) -> None:
    """A server's text is one printable line: it neither steers a terminal nor forges a line of a log."""
    errors = [error_from_response(400, {"x-request-id": f"a{CONTROLS[1:9]}\x1b[2J"}, body.encode())]
    if body.startswith("{"):
        errors.append(error_from_frame(json.loads(body)))
    for error in errors:
        kept = error.body if isinstance(error.body, dict) else {"": error.body or ""}
        for text in (str(error), getattr(error, "request_id", ""), *map(str, kept.values())):
            assert text.isprintable()
