"""The two clients: the only loops over a socket. All that they decide, they ask an `Exchange`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from typing import Any, Self

from .caller import Caller
from .checks import check_call
from .dialect import Messages
from .errors import APIConnectionError, APIStatusError, TIRError
from .exchange import Exchange
from .fold import Fold
from .inner import inner
from .loops import AsyncPool
from .plan import ObjectPlan, needs_plan
from .pool import Pool, Reply
from .types import Completion, Delta


class Client(Caller):
    """A client of one endpoint, for any number of threads. For the arguments see `help(Client.__init__)`."""

    _pool_type = Pool
    _pool: Pool

    def complete(self, messages: Messages, **params: Any) -> Completion:
        """Ask for a whole answer.

        Args:
            messages: Messages as on the wire.
            **params: Fields of the body (`temperature`, `max_tokens`, `tools`, ...; None is unset), and
                `enable_thinking`, `extra_body`, `model`, `timeout`, `max_retries`, `on_retry` (called with the error
                and the delay in seconds before each further request), `tool_calling` (`native` offers tools in the
                request, `prompted` in the messages, `auto` in the request as long as the server takes them),
                `schema_in` (where the schema of a `response_format` is: `request`, `messages`, or `both`).

        Raises:
            TIRError: See `tir_qwen.errors`.
        """
        fold = Fold()
        for delta in self._deltas(messages, params, stream=False):
            fold.add(delta)
        return fold.completion()

    def stream(self, messages: Messages, **params: Any) -> Generator[Delta]:
        """Ask for an answer in pieces; arguments and errors as for `complete`.

        The last delta holds the usage (`stream_options=None` does not ask for it). Leaving the loop early closes the
        connection, which makes the server stop.
        """
        return self._deltas(messages, params, stream=True)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _deltas(self, messages: Messages, params: dict[str, Any], *, stream: bool) -> Generator[Delta]:
        check_call(messages, params)
        if needs_plan(params):
            plan = ObjectPlan(messages, params, stream=stream)
            return self._planned(plan, self._exchange(*plan.first, stream=stream), stream=stream)
        return self._answer(self._exchange(messages, params, stream=stream))

    def _planned(self, plan: ObjectPlan, exchange: Exchange, *, stream: bool) -> Generator[Delta]:
        with closing(self._answer(exchange)) as deltas:
            for delta in deltas:
                if passed := plan.first_delta(delta):
                    yield passed
        if second := plan.second(exchange.completion()):
            try:
                following = self._exchange(*second, stream=stream, end=exchange.clock.end)
                with closing(self._answer(following)) as deltas:
                    for delta in deltas:
                        yield plan.second_delta(delta)
            except TIRError as error:
                plan.failed(error)
        yield from plan.rest()

    def _answer(self, exchange: Exchange) -> Generator[Delta]:
        reply = self._open(exchange)
        try:
            while not exchange.done and (data := self._pool.read(reply, exchange.clock)):
                yield from exchange.feed(data)
            yield from exchange.close()
        except TIRError as error:
            exchange.broke(error)
            data = b""  # which a report with locals would show, and the server may have repeated the token in it
            error.__traceback__ = None
            raise
        finally:
            self._pool.release(reply, exchange.clock, drain=exchange.done)

    def _open(self, exchange: Exchange) -> Reply:
        """Send until there is a 2xx."""
        while True:
            request = exchange.begin()
            try:
                reply = self._pool.send(request, exchange.clock)
                response = reply.response
                if 200 <= response.status_code < 300:
                    return reply
                body = self._pool.read_error(reply, exchange.clock)
                raise exchange.refused(response.status_code, response.headers, body)
            except (APIConnectionError, APIStatusError) as error:
                body = b""  # which may repeat the token
                delay = exchange.failed(error)
                if delay is None:
                    raise
                if exchange.on_retry is not None and error.attempts:
                    exchange.on_retry(error, delay)
            time.sleep(delay)


class AsyncClient(Caller):
    """As `Client`, for any number of tasks and event loops; the arguments are the same."""

    _pool_type = AsyncPool
    _pool: AsyncPool

    async def complete(self, messages: Messages, **params: Any) -> Completion:
        """As `Client.complete`."""
        fold = Fold()
        async for delta in self._deltas(messages, params, stream=False):
            fold.add(delta)
        return fold.completion()

    def stream(self, messages: Messages, **params: Any) -> AsyncGenerator[Delta]:
        """As `Client.stream`; close the generator (`contextlib.aclosing`) to have the connection closed at once."""
        return self._deltas(messages, params, stream=True)

    async def aclose(self) -> None:
        """Close the connections of the running event loop; a later call opens new ones."""
        await self._pool.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def _deltas(self, messages: Messages, params: dict[str, Any], *, stream: bool) -> AsyncGenerator[Delta]:
        check_call(messages, params)
        if needs_plan(params):
            plan = ObjectPlan(messages, params, stream=stream)
            return self._planned(plan, self._exchange(*plan.first, stream=stream), stream=stream)
        return self._answer(self._exchange(messages, params, stream=stream))

    async def _planned(self, plan: ObjectPlan, exchange: Exchange, *, stream: bool) -> AsyncGenerator[Delta]:
        async with inner(self._answer(exchange)) as deltas:
            async for delta in deltas:
                if passed := plan.first_delta(delta):
                    yield passed
        if second := plan.second(exchange.completion()):
            try:
                following = self._exchange(*second, stream=stream, end=exchange.clock.end)
                async with inner(self._answer(following)) as deltas:
                    async for delta in deltas:
                        yield plan.second_delta(delta)
            except TIRError as error:
                plan.failed(error)
        for delta in plan.rest():
            yield delta

    async def _answer(self, exchange: Exchange) -> AsyncGenerator[Delta]:
        reply = await self._open(exchange)
        try:
            while not exchange.done and (data := await self._pool.read(reply, exchange.clock)):
                for delta in exchange.feed(data):
                    yield delta
            for delta in exchange.close():
                yield delta
        except TIRError as error:
            exchange.broke(error)
            data = b""  # which a report with locals would show, and the server may have repeated the token in it
            error.__traceback__ = None
            raise
        finally:
            await self._pool.release(reply, exchange.clock, drain=exchange.done)

    async def _open(self, exchange: Exchange) -> Reply:
        """Send until there is a 2xx."""
        while True:
            request = exchange.begin()
            try:
                reply = await self._pool.send(request, exchange.clock)
                response = reply.response
                if 200 <= response.status_code < 300:
                    return reply
                body = await self._pool.read_error(reply, exchange.clock)
                raise exchange.refused(response.status_code, response.headers, body)
            except (APIConnectionError, APIStatusError) as error:
                body = b""  # which may repeat the token
                delay = exchange.failed(error)
                if delay is None:
                    raise
                if exchange.on_retry is not None and error.attempts:
                    await exchange.on_retry(error, delay)
            await asyncio.sleep(delay)
