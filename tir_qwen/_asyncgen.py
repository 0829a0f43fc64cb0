"""Nested asynchronous generators that the event loop does not keep track of: whoever iterates over them closes them.

A loop that shuts down closes all the generators it tracks at the same time, outer and nested ones. It would find a
nested generator that its outer one is closing already, and report an error.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Self, TypeVar

_Item = TypeVar("_Item")


class aclosing_unhooked(Generic[_Item]):  # noqa: N801 - named as `contextlib.aclosing`
    """As `contextlib.aclosing`, for a generator that is not registered with the loop's asyncgen hooks (PEP 525).

    Args:
        generator: A generator that has not started.
        deep: Whether it closes the generators nested in it, so that these need not be registered either.
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
        """Close the generator; one that has not started has nothing to close, and would be registered now."""
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
    """The first step of a generator, up to where it suspends: the generators nested in it start there."""

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
                except BaseException as error:  # noqa: BLE001 - raised within the generator
                    waiting = step.throw(error)
                else:
                    waiting = step.send(sent)
        except StopIteration as end:
            item: _Item = end.value
            return item


@contextmanager
def _without_asyncgen_hooks() -> Iterator[None]:
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=None)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*hooks)
