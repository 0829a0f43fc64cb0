"""The base class of `Client` and `AsyncClient`: their settings, and the start of a call."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .._dialect.capabilities import Capabilities
from .._dialect.dialect import Dialect
from .._dialect.flow import Flow
from .._dialect.plan import plan
from .._redaction import redact
from .._request.body import Body
from .._request.build import build_request
from .._request.endpoint import DEFAULT_MODEL, resolve_endpoint
from .._transport.async_pool import AsyncPool
from .._transport.deadline import Deadline
from .._transport.engine import client_timeout
from .._transport.pool import Pool
from ..errors import ConfigurationError
from ..timeouts import Timeout, timeout_from
from ..types import Messages
from .arguments import CallOptions, read_arguments
from .call import Call
from .parameters import CallParameters
from .retry import RetryPolicy
from .throttle import Throttle

if TYPE_CHECKING:
    from .embeddings.arguments import EmbeddingParameters
    from .embeddings.job import EmbeddingJob


class BaseClient:
    """Base class of the clients: holds the settings and starts calls."""

    tap: Callable[[bytes], object] | None = None
    """Called with the raw bytes of each answer as they arrive; used by `tir-qwen doctor`."""

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
        timeout: float | Timeout | Mapping[str, float | None] | None = None,
        max_retries: int = 2,
        http_client: Any = None,
        capabilities: dict[str, Capabilities] | None = None,
        adaptive_limit: bool = True,
    ) -> None:
        """Validate the settings. No connection is opened before the first call.

        Args:
            project_id: TIR project, `6530` or `p-6530`; environment `E2E_TIR_PROJECT_ID`. Not needed with a complete
                base URL.
            access_token: Auth Token of the project; environment `E2E_TIR_ACCESS_TOKEN`. Not needed with a complete base
                URL on this machine.
            model: Name of the model, sent in the path and the body.
            base_url: A complete base URL, including the path (a dedicated endpoint, your own vLLM): requests go to
                `<base_url>/chat/completions` and `<base_url>/embeddings`; environment `E2E_TIR_BASE_URL`. Or only a
                host: requests go to `<host>/project/p-<id>/genai/<model>/v1/chat/completions?project_id=<id>`, for
                example; environment `MODEL_API_CLIENT_HOST`. Default: `https://infer.e2enetworks.net`.
            apikey: Sent as the query parameter `apikey`, for gateways that require it; environment `E2E_TIR_API_KEY`
                (not with a complete base URL).
            default_headers: Additional headers for every request; their values are treated as secrets.
            allow_http: Allow plain HTTP to other machines, which sends token and prompts unencrypted.
            timeout: Seconds to wait for progress (default: 600, and 5 to connect), or a `tir_qwen.Timeout`.
            max_retries: How often to retry a request that failed before its answer began: statuses 408, 409, 429 and
                5xx, connection errors, timeouts. The delays double from 0.5 to 8 seconds, minus a random jitter of up
                to a quarter; `Retry-After` replaces them, up to 60 seconds.
            http_client: An `httpx.Client`, or for `AsyncClient` an `httpx.AsyncClient` (of httpx or httpx2), to use
                with its own connection pool; it is never closed here.
            capabilities: What is known about each model's endpoint; clients with the same dict share it.
            adaptive_limit: Whether all calls of this client share a concurrency limit, which adapts when the endpoint
                refuses calls with 429, 503 or 529. Such a refusal does not count as a retry while the endpoint accepts
                other calls.

        Raises:
            ConfigurationError: A setting is missing or malformed.
        """
        self._model = model
        try:
            self._endpoint = resolve_endpoint(
                project_id=project_id,
                access_token=access_token,
                base_url=base_url,
                apikey=apikey,
                headers=default_headers,
                allow_http=allow_http,
            )
            self._endpoint.url(model)
            self._timeout = timeout_from(timeout) or client_timeout(http_client) or Timeout()
            self._retry_policy = RetryPolicy(max_retries)
            self._pool: Any = self._pool_type(http_client)
        except ConfigurationError as error:
            project_id = access_token = base_url = apikey = default_headers = None  # keep them out of tracebacks
            traceback.clear_frames(error.__traceback__)
            raise
        self._capabilities = {} if capabilities is None else capabilities
        self._throttle = Throttle() if adaptive_limit else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._model!r}, endpoint={getattr(self, '_endpoint', None)!r})"

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._model

    @property
    def endpoint(self) -> str:
        """The URL of the endpoint, without its query; the project id is masked."""
        return self._endpoint.redacted_url(self._model)

    @property
    def http_client(self) -> Any:
        """The HTTP client that was passed in, if any."""
        return self._pool.http_client

    @property
    def capabilities(self) -> Capabilities:
        """What is known about the endpoint of this client's model."""
        return self._capabilities_of(self._model)

    def _capabilities_of(self, model: str | None) -> Capabilities:
        return self._capabilities.setdefault(model or self._model, Capabilities())

    def _share_limit(self, other: BaseClient) -> None:
        """Share the concurrency limit with another client of the same endpoint."""
        self._throttle = other._throttle

    def redact(self, text: str) -> str:
        """Return `text` with the client's credentials and project id replaced by stars."""
        return redact(text, self._endpoint.secrets)

    def _plan(
        self, messages: Messages, params: CallParameters, *, stream: bool
    ) -> tuple[CallOptions, Flow | None, Call]:
        """Read the arguments of a call; return its options, its flow if it may take several requests, and the first."""
        options, body = read_arguments(messages, params, stream=stream, model=self._model)
        flow = plan(
            body,
            self._capabilities_of(options.model),
            stream=stream,
            retry_tool_calls=options.retry_tool_calls,
            validate=options.validate,
        )
        return options, flow, self._new_call(options, flow.first_request if flow else body, stream=stream)

    def _new_call(
        self, options: CallOptions, body: Body, *, stream: bool, total_expires_at: float | None = None
    ) -> Call:
        """Create the state of a call; `total_expires_at` is the deadline if it is part of a longer call."""
        model = options.model or self._model
        dialect = Dialect(
            body,
            self._capabilities_of(model),
            tool_calling=options.tool_calling,
            schema_in=options.schema_in,
            may_repeat=options.retry_tool_calls is not False,
            is_stream=stream,
        )
        return Call(
            dialect,
            partial(build_request, self._endpoint, model, stream=stream),
            options.retry_policy or self._retry_policy,
            Deadline(options.timeout or self._timeout, total_expires_at),
            secrets=self._endpoint.secrets,
            on_retry=options.on_retry,
            throttle=self._throttle,
        )

    def _plan_embeddings(self, texts: Any, model: str, params: EmbeddingParameters) -> EmbeddingJob:
        """Read the arguments of `embed`; return the requests to send."""
        from .embeddings.plan import plan_embeddings  # noqa: PLC0415 - programs that only chat start without it

        self._endpoint.url(model)  # checks it, even if there are no texts
        return plan_embeddings(
            texts,
            params,
            endpoint=self._endpoint,
            model=model,
            capabilities=self._capabilities_of(model),
            timeout=self._timeout,
            retry_policy=self._retry_policy,
            throttle=self._throttle,
        )
