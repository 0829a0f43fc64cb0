"""The constructor parameters of both chat models, as pydantic fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from .._request.endpoint import DEFAULT_MODEL
from ..errors import ConfigurationError
from .connection import ConnectionSettings

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


class ModelSettings(ConnectionSettings):
    """The settings of a model. Unset parameters are not sent, so the server's defaults apply."""

    model: str = DEFAULT_MODEL
    """Name of the model, sent in the path and the body; any model on TIR's GenAI API, such as `deepseek_v3`."""
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

    def _client_settings(self) -> dict[str, Any]:
        return {**super()._client_settings(), "model": self.model}

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
        defaults = _without_contradicted(self._default_call_params(), kwargs)
        params = {"tool_calling": self.tool_calling, "schema_in": "both", **defaults, **kwargs}
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


def _without_contradicted(defaults: dict[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's parameters without one that turns off the thinking that a call asks for."""
    if kwargs.get("enable_thinking") and defaults.get("thinking_budget") == 0:
        del defaults["thinking_budget"]
    if kwargs.get("thinking_budget") and defaults.get("enable_thinking") is False:
        del defaults["enable_thinking"]
    return defaults


def _without_replaced(extra_body: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's `extra_body` without the fields that the parameters of a call replace."""
    fields = {name: value for name, value in extra_body.items() if name not in kwargs}
    template = fields.get("chat_template_kwargs")
    if "enable_thinking" in kwargs and isinstance(template, Mapping):
        fields["chat_template_kwargs"] = {k: value for k, value in template.items() if k != "enable_thinking"}
    return fields
