"""The only loops that do I/O. All decisions that need none are made by the call that they drive."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncGenerator, Generator
from typing import Any

from .._request.build import Request
from .._transport.async_pool import AsyncPool
from .._transport.connections import StreamingResponse
from .._transport.pool import Pool
from ..errors import APIConnectionError, APIStatusError, APITimeoutError, TIRError
from .base import BaseClient
from .base_call import BaseCall, Result


class SyncLoop(BaseClient):
    """Base class of `Client`: sends the requests of a call and reads their answers."""

    _pool_type = Pool
    _pool: Pool

    def _results(self, call: BaseCall[Result]) -> Generator[Result]:
        """Send the request of a call, and yield the results in its answer."""
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
                delay = call.answer_failed(error)
                if delay is None:
                    raise
                if call.on_retry is not None and error.attempts:
                    call.on_retry(error, delay)
            else:
                return
            finally:
                try:
                    self._pool.release(streaming, call.deadline, drain=call.done)
                finally:
                    call.leave()
            time.sleep(delay)

    def _send(self, call: BaseCall[Any]) -> StreamingResponse:
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

    def _send_once(self, call: BaseCall[Any], request: Request) -> StreamingResponse:
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


class AsyncLoop(BaseClient):
    """Base class of `AsyncClient`: the same as `SyncLoop`, apart from `await`."""

    _pool_type = AsyncPool
    _pool: AsyncPool

    async def _results(self, call: BaseCall[Result]) -> AsyncGenerator[Result]:
        """Send the request of a call, and yield the results in its answer."""
        while True:
            streaming = await self._send(call)
            try:
                while not call.done and (data := await self._pool.read(streaming, call.deadline)):
                    if self.tap is not None:
                        self.tap(data)
                    for result in call.feed(data):
                        yield result
                for result in call.close():
                    yield result
            except TIRError as error:
                data = b""  # it may repeat the token, which error reports with local variables would show
                traceback.clear_frames(error.__traceback__)  # keeps their lines, without their local variables
                delay = call.answer_failed(error)
                if delay is None:
                    raise
                if call.on_retry is not None and error.attempts:
                    await call.on_retry(error, delay)
            else:
                return
            finally:
                try:
                    await self._pool.release(streaming, call.deadline, drain=call.done)
                finally:
                    call.leave()
            await asyncio.sleep(delay)

    async def _send(self, call: BaseCall[Any]) -> StreamingResponse:
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

    async def _send_once(self, call: BaseCall[Any], request: Request) -> StreamingResponse:
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
