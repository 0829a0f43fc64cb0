"""The parameters of `Client.embed`, and their validation."""

# Without `from __future__ import annotations`: the types are checked at run time (see `validation`).

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ...errors import ConfigurationError
from ...timeouts import Timeout, timeout_from
from ...types import JSON
from ..parameters import OnRetry, TimeoutLike
from ..retry import RetryPolicy
from ..validation import check_body_fields, check_parameters, checks_of

BATCH_SIZE = 32
"""Texts per request: what Hugging Face's text-embeddings-inference accepts by default; vLLM has no limit."""
MAX_CONCURRENCY = 8
"""Concurrent requests."""
_COUNTS = ("dimensions", "batch_size", "max_concurrency")
_BASE64_FIELDS = ("embed_dtype", "endianness")
"""Fields of vLLM that change the encoding of base64 vectors, which the answer does not show."""


class EmbeddingParameters(TypedDict, total=False):
    """The parameters of `Client.embed`; None means unset."""

    dimensions: int | None
    """Length of the vectors, for models that support several; unset: the model's."""
    truncate_prompt_tokens: int | None
    """Keep only this many tokens of each text; -1: as many as the model allows. A field of vLLM; unset: a text that is
    too long is an error."""
    batch_size: int | None
    """Maximum number of texts in one request; 32 if unset."""
    max_concurrency: int | None
    """Maximum number of concurrent requests; 8 if unset."""
    extra_body: Mapping[str, Any] | None
    """Further fields of the request body; they take precedence over all other parameters."""
    timeout: TimeoutLike
    """Seconds to wait for each request, or a `tir_qwen.Timeout`; replaces the client's."""
    max_retries: int | None
    """How often to retry a request that failed; replaces the client's."""
    on_retry: OnRetry
    """Called with the error and the delay in seconds before each retry; awaited by `AsyncClient`."""


_CHECKS = checks_of(EmbeddingParameters)


@dataclass(frozen=True, slots=True)
class EmbeddingOptions:
    """The arguments of `Client.embed`. None means unset.

    Attributes:
        texts: What to embed.
        fields: The other fields of the request body.
        dimensions: Length of the vectors.
        batch_size: Maximum number of texts in one request.
        max_concurrency: Maximum number of concurrent requests.
        timeout: The time limits.
        retry_policy: Which errors are retried.
        on_retry: Called before each retry.
    """

    texts: Sequence[str]
    fields: JSON
    dimensions: int | None
    batch_size: int
    max_concurrency: int
    timeout: Timeout | None
    retry_policy: RetryPolicy | None
    on_retry: Any


def check_texts(texts: Any) -> None:
    """Check that texts are a list of strings that can be sent.

    Raises:
        ConfigurationError: They are not; the message gives the position of a text, from 0, but does not quote it.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise ConfigurationError("texts must be a list of strings.")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigurationError(f"texts[{position}] must be a string, not {type(text).__name__}.")
        if _has_lone_surrogates(text):
            raise ConfigurationError(
                f"texts[{position}] contains lone surrogates, which cannot be sent:"
                " text.encode(errors='replace').decode() replaces them."
            )


def _has_lone_surrogates(text: str) -> bool:
    """Whether a text has lone surrogates, which some readers of PDF files produce."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def read_embedding_arguments(texts: Any, params: EmbeddingParameters) -> EmbeddingOptions:
    """Validate the arguments of `Client.embed`.

    Raises:
        ConfigurationError: An argument is unknown or malformed; the message names it, but never quotes its value.
    """
    check_texts(texts)
    check_parameters(params, _CHECKS)
    for name in _COUNTS:
        if (count := params.get(name)) is not None and count < 1:  # type: ignore[operator]
            raise ConfigurationError(f"{name} must be 1 or more.")
    extra = params.get("extra_body") or {}
    check_body_fields(extra)
    for name in _BASE64_FIELDS:
        if name in extra:
            raise ConfigurationError(f"{name} cannot be set: vectors are read as little-endian 32-bit floats.")
    named = {name: params.get(name) for name in ("dimensions", "truncate_prompt_tokens")}
    fields = {**{name: value for name, value in named.items() if value is not None}, **extra}
    retries, dimensions = params.get("max_retries"), fields.get("dimensions")
    return EmbeddingOptions(
        texts=list(texts),
        fields=fields,
        dimensions=dimensions if isinstance(dimensions, int) else None,
        batch_size=params.get("batch_size") or BATCH_SIZE,
        max_concurrency=params.get("max_concurrency") or MAX_CONCURRENCY,
        timeout=timeout_from(params.get("timeout")),
        retry_policy=None if retries is None else RetryPolicy(retries),
        on_retry=params.get("on_retry"),
    )
