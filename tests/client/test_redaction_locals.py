"""Tools that report errors with the local variables of each frame, such as Sentry, find no credentials."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import httpx2
import pytest

from tests.support.secrets import HEADER, KEY, PROJECT, SERVERS, SETTINGS, TOKEN, hunted, leaked, shown
from tests.support.server import (
    MESSAGES,
    STREAM_HEAD,
    Driver,
    Loopback,
    both_clients,
    echo,
    event,
    failure,
    record_waits,
    whole_and_streamed,
)
from tir_qwen import AsyncClient, Client, ConfigurationError, TIRError
from tir_qwen.testing import Request


@pytest.mark.parametrize("does", [does for does in SERVERS if does != "answers"])
@whole_and_streamed
@both_clients
def test_locals_of_an_error(monkeypatch: pytest.MonkeyPatch, driver: Driver, streamed: bool, does: str) -> None:
    """The locals in an error's traceback contain no credentials, whatever the server repeats."""
    record_waits(monkeypatch)
    with Loopback(SERVERS[does]) as server:
        error = failure(driver, driver.make(**SETTINGS, base_url=server.url), streamed)
    assert hunted(error) == []


class Silent:
    """A server that says nothing, or stops after the first delta, until released."""

    def __init__(self, begun: bool) -> None:
        self.begun = begun
        self.asked, self.over = threading.Event(), threading.Event()

    def __call__(self, _: Request) -> Iterator[bytes]:
        yield STREAM_HEAD + event("In its ") if self.begun else b""
        self.asked.set()
        self.over.wait(5)


async def taken(url: str) -> None:
    """Read a stream to its end."""
    async for _ in AsyncClient(**SETTINGS, base_url=url).stream(MESSAGES):
        pass


def cancelled(url: str, silent: Silent) -> None:
    """Cancel the task of a call."""

    async def main() -> None:
        task = asyncio.create_task(taken(url))
        await asyncio.to_thread(silent.asked.wait, 5)
        await asyncio.sleep(0.05)
        task.cancel()
        await task

    asyncio.run(main())


def timed_out(url: str, _: Silent) -> None:
    """Give a call less time than the server needs."""

    async def main() -> None:
        async with asyncio.timeout(0.2):
            await taken(url)

    asyncio.run(main())


def interrupted(url: str, silent: Silent) -> None:
    """Interrupt a call with Ctrl-C."""

    def interrupt() -> None:
        silent.asked.wait(5)
        time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.get_ident()
    threading.Thread(target=interrupt).start()
    for _ in Client(**SETTINGS, base_url=url).stream(MESSAGES):
        pass


@pytest.mark.parametrize("begun", [False, True], ids=["before the answer", "within it"])
@pytest.mark.parametrize("how", [cancelled, timed_out, interrupted], ids=lambda how: how.__name__)
def test_locals_of_an_interruption(how: Callable[..., Any], begun: bool) -> None:
    """The traceback of an interrupted call omits the HTTP library's frames, whose locals hold the request."""
    silent = Silent(begun)
    with Loopback(silent) as server:
        with pytest.raises((KeyboardInterrupt, asyncio.CancelledError, TimeoutError)) as caught:
            how(server.url, silent)
        silent.over.set()
    assert hunted(caught.value) == []


@pytest.mark.parametrize("engine", [httpx, httpx2], ids=lambda engine: engine.__name__)
@pytest.mark.parametrize("fault", ["closed", "hook"])
def test_locals_of_a_fault_of_the_users_client(engine: Any, fault: str) -> None:
    """Errors raised by a user's HTTP client or its hooks also omit the HTTP library's frames."""

    def fail(_: Any) -> None:
        raise LookupError("mine")

    with Loopback(echo) as server, engine.Client(event_hooks={"request": [fail]}) as given:
        if fault == "closed":
            given.close()
        with pytest.raises((LookupError, RuntimeError, TIRError)) as caught:
            Client(**SETTINGS, base_url=server.url, http_client=given).complete(MESSAGES)
    assert hunted(caught.value) == []


WRONG: dict[str, dict[str, Any]] = {
    "retries": {"max_retries": -1},
    "timeout": {"timeout": -1},
    "address": {"base_url": f"ftp://{TOKEN}"},
    "another token": {"access_token": f"{TOKEN}\n1"},
    "another project": {"project_id": f"{PROJECT}x"},
    "another key": {"apikey": f"{KEY}\0"},
    "another header": {"default_headers": {"X-Team": f"{HEADER}\r\nx-evil: 1"}},
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_locals_of_a_refused_setting(make: type[Client], wrong: str) -> None:
    """The error for an invalid setting exposes neither its value nor the other settings in its locals."""
    with pytest.raises(ConfigurationError) as caught:
        make(**{**SETTINGS, "base_url": "https://host.invalid", **WRONG[wrong]})
    assert hunted(caught.value) == []


WRONG_CALLS: list[dict[str, Any]] = [
    {"model": ".."},
    {"temperature": float("nan")},
    {"extra_body": 3},
    {"timeout": -1},
    {"max_retries": -1},
    {"access_token": "x"},
    {"tool_calling": "x"},
    {"logit_bias": object()},
]


@pytest.mark.parametrize("wrong", WRONG_CALLS, ids=lambda wrong: next(iter(wrong)))
def test_locals_of_a_refused_call(wrong: dict[str, Any]) -> None:
    """The error for an invalid call argument exposes no credentials in its locals."""
    with pytest.raises(ConfigurationError) as caught:
        Client(**SETTINGS, base_url="https://host.invalid").complete(MESSAGES, **wrong)
    assert hunted(caught.value) == []


@pytest.mark.parametrize("name", ["extra_headers", "extra_query", "headers"])
def test_headers_of_a_call(name: str) -> None:
    """Arguments for extra headers or queries are rejected rather than sent in the body with their credentials."""
    with Loopback(echo) as server, pytest.raises(ConfigurationError, match=name) as caught:
        Client(**SETTINGS, base_url=server.url).complete(MESSAGES, **{name: {"x-key": KEY}})
    assert server.requests == []
    assert leaked(shown(caught.value)) == []
