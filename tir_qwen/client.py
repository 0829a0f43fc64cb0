"""The two clients: the only loops over a socket. All that they decide, they ask an `Exchange`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing
from functools import partial
from typing import Any, Self

from .dialect import Abilities, Dialect, Messages
from .errors import APIConnectionError, ConfigurationError, TIRError
from .exchange import Exchange
from .fold import Fold
from .plan import ObjectPlan, needs_plan
from .pool import AsyncPool, Pool
from .request import build_request
from .retry import RetryPolicy
from .settings import DEFAULT_MODEL, resolve_endpoint
from .types import Completion, Delta

MAX_TIMEOUT = 1_000_000  # seconds; the operating system's own limits are not far above
_OF_CONSTRUCTORS = frozenset(
    {
        *("project_id", "access_token", "api_key", "tir_access_token", "base_url", "api_base", "apikey", "allow_http"),
        *("default_headers", "http_client", "http_async_client", "async_http_client"),
    }
)


class _Caller:
    """Settings of a client, and the calls that they make."""

    _pool_type: type[Pool] | type[AsyncPool]

    def __init__(
        self,
        project_id: str | int | None = None,
        access_token: str | None = None,
        *,
        model: str = DEFAULT_MODEL,
        base_url: str | None = None,
        apikey: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        allow_http: bool = False,
        timeout: float | None = None,
        max_retries: int = 2,
        http_client: Any = None,
        abilities: dict[str, Abilities] | None = None,
    ) -> None:
        """Read the settings; nothing is opened before the first call.

        Args:
            project_id: TIR project, `6530` or `p-6530`; environment `E2E_TIR_PROJECT_ID`.
            access_token: Auth Token of the project; environment `E2E_TIR_ACCESS_TOKEN`.
            model: Name of the model in the path and in the body.
            base_url: A complete base URL or a host, see `tir_qwen.settings.resolve_endpoint`; environment
                `E2E_TIR_BASE_URL` or `MODEL_API_CLIENT_HOST`.
            apikey: Sent as the query parameter `apikey`; environment `E2E_TIR_API_KEY`.
            default_headers: Further headers for every request.
            allow_http: Accept plain http on other machines than this one.
            timeout: Seconds without progress of the server (default 600); connecting has 5 of them.
            max_retries: Requests after a first one that failed before its answer began.
            http_client: A client of httpx or httpx2 to use; it stays open.
            abilities: What is known of each model's endpoint; clients may share what they find out.

        Raises:
            ConfigurationError: A setting is missing or malformed.
        """
        self._endpoint = resolve_endpoint(
            project_id=project_id,
            access_token=access_token,
            base_url=base_url,
            apikey=apikey,
            headers=default_headers,
            allow_http=allow_http,
        )
        self._model = model
        self._timeout = _checked_timeout(timeout)
        self._policy = RetryPolicy(max_retries)
        self._abilities = {} if abilities is None else abilities
        self._pool: Any = self._pool_type(http_client)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._model!r}, endpoint={self._endpoint!r})"

    @property
    def given(self) -> Any:
        """The user's own HTTP client."""
        return self._pool._given

    @property
    def abilities(self) -> Abilities:
        """What is known of the endpoint of this client's model."""
        return self._abilities.setdefault(self._model, Abilities())

    def _exchange(self, messages: Messages, params: dict[str, Any], *, stream: bool) -> Exchange:
        """The state of a new call."""
        model = params.pop("model", None) or self._model
        timeout = _checked_timeout(params.pop("timeout", None)) or self._timeout
        if stream:
            params.setdefault("stream_options", {"include_usage": True})
        on_retry = params.pop("on_retry", None)
        if misplaced := sorted(_OF_CONSTRUCTORS & params.keys()):
            raise ConfigurationError(f"{misplaced[0]} is an argument of the constructor, not of a call.")
        retries = params.pop("max_retries", None)
        policy = self._policy if retries is None else RetryPolicy(retries)
        write = partial(build_request, self._endpoint, model, stream=stream, timeout=timeout)
        dialect = Dialect(messages, params, self._abilities.setdefault(model, Abilities()))
        return Exchange(dialect, write, policy, self._endpoint.secrets, on_retry)


def _checked_timeout(timeout: float | None) -> float | None:
    if timeout is not None and not (isinstance(timeout, (int, float)) and 0 < timeout <= MAX_TIMEOUT):
        raise ConfigurationError(f"timeout must be a number of seconds, above 0 and up to {MAX_TIMEOUT}.")
    return timeout


class Client(_Caller):
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
                with closing(self._answer(self._exchange(*second, stream=stream))) as deltas:
                    for delta in deltas:
                        yield plan.second_delta(delta)
            except TIRError as error:
                plan.failed(error)
        yield from plan.rest()

    def _answer(self, exchange: Exchange) -> Generator[Delta]:
        response = self._open(exchange)
        body = self._pool.read(response)
        try:
            for data in body:
                yield from exchange.feed(data)
                if exchange.done:
                    break
            yield from exchange.close()
        except TIRError as error:
            exchange.broke(error)
            raise
        finally:
            self._pool.release(response, body if exchange.done else None)

    def _open(self, exchange: Exchange) -> Any:
        """Send until there is a 2xx."""
        while True:
            error: TIRError
            try:
                response = self._pool.send(exchange.request)
            except APIConnectionError as failure:
                error = failure
            else:
                if 200 <= response.status_code < 300:
                    return response
                body = self._pool.read_error(response, exchange.patience)
                error = exchange.refused(response.status_code, response.headers, body)
            delay = exchange.failed(error)
            if exchange.on_retry is not None and error.attempts:
                exchange.on_retry(error, delay)
            time.sleep(delay)


class AsyncClient(_Caller):
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
        if needs_plan(params):
            plan = ObjectPlan(messages, params, stream=stream)
            return self._planned(plan, self._exchange(*plan.first, stream=stream), stream=stream)
        return self._answer(self._exchange(messages, params, stream=stream))

    async def _planned(self, plan: ObjectPlan, exchange: Exchange, *, stream: bool) -> AsyncGenerator[Delta]:
        async with aclosing(self._answer(exchange)) as deltas:
            async for delta in deltas:
                if passed := plan.first_delta(delta):
                    yield passed
        if second := plan.second(exchange.completion()):
            try:
                async with aclosing(self._answer(self._exchange(*second, stream=stream))) as deltas:
                    async for delta in deltas:
                        yield plan.second_delta(delta)
            except TIRError as error:
                plan.failed(error)
        for delta in plan.rest():
            yield delta

    async def _answer(self, exchange: Exchange) -> AsyncGenerator[Delta]:
        response = await self._open(exchange)
        body = self._pool.read(response)
        try:
            async for data in body:
                for delta in exchange.feed(data):
                    yield delta
                if exchange.done:
                    break
            for delta in exchange.close():
                yield delta
        except TIRError as error:
            exchange.broke(error)
            raise
        finally:
            await self._pool.release(response, body if exchange.done else None)
            await body.aclose()

    async def _open(self, exchange: Exchange) -> Any:
        """Send until there is a 2xx."""
        while True:
            error: TIRError
            try:
                response = await self._pool.send(exchange.request)
            except APIConnectionError as failure:
                error = failure
            else:
                if 200 <= response.status_code < 300:
                    return response
                body = await self._pool.read_error(response, exchange.patience)
                error = exchange.refused(response.status_code, response.headers, body)
            delay = exchange.failed(error)
            if exchange.on_retry is not None and error.attempts:
                await exchange.on_retry(error, delay)
            await asyncio.sleep(delay)
