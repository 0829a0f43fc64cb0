"""`Client` and `AsyncClient`: the only loops that do I/O. All decisions that need none are made by `Call`."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from typing import Self, Unpack

from .._asyncgen import aclosing_unhooked
from .._dialect.flow import Flow
from .._request.build import Request
from .._response.accumulator import Accumulator
from .._transport.async_pool import AsyncPool
from .._transport.connections import StreamingResponse
from .._transport.pool import Pool
from ..errors import APIConnectionError, APIStatusError, APITimeoutError, TIRError
from ..types import Completion, Delta, Messages
from .arguments import CallOptions
from .base import BaseClient
from .call import Call
from .parameters import CallParameters


class Client(BaseClient):
    """A synchronous client for one endpoint; one instance can be shared by any number of threads.

    ```python
    from tir_qwen import Client

    with Client() as client:  # reads E2E_TIR_ACCESS_TOKEN and E2E_TIR_PROJECT_ID
        question = {"role": "user", "content": "What is the capital of France?"}
        answer = client.complete([question], temperature=0.6, max_tokens=4096)
        print("Reasoning:", answer.reasoning)
        print("Answer:", answer.content)
        print(answer.usage)
    ```

    It opens up to 1,000 connections (further calls wait for one) and keeps up to 100 of them between calls. It can be
    copied, pickled and used after a fork; each copy opens its own connections.
    """

    _pool_type = Pool
    _pool: Pool

    def complete(self, messages: Messages, **params: Unpack[CallParameters]) -> Completion:
        """Send a chat completion request and return the complete answer.

        Args:
            messages: Messages in wire format: dicts with a `role` (`system`, `user`, `assistant` or `tool`) and a
                `content`, oldest first.
            **params: Fields of the request body (`temperature`, `max_tokens`, `stop`, `tools`, `response_format`, ...):
                all that vLLM and OpenAI document; None means unset. The following are not fields of the body:

                - `enable_thinking`: False makes the model answer without reasoning.
                - `extra_body`: a dict of any fields, which take precedence over all others.
                - `model`, `timeout`, `max_retries`: replace the client's.
                - `on_retry`: called with the error and the delay in seconds before each retry (awaited by
                  `AsyncClient`).
                - `tool_calling`: `native` sends tools in the request, `prompted` in the messages, `auto` (the default)
                  in the request unless the server rejects them.
                - `retry_tool_calls`: whether to send another request if none of the tool calls of an answer can be
                  run, with what is wrong with them; unset: only for a whole answer, if a stream has lost a part of one.
                - `schema_in`: where the schema of a `response_format` is sent: `request` (the default), `messages`, or
                  `both`.
                - `validate`: a function that is called with the JSON of the answer, or without a `response_format` with
                  the arguments of the only tool, such as `Person.model_validate_json`. If it raises ValueError, the
                  model is asked once to correct the answer; other exceptions are raised. Not used if `n` is above 1.

        Raises:
            ConfigurationError: An argument is unknown or malformed; nothing was sent.
            APIStatusError: The server rejected the request; retryable statuses were retried first.
            APIConnectionError: There was no response, even after retries; `APITimeoutError` if a time limit was
                exceeded.
            StreamError: The answer began and then failed; its `partial` is the `Completion` of what had arrived.
        """
        accumulator = Accumulator()
        for delta in self._deltas(messages, params, stream=False):
            accumulator.add(delta)
        return accumulator.completion()

    def stream(self, messages: Messages, **params: Unpack[CallParameters]) -> Generator[Delta]:
        """Stream a chat completion; arguments and errors are those of `complete`.

        ```python
        from contextlib import closing

        from tir_qwen import Client

        question = {"role": "user", "content": "What is the capital of France?"}
        reasoning = answer = ""
        with closing(Client().stream([question])) as deltas:
            for delta in deltas:
                reasoning += delta.reasoning
                answer += delta.content
                print(delta.content, end="", flush=True)
        print(delta.usage)
        ```

        If `validate` raises ValueError for content that has been passed on, the corrected content follows, from a delta
        whose `replaces` is set.

        The request is sent when the generator is first advanced. The last delta contains the token counts
        (`stream_options=None` turns them off). Closing the generator early closes the connection, which makes the
        server stop; after a `break`, it is closed as soon as nothing refers to it.
        """
        return self._deltas(messages, params, stream=True)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _deltas(self, messages: Messages, params: CallParameters, *, stream: bool) -> Generator[Delta]:
        options, flow, call = self._plan(messages, params, stream=stream)
        return self._flow_deltas(flow, call, options, stream=stream) if flow else self._call_deltas(call)

    def _flow_deltas(self, flow: Flow, call: Call, options: CallOptions, *, stream: bool) -> Generator[Delta]:
        """Yield the deltas of a call that may take several requests, of which `call` is the first."""
        while True:
            try:
                with closing(self._call_deltas(call)) as deltas:
                    for delta in deltas:
                        if visible := flow.feed(delta):
                            yield visible
            except TIRError as error:
                flow.request_failed(error)
            request = flow.next_request(call.completion())
            if request is None:
                break
            expires_at = call.deadline.total_expires_at
            call = self._new_call(options, request, stream=stream and not flow.asks_whole, total_expires_at=expires_at)
        yield from flow.remaining()

    def _call_deltas(self, call: Call) -> Generator[Delta]:
        while True:
            streaming = self._send(call)
            try:
                while not call.done and (data := self._pool.read(streaming, call.deadline)):
                    if self.tap is not None:
                        self.tap(data)
                    yield from call.feed(data)
                yield from call.close()
            except TIRError as error:
                data = b""  # it may repeat the token, which error reports with local variables would show
                traceback.clear_frames(error.__traceback__)  # keeps their lines, without their local variables
                if not call.answer_failed(error):
                    raise
            else:
                return
            finally:
                try:
                    self._pool.release(streaming, call.deadline, drain=call.done)
                finally:
                    call.leave()

    def _send(self, call: Call) -> StreamingResponse:
        """Send the request, with retries, until there is a 2xx response."""
        while True:
            if call.throttle is not None:
                try:
                    call.throttle.enter(call.deadline, again=call.was_refused)
                except APITimeoutError as error:
                    call.waited_in_vain(error)
                    raise
            request = call.start_request()
            try:
                return self._send_once(call, request)
            except (APIConnectionError, APIStatusError) as error:
                delay = call.request_failed(error)
                if delay is None:
                    raise
                if call.on_retry is not None and error.attempts:
                    call.on_retry(error, delay)
            time.sleep(delay)

    def _send_once(self, call: Call, request: Request) -> StreamingResponse:
        body = b""
        try:
            streaming = self._pool.send(request, call.deadline)
            response = streaming.response
            if not 200 <= response.status_code < 300:
                body = self._pool.read_error(streaming, call.deadline)
                raise call.status_error(response.status_code, response.headers, body)  # noqa: TRY301 - one way out
        except BaseException as error:
            body = b""  # it may repeat the token
            call.leave(error)
            raise
        call.accepted(response.headers)
        return streaming


class AsyncClient(BaseClient):
    """The asynchronous version of `Client`, with the same arguments, for any number of tasks and event loops.

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

    async def complete(self, messages: Messages, **params: Unpack[CallParameters]) -> Completion:
        """Send a chat completion request and return the complete answer; see `Client.complete`."""
        accumulator = Accumulator()
        async for delta in self._deltas(messages, params, stream=False):
            accumulator.add(delta)
        return accumulator.completion()

    def stream(self, messages: Messages, **params: Unpack[CallParameters]) -> AsyncGenerator[Delta]:
        """Stream a chat completion; see `Client.stream`. Closing the generator closes the connection at once.

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

    def _deltas(self, messages: Messages, params: CallParameters, *, stream: bool) -> AsyncGenerator[Delta]:
        options, flow, call = self._plan(messages, params, stream=stream)
        return self._flow_deltas(flow, call, options, stream=stream) if flow else self._call_deltas(call)

    async def _flow_deltas(
        self, flow: Flow, call: Call, options: CallOptions, *, stream: bool
    ) -> AsyncGenerator[Delta]:
        """Yield the deltas of a call that may take several requests, of which `call` is the first."""
        while True:
            try:
                async with aclosing_unhooked(self._call_deltas(call)) as deltas:
                    async for delta in deltas:
                        if visible := flow.feed(delta):
                            yield visible
            except TIRError as error:
                flow.request_failed(error)
            request = flow.next_request(call.completion())
            if request is None:
                break
            expires_at = call.deadline.total_expires_at
            call = self._new_call(options, request, stream=stream and not flow.asks_whole, total_expires_at=expires_at)
        for delta in flow.remaining():
            yield delta

    async def _call_deltas(self, call: Call) -> AsyncGenerator[Delta]:
        while True:
            streaming = await self._send(call)
            try:
                while not call.done and (data := await self._pool.read(streaming, call.deadline)):
                    if self.tap is not None:
                        self.tap(data)
                    for delta in call.feed(data):
                        yield delta
                for delta in call.close():
                    yield delta
            except TIRError as error:
                data = b""  # it may repeat the token, which error reports with local variables would show
                traceback.clear_frames(error.__traceback__)  # keeps their lines, without their local variables
                if not call.answer_failed(error):
                    raise
            else:
                return
            finally:
                try:
                    await self._pool.release(streaming, call.deadline, drain=call.done)
                finally:
                    call.leave()

    async def _send(self, call: Call) -> StreamingResponse:
        """Send the request, with retries, until there is a 2xx response."""
        while True:
            if call.throttle is not None:
                try:
                    await call.throttle.aenter(call.deadline, again=call.was_refused)
                except APITimeoutError as error:
                    call.waited_in_vain(error)
                    raise
            request = call.start_request()
            try:
                return await self._send_once(call, request)
            except (APIConnectionError, APIStatusError) as error:
                delay = call.request_failed(error)
                if delay is None:
                    raise
                if call.on_retry is not None and error.attempts:
                    await call.on_retry(error, delay)
            await asyncio.sleep(delay)

    async def _send_once(self, call: Call, request: Request) -> StreamingResponse:
        body = b""
        try:
            streaming = await self._pool.send(request, call.deadline)
            response = streaming.response
            if not 200 <= response.status_code < 300:
                body = await self._pool.read_error(streaming, call.deadline)
                raise call.status_error(response.status_code, response.headers, body)  # noqa: TRY301 - one way out
        except BaseException as error:
            body = b""  # it may repeat the token
            call.leave(error)
            raise
        call.accepted(response.headers)
        return streaming
