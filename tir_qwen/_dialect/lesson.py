"""What has been given up because a server did not support it, and when to try it again."""

from __future__ import annotations

from time import time

_CALLS, _SECONDS = 100, 600.0
"""The number of calls that could use it, or of seconds, until it is tried again; doubled by each failure."""
_MAX_PATIENCE = 64
"""The maximum factor."""


class Lesson:
    """Something that is not supported; it is tried again after some calls, or after some time."""

    __slots__ = ("_calls", "_patience", "_since")

    def __init__(self, *, is_due: bool = False) -> None:
        self._since = 0.0 if is_due else time()
        self._calls = 0
        self._patience = 1

    def is_due(self) -> bool:
        """Count a call; return whether it should try again. If so, no other call does for some time."""
        self._calls += 1
        if self._calls < _CALLS * self._patience and time() - self._since < _SECONDS * self._patience:
            return False
        self._calls, self._since = 0, time()
        return True

    def repeat(self) -> None:
        """Wait longer, since a trial has failed."""
        self._patience = min(self._patience * 2, _MAX_PATIENCE)
