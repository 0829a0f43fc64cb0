"""Asynchronous generators within others, of which an event loop is not to know: whoever iterates over them closes them.

A loop that ends closes all the generators that it knows at the same time, the outer ones and those within them: it
would find one that its outer one is closing already, and complain.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Self, TypeVar

_Item = TypeVar("_Item")


class inner(Generic[_Item]):  # noqa: N801 - as `contextlib.aclosing`
    """As `contextlib.aclosing`; the loop does not get to know the generator.

    Args:
        generator: It, not yet begun.
        deep: Whether it closes the generators within it, so that the loop is not to know these either.
    """

    __slots__ = ("_begun", "_deep", "_generator")

    def __init__(self, generator: AsyncGenerator[_Item], *, deep: bool = False) -> None:
        self._generator = generator
        self._deep = deep
        self._begun = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the generator; one that has not begun has nothing to close, and would tell its loop now."""
        if self._begun:
            await self._generator.aclose()

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[_Item]:
        if self._begun:
            return self._generator.__anext__()
        self._begun = True
        with _silence():
            step = self._generator.__anext__()
        return _FirstStep(step) if self._deep else step


class _FirstStep(Generic[_Item]):
    """The first step of a generator, as far as it does not suspend: those within it begin there."""

    __slots__ = ("_step",)

    def __init__(self, step: Awaitable[_Item]) -> None:
        self._step = step

    def __await__(self) -> Generator[Any, Any, _Item]:
        step: Any = self._step.__await__()
        try:
            with _silence():
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
def _silence() -> Iterator[None]:
    """Generators that begin now do not tell their loop."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=None)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*hooks)
