"""Our errors as LangChain's: each leaf of `tir_qwen.errors` with its twin of `langchain_core.exceptions`.

LangChain's middleware asks the twin (`is_retryable`, `ContextOverflowError`); LangGraph's default retry policy asks the
builtin bases: it tries everything again but RuntimeError and its like, so what is hopeless is a RuntimeError too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core import exceptions as langchain

import tir_qwen


class APIConnectionError(tir_qwen.APIConnectionError, langchain.ModelConnectionError):
    """No response arrived."""


class APITimeoutError(tir_qwen.APITimeoutError, langchain.ModelTimeoutError):
    """The server took too long."""


class APIStatusError(tir_qwen.APIStatusError, langchain.ModelError):
    """A status with no class of its own."""


class RefusedError(APIStatusError, RuntimeError):
    """A status with no class of its own, which another try would not change."""


class BadRequestError(tir_qwen.BadRequestError, langchain.ModelInvalidRequestError, RuntimeError):
    """400 or 422."""


class ContextOverflowError(tir_qwen.ContextOverflowError, langchain.ContextOverflowError, RuntimeError):
    """The prompt does not fit."""


class AuthenticationError(tir_qwen.AuthenticationError, langchain.ModelAuthenticationError, RuntimeError):
    """401."""


class PermissionDeniedError(tir_qwen.PermissionDeniedError, langchain.ModelPermissionDeniedError, RuntimeError):
    """403."""


class NotFoundError(tir_qwen.NotFoundError, langchain.ModelNotFoundError, RuntimeError):
    """404."""


class RateLimitError(tir_qwen.RateLimitError, langchain.ModelRateLimitError):
    """429."""


class InternalServerError(tir_qwen.InternalServerError, langchain.ModelAPIError):
    """5xx."""


class StreamInterruptedError(tir_qwen.StreamInterruptedError, langchain.ModelConnectionError):
    """The answer never ended."""


class MalformedChunkError(tir_qwen.MalformedChunkError, langchain.ModelError, RuntimeError):
    """The answer is not what the protocol promises."""


class ServerStreamError(tir_qwen.ServerStreamError, langchain.ModelAPIError):
    """The server reported an error within its answer."""


class ConfigurationError(tir_qwen.ConfigurationError, langchain.ModelInvalidRequestError):
    """Nothing was sent."""


TWINS: dict[type[tir_qwen.TIRError], type[tir_qwen.TIRError]] = {
    twin.__bases__[0]: twin
    for twin in (
        APIConnectionError,
        APITimeoutError,
        APIStatusError,
        BadRequestError,
        ContextOverflowError,
        AuthenticationError,
        PermissionDeniedError,
        NotFoundError,
        RateLimitError,
        InternalServerError,
        StreamInterruptedError,
        MalformedChunkError,
        ServerStreamError,
        ConfigurationError,
    )
}


def as_twin(error: tir_qwen.TIRError) -> tir_qwen.TIRError:
    """Make an error its twin: the same object, so that its traceback and attributes stay."""
    twin = TWINS.get(type(error), type(error))
    error.__class__ = RefusedError if twin is APIStatusError and not error.is_retryable else twin
    return error


@contextmanager
def errors_for_langchain() -> Iterator[None]:
    """Raise errors as their twins."""
    try:
        yield
    except tir_qwen.TIRError as error:
        as_twin(error)
        raise
