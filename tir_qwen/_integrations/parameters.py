"""The constructor parameters shared by both integrations, as pydantic fields, and the clients created from them."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr, StrictInt

from .._client.client import AsyncClient, Client
from .._dialect.capabilities import Capabilities
from .._request.endpoint import DEFAULT_MODEL
from ..errors import ConfigurationError
from ..timeouts import Timeout, timeout_from

_HTTP_CLIENT_FIELDS = frozenset({"http_client", "http_async_client", "async_http_client"})
CALL_FIELDS = (
    "model",
    "timeout",
    "max_retries",
    "temperature",
    "max_tokens",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "n",
    "stop",
    "logprobs",
    "top_logprobs",
    "enable_thinking",
    "thinking_budget",
)


def _read_timeout(value: Any) -> Any:
    if isinstance(value, str):  # from a configuration file
        with suppress(ValueError):
            value = float(value)
    timeout = timeout_from(value)
    return value if isinstance(value, (int, float)) else timeout


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


class ModelSettings(_Aliases):
    """The settings of a model. Unset parameters are not sent, so the server's defaults apply."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True, defer_build=True)

    model: str = DEFAULT_MODEL
    """Name of the model, sent in the path and the body; any model on TIR's GenAI API, such as `deepseek_v3`."""
    project_id: str | StrictInt | None = Field(
        default_factory=lambda: os.environ.get("E2E_TIR_PROJECT_ID"), repr=False, exclude=True
    )
    """TIR project, `6530` or `p-6530`; environment `E2E_TIR_PROJECT_ID`. Not needed with a complete base URL."""
    apikey: str | None = Field(default=None, repr=False, exclude=True)
    """Sent as the query parameter `apikey`, for gateways that require it; environment `E2E_TIR_API_KEY` (not with a
    complete base URL)."""

    temperature: float | None = None
    """Sampling temperature, 0 or higher. Qwen's authors recommend 0.6 with thinking (and advise against 0) and 0.7
    without."""
    max_tokens: int | None = None
    """Maximum number of tokens of the reasoning and the answer. If it is reached during the reasoning, the answer is
    empty and its finish reason is `length`."""
    top_p: float | None = None
    """Nucleus sampling: sample from the most likely tokens with this total probability, above 0 and up to 1. Qwen's
    authors recommend 0.95 with thinking and 0.8 without."""
    frequency_penalty: float | None = None
    """-2 to 2: penalty for each occurrence of a token in the answer so far."""
    presence_penalty: float | None = None
    """-2 to 2: penalty for tokens that occur in the answer so far. Qwen's authors recommend 0 to 2 against endless
    repetition."""
    top_k: int | None = None
    """Sample from this many of the most likely tokens; 0 means all. Qwen's authors recommend 20. A parameter of vLLM
    that TIR does not document."""
    min_p: float | None = None
    """Sample from tokens with at least this fraction of the most likely one's probability, 0 to 1. Qwen's authors
    recommend 0. A parameter of vLLM that TIR does not document."""
    repetition_penalty: float | None = None
    """Above 1: penalty for tokens of the prompt and of the answer so far; 1 is none. A parameter of vLLM that TIR does
    not document."""
    seed: int | None = None
    """Seed of the sampling: repeating a request with the same seed usually gives the same answer."""
    n: int | None = None
    """Number of answers to one prompt. Must be 1 for streams, and with a temperature of 0."""
    stop: list[str] | str | None = None
    """Strings that end the answer, which does not include them. They also apply within the reasoning."""
    logprobs: bool | None = None
    """Whether to report the log-probability of each token."""
    top_logprobs: int | None = None
    """With `logprobs`: how many of the most likely tokens to report at each position; vLLM allows 20."""
    enable_thinking: bool | None = None
    """Whether to reason before answering; unset: the server's default, usually to reason. If the server rejects or
    ignores it, `/no_think` or `/think` is appended to the user's last message."""
    thinking_budget: int | None = Field(default=None, ge=0)
    """Maximum number of tokens of the reasoning, after which the answer follows; 0 is `enable_thinking=False`.
    `max_tokens` limits reasoning and answer together. If the server has no such limit itself, a second request
    continues the answer."""
    tool_calling: Literal["auto", "native", "prompted"] = "auto"
    """How tools are sent: in the request (`native`), in the messages (`prompted`), or in the request unless the server
    rejects them (`auto`)."""

    timeout: Annotated[float | Timeout | None, BeforeValidator(_read_timeout)] = None
    """Seconds to wait for progress, or a `tir_qwen.Timeout` (or a dict of its fields); unset: 600, and 5 to connect.
    Exceeding a limit raises a `tir_qwen.APITimeoutError`."""
    max_retries: int = Field(default=2, ge=0)
    """How often to retry a request that failed before its answer began: statuses 408, 409, 429 and 5xx, connection
    errors, timeouts. An answer that has begun is never requested again."""
    default_headers: dict[str, str] | None = Field(default=None, repr=False, exclude=True)
    """Additional headers for every request; their values are treated as secrets."""
    allow_http: bool = False
    """Allow plain HTTP to other machines, which sends token and prompts unencrypted."""
    adaptive_limit: bool = True
    """Whether all calls of this model share a limit on the calls at once, which adapts to what the endpoint refuses
    with 429, 503 or 529. Such a refusal does not count as a retry while the endpoint accepts others."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the arguments that were passed to the constructor, without secrets."""
        fields_set = getattr(self, "__pydantic_fields_set__", ())  # not set yet if the constructor fails
        for name, field in type(self).model_fields.items():
            if name in fields_set and field.repr and not field.exclude:
                yield name, getattr(self, name)

    _cached_clients: tuple[dict[str, Any], Client, AsyncClient] | None = PrivateAttr(default=None)

    @property
    def capabilities(self) -> Capabilities:
        """What is known about the endpoint: printed, it says what has been given up."""
        return self._client.capabilities

    def _client_settings(self) -> dict[str, Any]:
        """Return the arguments for both clients; subclasses add those that their framework names differently."""
        return {
            "model": self.model,
            "project_id": self.project_id,
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

    def _default_call_params(self) -> dict[str, Any]:
        """Return the call parameters set in the constructor or by assignment."""
        return {name: value for name in CALL_FIELDS if (value := getattr(self, name)) is not None}

    def _merge_call_params(
        self, kwargs: Mapping[str, Any], extra_body: Mapping[str, Any] | None, *, stream: bool = False
    ) -> dict[str, Any]:
        """Return the parameters of a call; `kwargs` take precedence over the constructor's parameters and `extra_body`.

        Raises:
            ConfigurationError: A stream would have several answers, which the frameworks would merge into one.
        """
        params = {"tool_calling": self.tool_calling, "schema_in": "both", **self._default_call_params(), **kwargs}
        extra_of_call = kwargs.get("extra_body") or {}
        if not isinstance(extra_of_call, Mapping):
            return params  # the client reports it
        extra = {**_without_replaced(extra_body or {}, kwargs), **extra_of_call}
        if extra:
            params["extra_body"] = extra
        answers = extra.get("n", params.get("n"))
        if stream and isinstance(answers, int) and answers > 1:
            raise ConfigurationError("n must be 1 for a stream: the parts of all answers would be merged into one.")
        return params

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


def _without_replaced(extra_body: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's `extra_body` without the fields that the parameters of a call replace."""
    fields = {name: value for name, value in extra_body.items() if name not in kwargs}
    template = fields.get("chat_template_kwargs")
    if "enable_thinking" in kwargs and isinstance(template, Mapping):
        fields["chat_template_kwargs"] = {k: value for k, value in template.items() if k != "enable_thinking"}
    return fields
