"""What both clients are: the settings of an endpoint, and the calls that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from .dialect import Abilities, Dialect, Messages
from .errors import ConfigurationError
from .exchange import Exchange
from .http import timeout_of
from .loops import AsyncPool
from .pool import Pool
from .request import build_request
from .retry import RetryPolicy
from .settings import DEFAULT_MODEL, resolve_endpoint
from .timeouts import Clock, Timeout, timeout_from

_OF_CONSTRUCTORS = frozenset(
    {
        *("project_id", "access_token", "api_key", "tir_access_token", "base_url", "api_base", "apikey", "allow_http"),
        *("default_headers", "http_client", "http_async_client", "async_http_client"),
    }
)
_NO_FIELDS = frozenset({"headers", "extra_headers", "extra_query"})


class Caller:
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
        timeout: float | Timeout | Mapping[str, float | None] | None = None,
        max_retries: int = 2,
        http_client: Any = None,
        abilities: dict[str, Abilities] | None = None,
    ) -> None:
        """Read the settings; nothing is opened before the first call.

        Args:
            project_id: TIR project, `6530` or `p-6530`; environment `E2E_TIR_PROJECT_ID`. Not needed with a complete
                base URL.
            access_token: Auth Token of the project; environment `E2E_TIR_ACCESS_TOKEN`. Not needed with a complete base
                URL on this machine.
            model: Name of the model in the path and in the body.
            base_url: A complete base URL with its path (a dedicated endpoint, a vLLM of your own): requests go to
                `<base_url>/chat/completions`; environment `E2E_TIR_BASE_URL`. Or a host alone: requests go to
                `<host>/project/p-<id>/genai/<model>/v1/chat/completions?project_id=<id>`; environment
                `MODEL_API_CLIENT_HOST`. Default: `https://infer.e2enetworks.net`.
            apikey: Sent as the query parameter `apikey`, where a gateway wants it; environment `E2E_TIR_API_KEY` (not
                with a complete base URL).
            default_headers: Further headers for every request; their values count as secrets.
            allow_http: Accept plain http on other machines than this one: token and prompts then travel unencrypted.
            timeout: Seconds without progress of the server (600 if unset, and 5 to connect), or its parts: see
                `tir_qwen.Timeout`.
            max_retries: Further requests after one that failed before its answer began: statuses 408, 409, 429 and 5xx,
                connections, time limits. The pauses grow from 0.5 to 8 seconds, or are what `Retry-After` says, up to
                60.
            http_client: A client of httpx or httpx2 to use, with its own pool; it stays open.
            abilities: What is known of each model's endpoint; clients that are given the same dict share what they find
                out.

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
            self._timeout = timeout_from(timeout) or timeout_of(http_client) or Timeout()
            self._policy = RetryPolicy(max_retries)
            self._pool: Any = self._pool_type(http_client)
        except ConfigurationError as error:
            project_id = access_token = base_url = apikey = default_headers = None  # for reports with locals
            error.__traceback__ = None
            raise
        self._abilities = {} if abilities is None else abilities

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._model!r}, endpoint={getattr(self, '_endpoint', None)!r})"

    @property
    def given(self) -> Any:
        """The user's own HTTP client."""
        return self._pool.given

    @property
    def abilities(self) -> Abilities:
        """What is known of the endpoint of this client's model."""
        return self._abilities.setdefault(self._model, Abilities())

    def _exchange(
        self, messages: Messages, params: dict[str, Any], *, stream: bool, end: float | None = None
    ) -> Exchange:
        """The state of a new call, which may be a part of one that has to be over at `end`."""
        model = params.pop("model", None) or self._model
        clock = Clock(timeout_from(params.pop("timeout", None)) or self._timeout, end)
        if stream:
            params.setdefault("stream_options", {"include_usage": True})
        on_retry = params.pop("on_retry", None)
        if misplaced := sorted(_OF_CONSTRUCTORS & params.keys()):
            raise ConfigurationError(f"{misplaced[0]} is an argument of the constructor, not of a call.")
        if misplaced := sorted(_NO_FIELDS & params.keys()):
            raise ConfigurationError(f"a call takes no {misplaced[0]}: give default_headers to the constructor.")
        retries = params.pop("max_retries", None)
        policy = self._policy if retries is None else RetryPolicy(retries)
        write = partial(build_request, self._endpoint, model, stream=stream)
        dialect = Dialect(messages, params, self._abilities.setdefault(model, Abilities()))
        return Exchange(dialect, write, policy, clock, secrets=self._endpoint.secrets, on_retry=on_retry)
