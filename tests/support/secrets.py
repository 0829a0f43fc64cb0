"""Secrets, and everything that an error, a log or an object reveals."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint
import reprlib
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT, TESTS
from tests.support.server import (
    END,
    QUESTION,
    STREAM_HEAD,
    HangUpError,
    chunk,
    completion,
    event,
    response,
    stream,
)
from tir_qwen.testing import Request

TOKEN = "eyJhbGciOiJIUzI1NiJ9.canary.c2lnbmF0dXJl"
PROJECT = "8653097"
KEY = "key-canary-0815"
HEADER = "header-canary"
CREDENTIALS = (TOKEN, PROJECT, KEY, HEADER, "eyJhbGciOiJIUzI1NiJ9")
SECRETS = (*CREDENTIALS, QUESTION)
SETTINGS: dict[str, Any] = {
    "project_id": f"p-{PROJECT}",
    "access_token": TOKEN,
    "apikey": KEY,
    "default_headers": {"X-Team": HEADER},
}
"""Settings of a client or of a face that hold all of them but the question."""

NOT_OURS = (str(TESTS), str(ROOT / "tir_qwen" / "testing"))
ENGINES = ("httpx", "httpx2", "httpcore", "httpcore2", "h11", "anyio")


def leaked(text: str, secrets: Iterable[str] = SECRETS) -> list[str]:
    """Return the secrets that a text contains."""
    return [secret for secret in secrets if secret in text]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error with all its causes and contexts."""
    if error is not None:
        yield error
        yield from chain(error.__cause__)
        yield from chain(error.__context__)


def written(thing: Any) -> str:
    """Return an object as print, format and debuggers show it."""
    return "\n".join([repr(thing), str(thing), f"{thing}", pprint.pformat(thing), reprlib.repr(thing)])


def shown(error: BaseException) -> str:
    """Return everything that an error shows to a reader or to a reporting tool."""
    parts = ["".join(traceback.format_exception(error))]
    for each in chain(error):
        parts += [written(each), repr(each.args), repr(vars(each)), repr(pickle.dumps(each))]
        parts.append(written(copy.deepcopy(each)))
    return "\n".join(parts)


def frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    """Yield the frames of an error, its causes and contexts, with their locals, except for frames of tests."""
    for each in chain(error):
        stack = traceback.TracebackException(type(each), each, each.__traceback__, capture_locals=True).stack
        yield from (frame for frame in stack if not frame.filename.startswith(NOT_OURS))


def in_frames(error: BaseException, secrets: Iterable[str] = CREDENTIALS) -> list[str]:
    """Return where a tool that reports local variables finds secrets: `file function local`."""
    return sorted(
        {
            f"{Path(frame.filename).name} {frame.name} {name}"
            for frame in frames(error)
            for name, value in (frame.locals or {}).items()
            if leaked(value, secrets)
        }
    )


def engines_frames(error: BaseException) -> list[str]:
    """Return the frames of the HTTP engine in an error; their locals contain the request."""
    parts = [(frame, Path(frame.filename).parts) for frame in frames(error)]
    return [f"{'/'.join(path[-2:])} {frame.name}" for frame, path in parts if not {*ENGINES}.isdisjoint(path)]


def hunted(error: BaseException) -> list[str]:
    """Return where an error reveals secrets, in its text or in the locals of its frames."""
    found = leaked("\n".join(written(each) for each in chain(error)))
    return [*found, *in_frames(error), *engines_frames(error)]


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """Return everything that was logged, as text and as records."""
    formatter = logging.Formatter()
    return "\n".join(f"{formatter.format(record)} {vars(record)}" for record in caplog.records)


def gossip(request: Request) -> str:
    """Return everything that a server knows about a request, except the question."""
    return (
        f"no {request.headers['authorization']} {request.headers['x-team']} at {request.target} p-{PROJECT} {PROJECT}"
    )


def validation(request: Request) -> list[bytes]:
    """Return an error of vLLM 0.9, which quotes the request."""
    said = [{"type": "x", "loc": ("body", "n"), "msg": gossip(request), "input": request.json()}]
    return [response({"object": "error", "message": str(said), "code": 400}, "400 Bad Request")]


def frame(request: Request) -> list[bytes]:
    """Return an answer that ends with an error."""
    error = {"error": {"message": gossip(request), "code": 400}}
    return [STREAM_HEAD + event("In its ") + chunk(b"data: " + json.dumps(error).encode() + b"\n\n") + END]


def hang_up(request: Request) -> Iterator[bytes]:
    """Hang up without an answer."""
    yield b""
    raise HangUpError


def breaking_off(raw: bytes, _: Request) -> Iterator[bytes]:
    """Return an answer that breaks off."""
    yield raw
    raise HangUpError


SERVERS: dict[str, Callable[[Request], Any]] = {
    "answers": lambda request: [stream("Hi") if request.json()["stream"] else completion("Hi")],
    "refuses": validation,
    "forbids": lambda request: [response(gossip(request).encode(), "403 Forbidden")],
    "fails": lambda request: [response({"error": gossip(request)}, "503 Service Unavailable")],
    "fails with a page": lambda request: [response(f"<html><title>{gossip(request)}".encode(), "502 Bad Gateway")],
    "moves": lambda _: [response(b"", "307 Temporary Redirect", location="/elsewhere")],
    "gives up": frame,
    "breaks off": partial(breaking_off, STREAM_HEAD + event("In its ")),
    "breaks off within its gossip": partial(
        breaking_off, response(b"no " + TOKEN.encode(), "401 Unauthorized")[: -len(TOKEN) // 2]
    ),
    "writes nonsense": lambda request: [STREAM_HEAD + chunk(b"data: {" + gossip(request).encode() + b"\n\n") + END],
    "hangs up": hang_up,
}
