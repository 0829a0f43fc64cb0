"""The constructor parameters of all models that concern the connection, and the clients created from them."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    PrivateAttr,
    SecretStr,
    StrictInt,
    WithJsonSchema,
)
from pydantic_core import core_schema

from .._client.client import AsyncClient, Client
from .._client.validation import check_body_fields
from .._dialect.capabilities import Capabilities
from .._request.endpoint import DefaultProject
from ..errors import ConfigurationError
from ..timeouts import Timeout, timeout_from

_HTTP_CLIENT_FIELDS = frozenset({"http_client", "http_async_client", "async_http_client"})


def _read_timeout(value: Any) -> float | Timeout | None:
    """Read the argument `timeout`; pydantic's own schema of the dataclass would take 0.5 ms at import."""
    if isinstance(value, str):  # from a configuration file
        with suppress(ValueError):
            value = float(value)
    timeout = timeout_from(value)
    return float(value) if isinstance(value, (int, float)) else timeout


def _read_body_fields(fields: dict[str, Any] | None) -> dict[str, Any] | None:
    check_body_fields(fields or {})
    return fields


ExtraBody = Annotated[dict[str, Any] | None, AfterValidator(_read_body_fields)]
"""Further fields of the request body."""


if TYPE_CHECKING:

    class _Aliases(BaseModel):
        """All names of the token and the address, for type checkers and editors.

        Each integration has two of them as fields, and accepts the other two as their aliases.
        """

        access_token: SecretStr | str | None = None
        """Auth Token of the project; environment `E2E_TIR_ACCESS_TOKEN`."""
        api_key: SecretStr | str | None = None
        """The same as `access_token`."""
        base_url: str | None = None
        """A complete base URL, including the path, or only a host; environment `E2E_TIR_BASE_URL`."""
        api_base: str | None = None
        """The same as `base_url`."""
else:
    _Aliases = BaseModel


class ConnectionSettings(_Aliases):
    """The settings of the connection to an endpoint."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True, defer_build=True)

    project_id: str | StrictInt | None = Field(
        default_factory=lambda: os.environ.get("E2E_TIR_PROJECT_ID"), repr=False, exclude=True
    )
    """TIR project, `6530` or `p-6530`; environment `E2E_TIR_PROJECT_ID`. Not needed with a complete base URL."""
    apikey: str | None = Field(default=None, repr=False, exclude=True)
    """Sent as the query parameter `apikey`, for gateways that require it; environment `E2E_TIR_API_KEY` (not with a
    complete base URL)."""

    timeout: Annotated[
        float | Timeout | None,
        GetPydanticSchema(lambda *_: core_schema.no_info_plain_validator_function(_read_timeout)),
        WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "object"}, {"type": "null"}]}),
    ] = None
    """Seconds to wait for progress, or a `tir_qwen.Timeout` (or a dict of its fields); unset: 600, and 5 to connect.
    Exceeding a limit raises a `tir_qwen.APITimeoutError`."""
    max_retries: int = Field(default=2, ge=0)
    """How often to retry a request that failed before its answer began: statuses 408, 409, 429 and 5xx, connection
    errors, timeouts. An answer of a chat model that has begun is never requested again."""
    default_headers: dict[str, str] | None = Field(default=None, repr=False, exclude=True)
    """Additional headers for every request; their values are treated as secrets."""
    allow_http: bool = False
    """Allow plain HTTP to other machines, which sends token and prompts unencrypted."""
    adaptive_limit: bool = True
    """Whether all calls of this model share a concurrency limit, which adapts when the endpoint refuses calls with 429,
    503 or 529. Such a refusal does not count as a retry while the endpoint accepts other calls."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the model's name and the arguments that were passed to the constructor, without secrets."""
        fields_set = getattr(self, "__pydantic_fields_set__", None)
        if fields_set is None:  # the constructor has failed
            return
        shown = {*fields_set, "model", "model_name"}
        for name, field in type(self).model_fields.items():
            if name in shown and field.repr and not field.exclude:
                yield name, getattr(self, name)

    __str__ = BaseModel.__repr__

    _cached_clients: tuple[dict[str, Any], Client, AsyncClient] | None = PrivateAttr(default=None)

    @property
    def capabilities(self) -> Capabilities:
        """What is known about the endpoint. Printed, it lists what is currently not used."""
        return self._client.capabilities

    def _client_settings(self) -> dict[str, Any]:
        """Return the arguments for both clients; subclasses add those that their framework names differently."""
        is_default = "project_id" not in self.model_fields_set and self.project_id
        return {
            "project_id": DefaultProject(self.project_id) if is_default else self.project_id,
            "apikey": self.apikey,
            "default_headers": self.default_headers,
            "allow_http": self.allow_http,
            "adaptive_limit": self.adaptive_limit,
        }

    def _own_http_clients(self) -> tuple[Any, Any]:
        """Return the synchronous and the asynchronous HTTP client that were passed in."""
        raise NotImplementedError

    @property
    def _client(self) -> Client:
        return self._clients()[0]

    @property
    def _async_client(self) -> AsyncClient:
        return self._clients()[1]

    def _clients(self) -> tuple[Client, AsyncClient]:
        """Return the cached clients, or new ones if a setting has changed (by assignment or in a copy)."""
        settings = self._client_settings()
        http_client, async_http_client = self._own_http_clients()
        cached = self._cached_clients
        if (
            cached is None
            or cached[0] != settings
            or cached[1].http_client is not http_client
            or cached[2].http_client is not async_http_client
        ):
            capabilities: dict[str, Capabilities] = {}
            try:
                client = Client(**settings, http_client=http_client, capabilities=capabilities)
                async_client = AsyncClient(**settings, http_client=async_http_client, capabilities=capabilities)
                async_client._share_limit(client)
            except ConfigurationError as error:
                settings.clear()  # no secrets in the traceback's locals
                cached = None
                traceback.clear_frames(error.__traceback__)
                raise
            cached = self._cached_clients = settings, client, async_client
        return cached[1:]

    def __getstate__(self) -> dict[Any, Any]:
        """Return the state to pickle: everything except HTTP clients, which cannot be pickled."""
        state = super().__getstate__()
        return {
            **state,
            "__dict__": {**state["__dict__"], **dict.fromkeys(_HTTP_CLIENT_FIELDS & state["__dict__"].keys())},
        }

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a deep copy that shares the HTTP clients that were passed in."""
        memo = {} if memo is None else memo
        for name in _HTTP_CLIENT_FIELDS:
            client = getattr(self, name, None)
            memo[id(client)] = client
        return super().__deepcopy__(memo)
