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
    """Asks one endpoint; one instance serves any number of threads.

    ```python
    from tir_qwen import Client

    with Client() as client:  # E2E_TIR_ACCESS_TOKEN and E2E_TIR_PROJECT_ID say who asks
        question = {"role": "user", "content": "What is the capital of France?"}
        answer = client.complete([question], temperature=0.6, max_tokens=4096)
        print(answer.reasoning, answer.content, answer.usage)
    ```

    It holds up to 1,000 connections (further calls wait for one) and keeps up to 100 of them between calls. It can be
    copied, pickled and used after a fork; each copy then has connections of its own.
    """

    _pool_type = Pool
    _pool: Pool

    def complete(self, messages: Messages, **params: Any) -> Completion:
        """Ask for a whole answer.

        Args:
            messages: Messages as on the wire: dicts with a `role` (`system`, `user`, `assistant` or `tool`) and a
                `content`, oldest first.
            **params: Fields of the request's body by their names on the wire (`temperature`, `max_tokens`, `stop`,
                `tools`, `response_format`, ...); None is unset. The following ones are not sent as they are:

                - `enable_thinking`: False has the model answer without reasoning first.
                - `extra_body`: further fields (a dict), over all others.
                - `model`, `timeout`, `max_retries`: in place of the client's.
                - `on_retry`: called with the error and the delay in seconds before each further request (awaited by
                  `AsyncClient`).
                - `tool_calling`: `native` offers tools in the request, `prompted` in the messages, `auto` (the default)
                  in the request as long as the server takes them.
                - `schema_in`: where the schema of a `response_format` is: `request` (the default), `messages`, or
                  `both`.

        Raises:
            ConfigurationError: An argument is malformed; nothing was sent.
            APIStatusError: The server refused the request, after the retries if it is worth any.
            APIConnectionError: There was no response, after the retries; `APITimeoutError` if a time limit ran out.
            StreamError: The answer began and went wrong; its `partial` is the `Completion` of what had arrived.
        """
        fold = Fold()
        for delta in self._deltas(messages, params, stream=False):
            fold.add(delta)
        return fold.completion()

    def stream(self, messages: Messages, **params: Any) -> Generator[Delta]:
        """Ask for an answer in pieces; arguments and errors as for `complete`.

        ```python
        from contextlib import closing

        from tir_qwen import Client

        question = {"role": "user", "content": "What is the capital of France?"}
        with closing(Client().stream([question])) as deltas:
            for delta in deltas:
                print(delta.reasoning, delta.content, sep="", end="")
        print(delta.usage)
        ```

        The request is sent when the first delta is asked for. The last delta holds the token counts
        (`stream_options=None` does not ask for them). Closing the generator early closes the connection, which makes
        the server stop; a `for` loop that is left closes it as soon as nobody refers to it.
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
    """As `Client`, for any number of tasks and event loops; the arguments are the same.

    ```python
    import asyncio

    from tir_qwen import AsyncClient


    async def main() -> None:
        async with AsyncClient() as client:
            answers = await asyncio.gather(
                client.complete([{"role": "user", "content": "What is the capital of France?"}]),
                client.complete([{"role": "user", "content": "What is the capital of Peru?"}]),
            )
        for answer in answers:
            print(answer.content)


    asyncio.run(main())
    ```
    """

    _pool_type = AsyncPool
    _pool: AsyncPool

    async def complete(self, messages: Messages, **params: Any) -> Completion:
        """As `Client.complete`."""
        fold = Fold()
        async for delta in self._deltas(messages, params, stream=False):
            fold.add(delta)
        return fold.completion()

    def stream(self, messages: Messages, **params: Any) -> AsyncGenerator[Delta]:
        """As `Client.stream`; close the generator to have the connection closed at once.

        ```python
        import asyncio
        from contextlib import aclosing

        from tir_qwen import AsyncClient


        async def main() -> None:
            async with AsyncClient() as client:
                question = {"role": "user", "content": "What is the capital of France?"}
                async with aclosing(client.stream([question])) as deltas:
                    async for delta in deltas:
                        print(delta.content, end="")


        asyncio.run(main())
        ```
        """
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
