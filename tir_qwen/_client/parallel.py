"""Runs a function for many items concurrently, in threads or in tasks; the first failure ends all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Item = TypeVar("Item")


def run_in_threads(
    function: Callable[[Item], object], items: Sequence[Item], limit: int, abandon: Callable[[], object]
) -> None:
    """Call a function with each item, in up to `limit` threads.

    If one call fails, no further one starts, and its error is raised at once. The threads are daemons, so that an
    interrupted program can end while they wait for a server.

    Args:
        function: What to call.
        items: What to call it with; a single one in the calling thread.
        limit: Maximum number of concurrent calls.
        abandon: Called after a failure: the results of the calls in progress are not needed.
    """
    pending = deque(items)
    finished: SimpleQueue[BaseException | None] = SimpleQueue()

    def work() -> None:
        try:
            for item in _take_all(pending):
                function(item)
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            finished.put(error)
        else:
            finished.put(None)

    if min(len(items), limit) <= 1:
        for item in items:
            function(item)
        return
    threads = [Thread(target=copy_context().run, args=(work,), daemon=True) for _ in items[:limit]]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            if (failure := finished.get()) is not None:
                try:
                    raise failure
                finally:
                    del failure  # breaks the reference cycle between it and this frame
    except BaseException:
        pending.clear()
        abandon()
        raise
    for thread in threads:
        thread.join()


def _take_all(pending: deque[Item]) -> Iterator[Item]:
    while pending:
        with suppress(IndexError):  # another thread was faster
            yield pending.popleft()


async def run_in_tasks(
    function: Callable[[Item], Coroutine[Any, Any, object]], items: Sequence[Item], limit: int
) -> None:
    """Await a function of each item, in up to `limit` tasks; if one fails or is cancelled, all are cancelled."""
    pending = iter(items)

    async def work() -> None:
        for item in pending:
            await function(item)

    if min(len(items), limit) <= 1:
        await work()
        return
    tasks = [asyncio.create_task(work()) for _ in items[:limit]]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
