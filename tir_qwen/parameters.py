"""The constructor parameters that both faces share, as pydantic fields; each is documented here once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, StrictInt, ValidationError

from .client import AsyncClient, Client
from .dialect import Abilities
from .errors import ConfigurationError
from .settings import DEFAULT_MODEL
from .timeouts import Timeout, timeout_from

_CLIENTS = frozenset({"http_client", "http_async_client", "async_http_client"})
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
)


def _timeout(value: Any) -> Any:
    if isinstance(value, str):  # of a configuration file
        with suppress(ValueError):
            value = float(value)
    timeout = timeout_from(value)
    return value if isinstance(value, (int, float)) else timeout


class Parameters(BaseModel):
    """Parameters of a face. What is unset is not sent: the server's own defaults hold."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True, defer_build=True)

    model: str = DEFAULT_MODEL
    """Name of the model, in the path and in the body; any model on TIR's GenAI API, such as `deepseek_v3`."""
    project_id: str | StrictInt | None = Field(
        default_factory=lambda: os.environ.get("E2E_TIR_PROJECT_ID"), repr=False, exclude=True
    )
    """TIR project, `6530` or `p-6530`; environment `E2E_TIR_PROJECT_ID`. Not needed with a complete base URL."""
    apikey: str | None = Field(default=None, repr=False, exclude=True)
    """Sent as the query parameter `apikey`, where a gateway wants it; environment `E2E_TIR_API_KEY` (not with a
    complete base URL)."""

    temperature: float | None = None
    """How freely to choose, from 0. Qwen's authors recommend 0.6 with thinking and 0.7 without, and never 0 with
    thinking."""
    max_tokens: int | None = None
    """Upper limit of reasoning and answer together, in tokens. One that ends within the reasoning leaves an empty
    answer with the finish reason `length`."""
    top_p: float | None = None
    """Choose among the likeliest tokens that have this probability together, above 0 and up to 1. Qwen's authors
    recommend 0.95 with thinking and 0.8 without."""
    frequency_penalty: float | None = None
    """-2 to 2: against tokens by how often they have been written."""
    presence_penalty: float | None = None
    """-2 to 2: against tokens that have been written at all. Qwen's authors recommend 0 to 2 against endless
    repetition."""
    top_k: int | None = None
    """Choose among so many of the likeliest tokens, from 1; 0 is all of them. Qwen's authors recommend 20. Not
    documented by the operator: vLLM's own."""
    min_p: float | None = None
    """Choose among tokens that have this share of the likeliest one's probability, 0 to 1. Qwen's authors recommend 0.
    Not documented by the operator: vLLM's own."""
    repetition_penalty: float | None = None
    """Above 1: against tokens of the prompt and of the answer so far; 1 is none. Not documented by the operator: vLLM's
    own."""
    seed: int | None = None
    """Of the random choice: the same request with the same seed mostly has the same answer."""
    n: int | None = None
    """Answers to one prompt; not with streaming, and 1 with temperature 0."""
    stop: list[str] | str | None = None
    """Texts that end the answer, which does not hold them; in the reasoning they count too."""
    logprobs: bool | None = None
    """Have the log-probability of each token reported."""
    top_logprobs: int | None = None
    """With `logprobs`: of so many of the likeliest tokens at each place, too; vLLM allows 20."""
    enable_thinking: bool | None = None
    """Whether to reason before the answer; unset: the server's default, which is to reason. Where the server refuses or
    ignores it, `/no_think` or `/think` is written at the end of the last message."""
    tool_calling: Literal["auto", "native", "prompted"] = "auto"
    """How tools are offered: in the request (`native`), in the messages (`prompted`), or in the request as long as the
    server takes them (`auto`)."""

    timeout: Annotated[float | Timeout | None, BeforeValidator(_timeout)] = None
    """Seconds without progress of the server, or a `tir_qwen.Timeout` (or a dict of its parts); unset: 600, and 5 to
    connect. What runs out ends in a `tir_qwen.APITimeoutError`."""
    max_retries: int = Field(default=2, ge=0)
    """Further requests after one that failed before its answer began: statuses 408, 409, 429 and 5xx, connections, time
    limits. What has begun is never asked for twice."""
    default_headers: dict[str, str] | None = Field(default=None, repr=False, exclude=True)
    """Further headers for every request; their values count as secrets."""
    allow_http: bool = False
    """Accept plain http on other machines than this one: token and prompts then travel unencrypted."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What the constructor was given, without what must not be shown."""
        fields_set = getattr(self, "__pydantic_fields_set__", ())  # not there yet while the constructor fails
        for name, field in type(self).model_fields.items():
            if name in fields_set and field.repr and not field.exclude:
                yield name, getattr(self, name)

    _made: tuple[dict[str, Any], Client, AsyncClient] | None = PrivateAttr(default=None)

    def settings(self) -> dict[str, Any]:
        """The arguments of both clients; a face adds those that its framework names differently."""
        names = ("model", "project_id", "apikey", "default_headers", "allow_http")
        return {name: getattr(self, name) for name in names}

    def http_clients(self) -> tuple[Any, Any]:
        """The user's own HTTP clients."""
        raise NotImplementedError

    @property
    def _client(self) -> Client:
        return self._clients()[0]

    @property
    def _async_client(self) -> AsyncClient:
        return self._clients()[1]

    def _clients(self) -> tuple[Client, AsyncClient]:
        """The clients, made anew after a setting has changed by assignment or in a copy."""
        settings = self.settings()
        own, own_async = self.http_clients()
        made = self._made
        if made is None or made[0] != settings or made[1].given is not own or made[2].given is not own_async:
            abilities: dict[str, Abilities] = {}
            try:
                client = Client(**settings, http_client=own, abilities=abilities)
                async_client = AsyncClient(**settings, http_client=own_async, abilities=abilities)
            except ConfigurationError as error:
                settings.clear()  # for reports with locals
                made = error.__traceback__ = None
                raise
            made = self._made = settings, client, async_client
        return made[1:]

    def call_params(self) -> dict[str, Any]:
        """The parameters of a call that the constructor set, or an assignment since."""
        return {name: value for name in CALL_FIELDS if (value := getattr(self, name)) is not None}

    def all_params(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of one call: what it says, then what the constructor said."""
        return {"tool_calling": self.tool_calling, "schema_in": "both", **self.call_params(), **kwargs}

    def __getstate__(self) -> dict[Any, Any]:
        """What a pickle holds: all but clients that were passed in, which do not pickle."""
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], **dict.fromkeys(_CLIENTS & state["__dict__"].keys())}}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy, with the same clients if they were passed in."""
        memo = {} if memo is None else memo
        for name in _CLIENTS:
            client = getattr(self, name, None)
            memo[id(client)] = client
        return super().__deepcopy__(memo)


def construct(model: Parameters, init: Callable[..., None], kwargs: dict[str, Any]) -> None:
    """Run a face's `init` and make its clients, so that it complains of a wrong setting at once.

    Raises:
        ConfigurationError: A setting is wrong. It quotes no value; `kwargs` is empty then, for reports with locals.
    """
    try:
        _validate(type(model), init, kwargs)
        model._clients()
    except ConfigurationError as error:
        kwargs.clear()
        error.__traceback__ = None
        raise


def _validate(cls: type[BaseModel], init: Callable[..., None], kwargs: dict[str, Any]) -> None:
    try:
        init(**kwargs)
    except ValidationError as error:
        problems = [_problem(cls, entry["type"], entry["loc"], entry["msg"]) for entry in error.errors()]
    else:
        return
    raise ConfigurationError(f"{cls.__name__}: {'; '.join(dict.fromkeys(problems))}.")


def _problem(cls: type[BaseModel], kind: str, loc: tuple[int | str, ...], message: str) -> str:
    name = str(loc[0]) if loc else ""
    if kind == "extra_forbidden":
        names = {alias: known[0] for known in _names(cls) for alias in known}
        if name in names:
            return f"{name!r} and {names[name]!r} are the same argument: give one of them"
        near = get_close_matches(name, names, n=1)
        return f"there is no argument {name!r}" + (f" (did you mean {near[0]!r}?)" if near else "")
    message = message.removeprefix("Value error, ").removeprefix(f"{name}: ").removesuffix(".")
    return f"{name}: {message[:1].lower()}{message[1:]}" if name else message


def _names(cls: type[BaseModel]) -> Iterator[list[str]]:
    """Each field's name and its aliases."""
    for name, field in cls.model_fields.items():
        yield [name, *(alias for alias in getattr(field.validation_alias, "choices", ()) if alias != name)]
