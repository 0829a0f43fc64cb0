"""The next call uses a setting that was changed on an existing model, and nothing else is recreated."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.fake_vllm import PRIVATE, Lab
from tests.support.server import Loopback, completion, record_waits, response
from tir_qwen import ConfigurationError, InternalServerError
from tir_qwen.testing import Request

Model = ChatTIRQwen | TIRQwen
FACES = pytest.mark.parametrize("face", [ChatTIRQwen, TIRQwen])


def ask(model: Model) -> str:
    """Return a whole answer."""
    return str(model.invoke("Hello").content) if isinstance(model, ChatTIRQwen) else model.complete("Hello").text


async def aask(model: Model) -> str:
    """Return a whole answer, asynchronously."""
    if isinstance(model, ChatTIRQwen):
        return str((await model.ainvoke("Hello")).content)
    return (await model.acomplete("Hello")).text


def ask_twice(model: Model) -> None:
    """Call the model once with each client."""
    assert ask(model) == asyncio.run(aask(model)) == "Good day!"


def answer(_: Request) -> Iterator[bytes]:
    """Return the same answer to every request."""
    yield completion("Good day!")


@FACES
def test_a_project_of_the_environment_that_has_changed(face: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project id that nobody passed gives way to that of the URL, whatever becomes of the environment."""
    monkeypatch.setenv("E2E_TIR_PROJECT_ID", "1111")
    with Loopback(answer) as server:
        address = "base_url" if face is ChatTIRQwen else "api_base"
        model = face(**{address: f"{server.url}/project/p-2222/genai/qwen3_32b/v1"})
        monkeypatch.delenv("E2E_TIR_PROJECT_ID")
        model.adaptive_limit = False
        for one in (model, copy.deepcopy(model), model.model_copy(), pickle.loads(pickle.dumps(model))):
            ask_twice(one)
    assert {one.target for one in server.requests} == {"/project/p-2222/genai/qwen3_32b/v1/chat/completions"}


@dataclass(frozen=True)
class Seen:
    """The settings as the server sees them."""

    token: str = "Bearer old-token"
    target: str = "/project/p-1111/genai/qwen3_32b/v1/chat/completions?project_id=1111"
    tenant: str | None = "old"


def seen(server: Loopback) -> list[Seen]:
    """Return what the server has seen since the last check."""
    requests, server.requests = server.requests, []
    return [Seen(one.headers["authorization"], one.target, one.headers.get("x-tenant")) for one in requests]


def made(face: type[Model], server: Loopback, **settings: Any) -> Model:
    """Return a model of a local server."""
    known = {"project_id": "1111", "access_token": "old-token", "default_headers": {"X-Tenant": "old"}}
    return face(**{**known, "base_url": server.url, **settings})


def assigned(model: Any, update: dict[str, Any]) -> Model:
    """Change the model itself, and return it."""
    for name, value in update.items():
        setattr(model, name, value)
    return model


def copied(model: Any, update: dict[str, Any]) -> Model:
    """Return a changed copy."""
    return model.model_copy(update=update)


CHANGING = pytest.mark.parametrize("changed", [assigned, copied])


def token(face: type[Model], value: str) -> dict[str, Any]:
    """Return the token under the name that the integration uses."""
    return {"access_token": SecretStr(value)} if face is ChatTIRQwen else {"api_key": value}


def address(face: type[Model], value: str) -> dict[str, Any]:
    """Return the base URL under the name that the integration uses."""
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
def test_the_next_call_uses_the_changed_setting(face: type[Model], changed: Callable[..., Model], change: str) -> None:
    """The next call uses a changed setting, with either client."""
    update, expected = CHANGES[change]
    with Loopback(answer) as server:
        model = made(face, server)
        ask_twice(model)
        ask_twice(changed(model, update(face)))
        assert seen(server) == [Seen(), Seen(), expected, expected]


@pytest.mark.parametrize("change", CHANGES)
@FACES
def test_original_of_a_copy(face: type[Model], change: str) -> None:
    """The original of a changed copy keeps its settings and its connection."""
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
def test_a_changed_address_is_used_at_once(face: type[Model], changed: Callable[..., Model]) -> None:
    """A model whose address has changed calls the new server, and no longer the old one."""
    with Loopback(answer) as old, Loopback(answer) as new:
        model = made(face, old)
        ask_twice(model)
        ask_twice(changed(model, address(face, new.url)))
        assert (len(old.requests), len(new.requests)) == (2, 2)


@CHANGING
@FACES
def test_a_changed_retry_limit_is_used_at_once(
    face: type[Model], changed: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed number of retries applies from the next call on."""
    record_waits(monkeypatch)
    with Loopback(lambda _: [response({"error": "busy"}, "503 Service Unavailable")]) as server:
        model = changed(made(face, server, max_retries=1), {"max_retries": 3})
        with pytest.raises(InternalServerError):
            ask(model)
        sent = len(server.requests)
        with pytest.raises(InternalServerError):
            asyncio.run(aask(model))
        assert (sent, len(server.requests)) == (4, 8)


@CHANGING
@FACES
def test_a_changed_http_client_is_used_at_once(face: type[Model], changed: Callable[..., Model]) -> None:
    """A custom client that is set later is used for the next call."""
    first, second = Lab("From the first"), Lab("From the second")
    model = face(**PRIVATE, http_client=first.client())
    before = ask(model)
    assert (before, ask(changed(model, {"http_client": second.client()}))) == ("From the first", "From the second")


@CHANGING
@FACES
def test_async_http_client(face: type[Model], changed: Callable[..., Model]) -> None:
    """A custom asynchronous client that is set later is used for the next asynchronous call."""
    name = "http_async_client" if face is ChatTIRQwen else "async_http_client"
    first, second = Lab("From the first"), Lab("From the second")
    model = face(**PRIVATE, **{name: first.async_client()})
    before = asyncio.run(aask(model))
    after = asyncio.run(aask(changed(model, {name: second.async_client()})))
    assert (before, after) == ("From the first", "From the second")


@FACES
def test_unchanged_settings_share_a_connection(face: type[Model]) -> None:
    """Calls with unchanged settings share one connection, even if the temperature differs."""

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
def test_assigning_the_same_value_keeps_the_connection(face: type[Model]) -> None:
    """Assigning the values that a model already has keeps its connection."""
    with Loopback(answer) as server:
        model = made(face, server)
        ask(model)
        update = {**token(face, "old-token"), "default_headers": {"X-Tenant": "old"}, "project_id": "1111"}
        assert ask(assigned(model, update)) == "Good day!"
        assert server.connections == 1


@FACES
def test_old_connection(face: type[Model]) -> None:
    """The connection is closed once no model uses its settings any more."""
    with Loopback(answer) as server:
        model = made(face, server)
        ask(model)
        ask(assigned(model, token(face, "new-token")))
        assert server.noticed()


@FACES
def test_a_wrong_value_is_rejected_until_it_is_corrected(face: type[Model]) -> None:
    """A wrong value is rejected before anything is sent, and correcting it makes the model work again."""
    with Loopback(answer) as server:
        model = made(face, server)
        with pytest.raises(ConfigurationError, match="project_id"):
            ask(assigned(model, {"project_id": "twelve"}))
        assert server.requests == []
        assert ask(assigned(model, {"project_id": "1111"})) == "Good day!"


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("kind", COPIES)
@FACES
def test_copies_of_a_changed_model(face: type[Model], kind: str) -> None:
    """A pickle or copy of a changed model has the changed settings, and can be changed independently."""
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


def refusing(request: Request) -> Iterator[bytes]:
    """Answer like a server that rejects the thinking switch."""
    if "chat_template_kwargs" in request.json():
        yield response({"error": {"message": "Unrecognized request argument: chat_template_kwargs"}}, "400 Bad Request")
    else:
        yield completion("Good day!")


def tries(server: Loopback) -> list[bool]:
    """Return for each new request whether it used what the server rejects."""
    requests, server.requests = server.requests, []
    return ["chat_template_kwargs" in request.json() for request in requests]


@FACES
def test_clients_share_what_they_learn(face: type[Model]) -> None:
    """What one client learns about the endpoint is known to the other, until a setting changes."""
    with Loopback(refusing) as server:
        model = made(face, server, enable_thinking=False)
        ask_twice(model)
        ask_twice(model)
        assert tries(server) == [True, False, False, False, False]
        ask_twice(assigned(model, token(face, "new-token")))
        assert tries(server) == [True, False, False]


@FACES
def test_learnt_asynchronously(face: type[Model]) -> None:
    """What the asynchronous client has learned is known to the synchronous one."""
    with Loopback(refusing) as server:
        model = made(face, server, enable_thinking=False)
        asyncio.run(aask(model))
        ask(model)
        assert tries(server) == [True, False, False]


@pytest.mark.parametrize("kind", ["deepcopy", "copy"])
@FACES
def test_learnt_in_copies(face: type[Model], kind: str) -> None:
    """A copy knows what the model has learned, with either client."""
    with Loopback(refusing) as server:
        model = made(face, server, enable_thinking=False)
        ask(model)
        ask_twice(COPIES[kind](model))
        assert tries(server) == [True, False, False, False]


@FACES
def test_learnt_by_a_changed_copy(face: type[Model]) -> None:
    """A copy with another setting learns on its own, and the original keeps what it knows."""
    with Loopback(refusing) as server:
        model = made(face, server, enable_thinking=False)
        ask(model)
        ask_twice(copied(model, token(face, "new-token")))
        ask(model)
        assert tries(server) == [True, False, True, False, False, False]
