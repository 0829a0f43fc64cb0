"""Reporting of retries to LangChain callbacks (`on_retry`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun

from tir_qwen import TIRError

from ._error_conversion import to_langchain

if TYPE_CHECKING:
    from tenacity import RetryCallState


def retry_reporter(run_manager: CallbackManagerForLLMRun) -> Callable[[TIRError, float], None]:
    """Return a function that reports a retry."""

    def report(error: TIRError, delay: float) -> None:
        run_manager.on_retry(_retry_state(error, delay))

    return report


def async_retry_reporter(run_manager: AsyncCallbackManagerForLLMRun) -> Callable[[TIRError, float], Awaitable[None]]:
    """Return a coroutine function that reports a retry."""

    async def report(error: TIRError, delay: float) -> None:
        await run_manager.on_retry(_retry_state(error, delay))

    return report


def _retry_state(error: TIRError, delay: float) -> RetryCallState:
    """Describe the retry as a tenacity `RetryCallState`, which callback handlers expect."""
    from tenacity import RetryAction, RetryCallState, Retrying  # noqa: PLC0415 - it takes 5 ms, and few calls are retried

    state = RetryCallState(retry_object=Retrying(), fn=None, args=(), kwargs={})
    state.attempt_number = error.attempts
    converted = to_langchain(error)
    state.set_exception((type(converted), converted, converted.__traceback__))
    state.next_action = RetryAction(delay)
    return state
