"""Retries, reported to LangChain's callbacks (`on_retry`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun

from tir_qwen import TIRError

from .errors import as_twin

if TYPE_CHECKING:
    from tenacity import RetryCallState


def retry_reporter(run_manager: CallbackManagerForLLMRun) -> Callable[[TIRError, float], None]:
    """What to tell of a retry, synchronously."""

    def report(error: TIRError, delay: float) -> None:
        run_manager.on_retry(_state(error, delay))

    return report


def async_retry_reporter(run_manager: AsyncCallbackManagerForLLMRun) -> Callable[[TIRError, float], Awaitable[None]]:
    """What to tell of a retry, asynchronously."""

    async def report(error: TIRError, delay: float) -> None:
        await run_manager.on_retry(_state(error, delay))

    return report


def _state(error: TIRError, delay: float) -> RetryCallState:
    """The retry as tenacity describes one, which is what handlers expect."""
    from tenacity import RetryAction, RetryCallState, Retrying  # noqa: PLC0415 - takes 5 ms, and few calls are retried

    state = RetryCallState(retry_object=Retrying(), fn=None, args=(), kwargs={})
    state.attempt_number = error.attempts
    as_twin(error)
    state.set_exception((type(error), error, error.__traceback__))
    state.next_action = RetryAction(delay)
    return state
