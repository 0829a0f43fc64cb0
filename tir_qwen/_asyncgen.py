"""Nested async generators that are closed by their consumer and hidden from the event loop.

When an event loop shuts down, it concurrently closes all generators that it tracks, outer and nested ones alike. It
also closes those that are garbage-collected. It would report an error for a nested generator that its outer generator
is already closing.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Self, TypeVar

_Item = TypeVar("_Item")


class aclosing_unhooked(Generic[_Item]):  # noqa: N801 - named as `contextlib.aclosing`
    """Like `contextlib.aclosing`, but the generator is not registered with the loop's asyncgen hooks (PEP 525).

    Args:
        generator: A generator that has not started.
        deep: Whether the generator closes those nested in it, so that they need not be registered either.
    """

    __slots__ = ("_deep", "_generator", "_started")

    def __init__(self, generator: AsyncGenerator[_Item], *, deep: bool = False) -> None:
        self._generator = generator
        self._deep = deep
        self._started = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the generator if it has started; otherwise closing would only register it."""
        if self._started:
            await self._generator.aclose()

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[_Item]:
        if self._started:
            return self._generator.__anext__()
        self._started = True
        with _without_asyncgen_hooks():
            step = self._generator.__anext__()
        return _FirstStep(step) if self._deep else step


class _FirstStep(Generic[_Item]):
    """Awaits the first step of a generator; the generators nested in it start before it first suspends."""

    __slots__ = ("_step",)

    def __init__(self, step: Awaitable[_Item]) -> None:
        self._step = step

    def __await__(self) -> Generator[Any, Any, _Item]:
        step: Any = self._step.__await__()
        try:
            with _without_asyncgen_hooks():
                waiting = step.send(None)
            while True:
                try:
                    sent = yield waiting
                except BaseException as error:  # noqa: BLE001 - passed into the generator
                    waiting = step.throw(error)
                else:
                    waiting = step.send(sent)
        except StopIteration as end:
            item: _Item = end.value
            return item


@contextmanager
def _without_asyncgen_hooks() -> Iterator[None]:
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=None, finalizer=_leave_to_consumer)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _leave_to_consumer(_: AsyncGenerator[Any]) -> None:
    """Replace the loop's finalizer, which would close a garbage-collected generator at the same time as its consumer.

    The consumer is collected with it. When the loop closes the consumer, this generator is kept alive and closed too.
    Without any finalizer, Python would close the generator itself, without awaiting its cleanup.
    """
