"""Both clients behind one interface: calls are made together, by threads or by tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Protocol, TypeVar

from tir_qwen import AsyncClient, Client, Timeout, TIRError

from .outcomes import Ask, Call

_Result = TypeVar("_Result")
TIMEOUT = Timeout(connect=5, first_delta=20, between_deltas=20)


class Caller(Protocol):
    """Makes calls with one client for each base URL."""

    def make(self, asks: list[Ask]) -> list[Call]:
        """Make calls, all at once; return what came of them."""

    def close(self) -> None:
        """Close the clients."""


class SyncCaller:
    """`Client`, with a thread for each call."""

    def __init__(self, timeout: Timeout = TIMEOUT, max_retries: int = 2) -> None:
        self._client: Callable[[str], Client] = cache(
            lambda url: Client(1, "token", base_url=url, timeout=timeout, max_retries=max_retries)
        )
        self._urls: set[str] = set()

    def make(self, asks: list[Ask]) -> list[Call]:
        """See `Caller`."""
        self._urls.update(ask.url for ask in asks)
        with ThreadPoolExecutor(len(asks)) as threads:
            return list(threads.map(self._make, asks))

    def close(self) -> None:
        """See `Caller`."""
        for url in self._urls:
            self._client(url).close()

    def _make(self, ask: Ask) -> Call:
        call = Call(ask)

        def on_retry(_: TIRError, __: float) -> None:
            call.retries += 1

        time.sleep(ask.after)
        began = time.monotonic()
        try:
            client = self._client(ask.url)
            if ask.streamed:
                for delta in client.stream(ask.messages, on_retry=on_retry):
                    call.hear(delta.content)
            else:
                call.hear(client.complete(ask.messages, on_retry=on_retry).content)
        except Exception as error:  # noqa: BLE001 - it is the outcome
            call.error = error
        call.seconds = time.monotonic() - began
        return call


class AsyncCaller:
    """`AsyncClient`, in an event loop that runs between the calls too, as in a web server."""

    def __init__(self, timeout: Timeout = TIMEOUT, max_retries: int = 2) -> None:
        self._client: Callable[[str], AsyncClient] = cache(
            lambda url: AsyncClient(1, "token", base_url=url, timeout=timeout, max_retries=max_retries)
        )
        self._urls: set[str] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def make(self, asks: list[Ask]) -> list[Call]:
        """See `Caller`."""
        self._urls.update(ask.url for ask in asks)

        async def together() -> list[Call]:
            return await asyncio.gather(*map(self._make, asks))

        return self._run(together())

    def close(self) -> None:
        """See `Caller`."""
        for url in self._urls:
            self._run(self._client(url).aclose())

    def _run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _make(self, ask: Ask) -> Call:
        call = Call(ask)

        async def on_retry(_: TIRError, __: float) -> None:
            call.retries += 1

        await asyncio.sleep(ask.after)
        began = time.monotonic()
        try:
            client = self._client(ask.url)
            if ask.streamed:
                async for delta in client.stream(ask.messages, on_retry=on_retry):
                    call.hear(delta.content)
            else:
                call.hear((await client.complete(ask.messages, on_retry=on_retry)).content)
        except Exception as error:  # noqa: BLE001
            call.error = error
        call.seconds = time.monotonic() - began
        return call


CALLERS: dict[str, type[SyncCaller] | type[AsyncCaller]] = {"sync": SyncCaller, "async": AsyncCaller}
