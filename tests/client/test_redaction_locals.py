"""What a tool finds that reports errors together with the locals of their frames, as Sentry does: no credential."""

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

from demo.replay import Received
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


@pytest.mark.parametrize("does", [does for does in SERVERS if does != "answers"])
@whole_and_streamed
@both_clients
def test_locals_of_an_error(monkeypatch: pytest.MonkeyPatch, driver: Driver, streamed: bool, does: str) -> None:
    """A tool that reports the locals of an error's frames finds no credential there, whatever the server repeats."""
    record_waits(monkeypatch)
    with Loopback(SERVERS[does]) as server:
        error = failure(driver, driver.make(**SETTINGS, base_url=server.url), streamed)
    assert hunted(error) == []


class Silent:
    """Says nothing, or nothing more, until it is let go."""

    def __init__(self, begun: bool) -> None:
        self.begun = begun
        self.asked, self.over = threading.Event(), threading.Event()

    def __call__(self, _: Received) -> Iterator[bytes]:
        yield STREAM_HEAD + event("In its ") if self.begun else b""
        self.asked.set()
        self.over.wait(5)


async def taken(url: str) -> None:
    """Take a stream to its end."""
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
    """Give a call less time than the server takes."""

    async def main() -> None:
        async with asyncio.timeout(0.2):
            await taken(url)

    asyncio.run(main())


def interrupted(url: str, silent: Silent) -> None:
    """Interrupt a call by Ctrl-C."""

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
    """What ends a call from outside leaves the engine's frames, which hold the request, out of its traceback."""
    silent = Silent(begun)
    with Loopback(silent) as server:
        with pytest.raises((KeyboardInterrupt, asyncio.CancelledError, TimeoutError)) as caught:
            how(server.url, silent)
        silent.over.set()
    assert hunted(caught.value) == []


@pytest.mark.parametrize("engine", [httpx, httpx2], ids=lambda engine: engine.__name__)
@pytest.mark.parametrize("fault", ["closed", "hook"])
def test_locals_of_a_fault_of_the_users_client(engine: Any, fault: str) -> None:
    """An error of a client that was passed in, or of its hooks, comes without the engine's frames too."""

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
    """A setting that is refused takes none of the others, nor itself, into a report of the error with its locals."""
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
    """That holds for arguments of a call too."""
    with pytest.raises(ConfigurationError) as caught:
        Client(**SETTINGS, base_url="https://host.invalid").complete(MESSAGES, **wrong)
    assert hunted(caught.value) == []


@pytest.mark.parametrize("name", ["extra_headers", "extra_query", "headers"])
def test_headers_of_a_call(name: str) -> None:
    """What other clients send as headers or query is refused, and does not end up in the body with its credentials."""
    with Loopback(echo) as server, pytest.raises(ConfigurationError, match=name) as caught:
        Client(**SETTINGS, base_url=server.url).complete(MESSAGES, **{name: {"x-key": KEY}})
    assert server.received == []
    assert leaked(shown(caught.value)) == []
