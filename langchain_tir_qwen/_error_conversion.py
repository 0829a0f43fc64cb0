"""Conversion of the exceptions of `tir_qwen` to those of `langchain_tir_qwen.errors`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tir_qwen

from . import errors

LANGCHAIN_CLASSES: dict[type[tir_qwen.TIRError], type[tir_qwen.TIRError]] = {
    error_class.__bases__[0]: error_class
    for error_class in (
        errors.APIConnectionError,
        errors.APITimeoutError,
        errors.APIStatusError,
        errors.BadRequestError,
        errors.ContextOverflowError,
        errors.AuthenticationError,
        errors.PermissionDeniedError,
        errors.NotFoundError,
        errors.RateLimitError,
        errors.InternalServerError,
        errors.StreamInterruptedError,
        errors.MalformedChunkError,
        errors.ServerStreamError,
        errors.ConfigurationError,
    )
}


def to_langchain(error: tir_qwen.TIRError) -> tir_qwen.TIRError:
    """Return the error as an instance of its LangChain class, with the same message, attributes and traceback."""
    error_class = LANGCHAIN_CLASSES.get(type(error))
    if error_class is None:
        return error
    if error_class is errors.APIStatusError and not error.is_retryable:
        error_class = errors.RefusedError
    converted = error_class.__new__(error_class, *error.args)
    converted.__dict__.update(vars(error))
    return converted.with_traceback(error.__traceback__)


@contextmanager
def raises_langchain_errors() -> Iterator[None]:
    """Raise the errors of `tir_qwen` as those of LangChain."""
    try:
        yield
    except tir_qwen.TIRError as error:
        raise to_langchain(error) from None
