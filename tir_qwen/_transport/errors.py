"""Conversion of the HTTP engine's errors to those of this library."""

from __future__ import annotations

from typing import TypeVar

from ..errors import MalformedChunkError, StreamInterruptedError
from .connection_errors import FORGOTTEN, connection_error, is_forgotten, timeout_error
from .deadline import Deadline, DeadlineExceededError
from .trace import RequestTrace

_ENGINES = frozenset({"httpx2", "httpx", "httpcore2", "httpcore"})
_PACKAGES_BELOW = _ENGINES | {"anyio", "h11"}
"""Packages whose stack frames refer to the request."""

_Error = TypeVar("_Error", bound=BaseException)


def error_from_engine(
    error: BaseException, deadline: Deadline, trace: RequestTrace | None = None, *, stale: bool = False
) -> BaseException:
    """Return the error to raise in place of one raised by the HTTP engine.

    Other errors, such as a cancellation, are returned as they are, without the engine's stack frames. Engine errors
    must not be chained: they refer to the request, which contains the token.

    Args:
        error: What was raised.
        deadline: The deadline of the call, which knows the limit that a timeout exceeded.
        trace: The trace of the request; None if its response had begun.
        stale: Whether the request failed because it was sent over an idle connection that had been closed.
    """
    kinds = {cls.__name__ for cls in type(error).__mro__ if _package(cls.__module__) in _ENGINES}
    kind = type(error).__name__
    is_late = "TimeoutException" in kinds and not is_forgotten(error)
    if is_late or isinstance(error, DeadlineExceededError):
        return deadline.timeout_error(kind) if trace is None else timeout_error(kind, deadline, trace)
    if "DecodingError" in kinds:
        return MalformedChunkError("the compression of the answer is corrupt")
    is_unconverted = _package(type(error).__module__) in ("ssl", "socksio")  # by anyio, and by the engine
    if not (is_unconverted or kinds & {"TransportError", "NetworkError"}):
        return without_engine_frames(error)
    if trace is None:
        detail = FORGOTTEN if is_forgotten(error) else kind
        return StreamInterruptedError(f"the connection broke before the end of the answer ({detail})")
    failure = connection_error(error, trace)
    failure.stale = stale and failure.is_retryable
    return failure


def without_engine_frames(error: _Error) -> _Error:
    """Remove the engine's frames from the tracebacks of an error and of its causes and contexts.

    Tools that report the local variables of a traceback would show the request.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            _remove_engine_frames(current)
            pending += current.__cause__, current.__context__
    return error


def _remove_engine_frames(error: BaseException) -> None:
    kept = []
    traceback = error.__traceback__
    while traceback is not None:
        if _package(traceback.tb_frame.f_globals.get("__name__", "")) not in _PACKAGES_BELOW:
            kept.append(traceback)
        traceback = traceback.tb_next
    for one, following in zip(kept, [*kept[1:], None], strict=False):
        one.tb_next = following
    error.__traceback__ = kept[0] if kept else None


def _package(module: str) -> str:
    return module.partition(".")[0]
