"""A setting that is changed after the model was made: the next call uses it, and nothing else is made anew."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from demo.replay import Received
from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.fake_vllm import PRIVATE, Lab
from tests.support.server import Loopback, completion, record_waits, response
from tir_qwen import ConfigurationError, InternalServerError

Model = ChatTIRQwen | TIRQwen
FACES = pytest.mark.parametrize("face", [ChatTIRQwen, TIRQwen])


def ask(model: Model) -> str:
    """A whole answer."""
    return str(model.invoke("Hello").content) if isinstance(model, ChatTIRQwen) else model.complete("Hello").text


async def aask(model: Model) -> str:
    """As `ask`."""
    if isinstance(model, ChatTIRQwen):
        return str((await model.ainvoke("Hello")).content)
    return (await model.acomplete("Hello")).text


def ask_twice(model: Model) -> None:
    """Once by each client."""
    assert ask(model) == asyncio.run(aask(model)) == "Good day!"


def answer(_: Received) -> Iterator[bytes]:
    """Always the same."""
    yield completion("Good day!")


@dataclass(frozen=True)
class Seen:
    """What the server sees of the settings."""

    token: str = "Bearer old-token"
    target: str = "/project/p-1111/genai/qwen3_32b/v1/chat/completions?project_id=1111"
    tenant: str | None = "old"


def seen(server: Loopback) -> list[Seen]:
    """What it has seen since the last time."""
    requests, server.received = server.received, []
    return [Seen(one.headers["authorization"], one.target, one.headers.get("x-tenant")) for one in requests]


def made(face: type[Model], server: Loopback, **settings: Any) -> Model:
    """A model of a host on this machine."""
    known = {"project_id": "1111", "access_token": "old-token", "default_headers": {"X-Tenant": "old"}}
    return face(**{**known, "base_url": server.url, **settings})


def assigned(model: Any, update: dict[str, Any]) -> Model:
    """The model itself, changed."""
    for name, value in update.items():
        setattr(model, name, value)
    return model


def copied(model: Any, update: dict[str, Any]) -> Model:
    """A copy, changed."""
    return model.model_copy(update=update)


CHANGING = pytest.mark.parametrize("changed", [assigned, copied])


def token(face: type[Model], value: str) -> dict[str, Any]:
    """The token under the face's name."""
    return {"access_token": SecretStr(value)} if face is ChatTIRQwen else {"api_key": value}


def address(face: type[Model], value: str) -> dict[str, Any]:
    """The base URL under the face's name."""
    return {"base_url" if face is ChatTIRQwen else "api_base": value}


CHANGES: dict[str, tuple[Callable[[type[Model]], dict[str, Any]], Seen]] = {
    "token": (lambda face: token(face, "new-token"), Seen(token="Bearer new-token")),
    "token as plain text": (
        lambda face: {"access_token" if face is ChatTIRQwen else "api_key": "new-token"},
        Seen(token="Bearer new-token"),
    ),
    "project_id": (
        lambda _: {"project_id": 2222},
        Seen(target="/project/p-2222/genai/qwen3_32b/v1/chat/completions?project_id=2222"),
    ),
    "model": (
        lambda _: {"model": "other"},
        Seen(target="/project/p-1111/genai/other/v1/chat/completions?project_id=1111"),
    ),
    "apikey": (
        lambda _: {"apikey": "new-key"},
        Seen(target="/project/p-1111/genai/qwen3_32b/v1/chat/completions?project_id=1111&apikey=new-key"),
    ),
    "default_headers": (lambda _: {"default_headers": {"X-Tenant": "new"}}, Seen(tenant="new")),
    "no headers": (lambda _: {"default_headers": None}, Seen(tenant=None)),
}


@pytest.mark.parametrize("change", CHANGES)
@CHANGING
@FACES
def test_next_call(face: type[Model], changed: Callable[..., Model], change: str) -> None:
    """The next call uses what a setting has been changed to, whichever client makes it."""
    update, expected = CHANGES[change]
    with Loopback(answer) as server:
        model = made(face, server)
        ask_twice(model)
        ask_twice(changed(model, update(face)))
        assert seen(server) == [Seen(), Seen(), expected, expected]


@pytest.mark.parametrize("change", CHANGES)
@FACES
def test_original_of_a_copy(face: type[Model], change: str) -> None:
    """The original of a changed copy goes on as it was, over the connection that it had."""
    update, expected = CHANGES[change]
    with Loopback(answer) as server:
        model = made(face, server)
        ask(model)
        twin = copied(model, update(face))
        ask(twin)
        ask(model)
        ask(twin)
        assert seen(server) == [Seen(), expected, Seen(), expected]
        assert server.connections == 2


@CHANGING
@FACES
def test_address(face: type[Model], changed: Callable[..., Model]) -> None:
    """After its address has changed, a model asks the new server and no longer the old one."""
    with Loopback(answer) as old, Loopback(answer) as new:
        model = made(face, old)
        ask_twice(model)
        ask_twice(changed(model, address(face, new.url)))
        assert (len(old.received), len(new.received)) == (2, 2)


@CHANGING
@FACES
def test_max_retries(face: type[Model], changed: Callable[..., Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed number of retries holds from the next call on."""
    record_waits(monkeypatch)
    with Loopback(lambda _: [response({"error": "busy"}, "503 Service Unavailable")]) as server:
        model = changed(made(face, server, max_retries=1), {"max_retries": 3})
        with pytest.raises(InternalServerError):
            ask(model)
        sent = len(server.received)
        with pytest.raises(InternalServerError):
            asyncio.run(aask(model))
        assert (sent, len(server.received)) == (4, 8)


@CHANGING
@FACES
def test_http_client(face: type[Model], changed: Callable[..., Model]) -> None:
    """A client of the user's own that is set later makes the next call."""
    first, second = Lab("From the first"), Lab("From the second")
    model = face(**PRIVATE, http_client=first.client())
    before = ask(model)
    assert (before, ask(changed(model, {"http_client": second.client()}))) == ("From the first", "From the second")


@CHANGING
@FACES
def test_async_http_client(face: type[Model], changed: Callable[..., Model]) -> None:
    """An asynchronous client of the user's own that is set later makes the next asynchronous call."""
    name = "http_async_client" if face is ChatTIRQwen else "async_http_client"
    first, second = Lab("From the first"), Lab("From the second")
    model = face(**PRIVATE, **{name: first.async_client()})
    before = asyncio.run(aask(model))
    after = asyncio.run(aask(changed(model, {name: second.async_client()})))
    assert (before, after) == ("From the first", "From the second")


@FACES
def test_unchanged(face: type[Model]) -> None:
    """Calls with unchanged settings share one connection, also those of another temperature."""

    async def three(model: Model) -> list[str]:
        return [await aask(model) for _ in range(3)]

    with Loopback(answer) as server:
        model = made(face, server)
        assert [ask(model) for _ in range(3)] == ["Good day!"] * 3
        assigned(model, {"temperature": 0.5})
        assert ask(model) == ask(copied(model, {"temperature": 0.6})) == "Good day!"
        assert server.connections == 1
        assert asyncio.run(three(model)) == ["Good day!"] * 3
        assert server.connections == 2


@FACES
def test_same_value(face: type[Model]) -> None:
    """Assigning the values that a model has keeps its connection."""
    with Loopback(answer) as server:
        model = made(face, server)
        ask(model)
        update = {**token(face, "old-token"), "default_headers": {"X-Tenant": "old"}, "project_id": "1111"}
        assert ask(assigned(model, update)) == "Good day!"
        assert server.connections == 1


@FACES
def test_old_connection(face: type[Model]) -> None:
    """The connection of a setting that nobody uses any more closes."""
    with Loopback(answer) as server:
        model = made(face, server)
        ask(model)
        ask(assigned(model, token(face, "new-token")))
        assert server.noticed()


@FACES
def test_wrong_value(face: type[Model]) -> None:
    """A wrong value is refused before anything is sent, and a right one mends the model."""
    with Loopback(answer) as server:
        model = made(face, server)
        with pytest.raises(ConfigurationError, match="project_id"):
            ask(assigned(model, {"project_id": "twelve"}))
        assert server.received == []
        assert ask(assigned(model, {"project_id": "1111"})) == "Good day!"


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("kind", COPIES)
@FACES
def test_copies_of_a_changed_model(face: type[Model], kind: str) -> None:
    """A pickle or copy of a changed model asks as that does, and can be changed without it."""
    with Loopback(answer) as server:
        model = made(face, server)
        ask(model)
        assigned(model, token(face, "new-token"))
        twin = COPIES[kind](model)
        ask_twice(twin)
        ask(assigned(twin, token(face, "third-token")))
        ask(model)
        tokens = ["old-token", "new-token", "new-token", "third-token", "new-token"]
        assert seen(server) == [Seen(token=f"Bearer {one}") for one in tokens]


def refusing(request: Received) -> Iterator[bytes]:
    """A server that does not take the thinking switch."""
    if "chat_template_kwargs" in request.json():
        yield response({"error": {"message": "Unrecognized request argument: chat_template_kwargs"}}, "400 Bad Request")
    else:
        yield completion("Good day!")


def tries(server: Loopback) -> list[bool]:
    """Of each request since the last time: whether it tried what the server refuses."""
    requests, server.received = server.received, []
    return ["chat_template_kwargs" in request.json() for request in requests]


@FACES
def test_learnt(face: type[Model]) -> None:
    """What one client has learnt of the endpoint the other knows too, until a setting changes."""
    with Loopback(refusing) as server:
        model = made(face, server, enable_thinking=False)
        ask_twice(model)
        ask_twice(model)
        assert tries(server) == [True, False, False, False, False]
        ask_twice(assigned(model, token(face, "new-token")))
        assert tries(server) == [True, False, False]


@FACES
def test_learnt_asynchronously(face: type[Model]) -> None:
    """What the asynchronous client has learnt, the synchronous one knows."""
    with Loopback(refusing) as server:
        model = made(face, server, enable_thinking=False)
        asyncio.run(aask(model))
        ask(model)
        assert tries(server) == [True, False, False]


@pytest.mark.parametrize("kind", ["deepcopy", "copy"])
@FACES
def test_learnt_in_copies(face: type[Model], kind: str) -> None:
    """A copy knows what the model has learnt, with both clients."""
    with Loopback(refusing) as server:
        model = made(face, server, enable_thinking=False)
        ask(model)
        ask_twice(COPIES[kind](model))
        assert tries(server) == [True, False, False, False]


@FACES
def test_learnt_by_a_changed_copy(face: type[Model]) -> None:
    """A copy with another setting learns for itself, and the original keeps what it knows."""
    with Loopback(refusing) as server:
        model = made(face, server, enable_thinking=False)
        ask(model)
        ask_twice(copied(model, token(face, "new-token")))
        ask(model)
        assert tries(server) == [True, False, True, False, False, False]
