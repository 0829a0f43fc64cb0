"""The exceptions of `tir_qwen.errors`, as exceptions of LangChain too.

Each class also inherits from its counterpart in `langchain_core.exceptions`, which LangChain's middleware checks
(`is_retryable`, `ContextOverflowError`). LangGraph's default retry policy retries everything except RuntimeError and
some other built-in exceptions, so errors that a retry cannot fix are also RuntimeErrors.

To catch all of them, use `tir_qwen.TIRError`, or `tir_qwen.StreamError` for answers that fail after they have begun.
"""

from __future__ import annotations

from langchain_core import exceptions as langchain

import tir_qwen


class APIConnectionError(tir_qwen.APIConnectionError, langchain.ModelConnectionError):
    """No response arrived."""


class APITimeoutError(tir_qwen.APITimeoutError, langchain.ModelTimeoutError):
    """A time limit was exceeded."""


class APIStatusError(tir_qwen.APIStatusError, langchain.ModelError):
    """A status without a more specific class."""


class RefusedError(APIStatusError, RuntimeError):
    """A status without a more specific class, which a retry would not change."""


class BadRequestError(tir_qwen.BadRequestError, langchain.ModelInvalidRequestError, RuntimeError):
    """400 or 422."""


class ContextOverflowError(tir_qwen.ContextOverflowError, langchain.ContextOverflowError, RuntimeError):
    """The prompt exceeds the context window."""


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
    """The stream ended before the answer did."""


class MalformedChunkError(tir_qwen.MalformedChunkError, langchain.ModelError, RuntimeError):
    """The answer violates the protocol."""


class ServerStreamError(tir_qwen.ServerStreamError, langchain.ModelAPIError):
    """The server reported an error within its answer."""


class ConfigurationError(tir_qwen.ConfigurationError, langchain.ModelInvalidRequestError):
    """Nothing was sent."""
