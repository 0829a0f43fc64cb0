"""A concurrency limit that adapts to what an endpoint refuses; all calls of a client share it.

The limits of an endpoint are unknown until it refuses a request. If each call then waited independently, all of them
would be sent again at the same time, be refused again, and use up their retries.

When the endpoint refuses a call, the limit falls to the number of other calls in progress. It grows again by one after
several rounds without a refusal. If there are no others, or the endpoint says how long to wait, all calls pause.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf, isfinite
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any
from weakref import WeakSet

from .._transport.deadline import Deadline
from .retry import MAX_RETRY_AFTER

logger = logging.getLogger("tir_qwen")

TOO_MANY = 429
REFUSALS = frozenset((TOO_MANY, 503, 529))
"""The statuses that mean "later": too many requests, or overloaded."""
_FIRST_PAUSE, _MAX_PAUSE, _PAUSE_GROWTH = 0.4, 8.0, 1.25
"""Seconds to wait after an endpoint has refused everything; growing with each refusal in a row."""
_MAX_SLOWNESS = 16
"""Maximum number of rounds of accepted calls before the limit grows by one, if it was too high before."""
_QUIET_SECONDS = 300.0
"""After this time without a refusal, the limit doubles in each round: the endpoint may have changed."""
_STALLED_SECONDS = 30.0
"""After this time without a change, the next call is sent anyway: one in progress may wait for it, as in a tool."""


class _Waiting:
    __slots__ = ("is_admitted", "since", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.since = monotonic()
        self.is_admitted = False

    def is_woken(self) -> bool:
        """Wake the call; False if it will never run again, since its event loop is closed."""
        try:
            self.wake()
        except RuntimeError:
            return False
        return True


class Throttle:
    """The limit of one client, for any number of threads and event loops.

    Each request calls `enter` (or `aenter`), then `accepted` or `refused`, and in the end `leave`.
    """

    def __init__(self) -> None:
        """Start without a limit."""
        self._reset()
        _throttles.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def _reset(self) -> None:
        self._lock = threading.RLock()  # a garbage-collected stream may leave while its thread holds the lock
        self._line: deque[_Waiting] = deque()
        self._in_flight = 0
        self._window = inf  # the limit on concurrent calls
        self._usual_window = inf  # to return to after the endpoint has refused everything
        self._is_out = False  # whether it has refused everything
        self._has_grown = False  # whether the window has grown since the last refusal
        self._slowness = 1  # see _MAX_SLOWNESS
        self._accepted = 0  # since the window has changed
        self._refused_at = -inf  # when the window fell; requests sent earlier belong to the same refusal
        self._refusals_in_a_row = 0
        self._paused_until = -inf
        self._changed_at = -inf
        self._accepted_at = -inf

    @property
    def pause(self) -> float:
        """The seconds until the next request may be sent."""
        return max(self._paused_until - monotonic(), 0.0)

    def is_patient(self, seconds: float) -> bool:
        """Whether the endpoint has accepted a call within the last `seconds`, so that waiting will help."""
        return monotonic() - self._accepted_at < seconds

    def enter(self, deadline: Deadline, *, again: bool = False) -> None:
        """Wait until a request may be sent.

        Args:
            deadline: The deadline of the call.
            again: Whether it has been refused before, and therefore is the next one to go.

        Raises:
            APITimeoutError: The endpoint has accepted nothing for too long, or the call has no time left.
        """
        if self._admit():
            return
        woken: SimpleQueue[None] = SimpleQueue()  # reentrant, unlike an Event
        waiting = self._join(lambda: woken.put(None), first=again)
        try:
            while not waiting.is_admitted:
                with suppress(Empty):
                    woken.get(timeout=self._seconds(waiting, deadline))
                self._advance()
        except BaseException:
            self._withdraw(waiting)
            raise
        deadline.start_request()

    async def aenter(self, deadline: Deadline, *, again: bool = False) -> None:
        """Wait until a request may be sent; see `enter`."""
        if self._admit():
            return
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        waiting = self._join(lambda: loop.call_soon_threadsafe(event.set), first=again)
        try:
            while not waiting.is_admitted:
                try:
                    async with asyncio.timeout(self._seconds(waiting, deadline)):
                        await event.wait()
                except TimeoutError:
                    pass
                event.clear()
                self._advance()
        except BaseException:
            self._withdraw(waiting)
            raise
        deadline.start_request()

    def accepted(self, sent_at: float, pause: float = 0.0) -> None:
        """Note that the endpoint has accepted a request.

        Args:
            sent_at: When the request was sent.
            pause: Seconds for which it will accept no others, if it says so.
        """
        self._accepted_at = monotonic()
        if self._window == inf and not pause:  # nearly always
            return
        with self._lock:
            if pause:
                self._pause(pause)
            if sent_at > self._refused_at:
                self._grow()
        self._advance(changed=True)

    def refused(self, status_code: int, retry_after: float | None, sent_at: float) -> None:
        """Note that the endpoint has refused a request for now.

        Args:
            status_code: The status.
            retry_after: How many seconds it says to wait; 0 is no advice.
            sent_at: When the request was sent.
        """
        with self._lock:
            held = self._in_flight - 1
            if sent_at > self._refused_at:  # the first one refused since the window has fallen
                self._start_refusal(status_code, held)
            is_shared = held or self._accepted_at > -inf  # otherwise only this call fails, and its error says so
            is_news = is_shared and (self._window == inf or (not held and not self._is_out))
            self._is_out = not held
            self._window = max(min(self._window, held), 1.0)
            if retry_after:
                self._pause(retry_after)
            elif not held:
                self._pause(min(_FIRST_PAUSE * _PAUSE_GROWTH ** (self._refusals_in_a_row - 1), _MAX_PAUSE))
        logger.log(
            logging.WARNING if is_news else logging.DEBUG,
            "The endpoint refuses calls (%d): %s in progress, the next one in %.1f s.",
            status_code,
            f"{held} others" if held else "no others",
            self.pause,
        )

    def _start_refusal(self, status_code: int, held: int) -> None:
        """Note that the endpoint has begun to refuse requests while this many others are in progress."""
        self._refused_at = monotonic()
        if not self._refusals_in_a_row and (held or self._window < inf):  # otherwise, no number is known
            usual = min(self._window, self._in_flight)
            self._usual_window = max(usual // 2, 1) if status_code == TOO_MANY else usual
        if self._has_grown or self._window == inf:  # too far
            self._slowness = min(self._slowness * 4, _MAX_SLOWNESS)
        self._refusals_in_a_row += 1
        self._accepted, self._has_grown = 0, False

    def leave(self) -> None:
        """Note that a request is over, whatever its outcome."""
        with self._lock:
            self._in_flight = max(self._in_flight - 1, 0)  # a forked child may close a stream of its parent
        if self._line:
            self._advance(changed=True)

    def _grow(self) -> None:
        """Raise the limit: a request that was sent after the last refusal has been accepted."""
        self._refusals_in_a_row = 0
        self._accepted += 1
        if self._is_out:
            self._window, self._accepted, self._is_out = max(self._window, self._usual_window), 0, False
        elif monotonic() - self._refused_at > _QUIET_SECONDS:
            self._window, self._slowness = self._window + 1, 1
        elif self._accepted >= self._slowness * self._window:
            self._window, self._accepted, self._has_grown = self._window + 1, 0, True
            self._slowness = max(self._slowness // 2, 1)

    def _pause(self, seconds: float) -> None:
        jitter = 1 + 0.1 * random.random()  # noqa: S311 - not for cryptography
        self._paused_until = max(self._paused_until, monotonic() + min(seconds, MAX_RETRY_AFTER) * jitter)

    def _admit(self) -> bool:
        with self._lock:
            if self._line or self._in_flight >= self._window or monotonic() < self._paused_until:
                return False
            self._in_flight += 1
            return True

    def _next_goes_at(self) -> float:
        """Return when the next call in the line may be sent, if nothing changes."""
        has_place = self._in_flight < self._window
        return self._paused_until if has_place else max(self._paused_until, self._changed_at + _STALLED_SECONDS)

    def _join(self, wake: Callable[[], object], *, first: bool) -> _Waiting:
        waiting = _Waiting(wake)
        with self._lock:
            if not self._line:
                self._changed_at = waiting.since
            if first:
                self._line.appendleft(waiting)
            else:
                self._line.append(waiting)
        self._advance()  # another call may have left since there was no room
        return waiting

    def _withdraw(self, waiting: _Waiting) -> None:
        """Remove a call that no longer waits, so that the next one may be sent instead."""
        self._remove(waiting)
        self._advance(changed=True)

    def _remove(self, waiting: _Waiting) -> None:
        with self._lock:
            if waiting.is_admitted:
                waiting.is_admitted = False
                self._in_flight -= 1
            else:
                with suppress(ValueError):  # it may have been removed already, with its event loop
                    self._line.remove(waiting)

    def _advance(self, *, changed: bool = False) -> None:
        """Admit the calls that may be sent, in order, and wake the next one to check its waiting time again."""
        woken = self._admit_waiting(changed=changed)
        while gone := [waiting for waiting in woken if not waiting.is_woken()]:
            for waiting in gone:
                self._remove(waiting)
            woken = self._admit_waiting(changed=True)

    def _admit_waiting(self, *, changed: bool) -> list[_Waiting]:
        """Remove the calls that may be sent from the line, and return those to wake."""
        woken = []
        with self._lock:
            now = monotonic()
            while self._next_goes_at() <= now and self._line:
                self._changed_at = now
                self._in_flight += 1
                waiting = self._line.popleft()
                waiting.is_admitted = True
                woken.append(waiting)
            if self._line and (woken or changed):
                woken.append(self._line[0])
        return woken

    def _seconds(self, waiting: _Waiting, deadline: Deadline) -> float | None:
        """Return how long to wait at most before checking again; None if something else will wake the call.

        Raises:
            APITimeoutError: The call has no time left.
        """
        now = monotonic()
        patience = inf if deadline.timeout.first_delta is None else deadline.timeout.first_delta
        give_up_at = min(max(waiting.since, self._accepted_at) + patience, deadline.total_expires_at)
        if now >= give_up_at:
            raise deadline.timeout_error("LineTimeout")
        wait_until = give_up_at
        with self._lock:
            if self._line and self._line[0] is waiting:
                wait_until = min(give_up_at, max(self._next_goes_at(), now + 0.001))
        return wait_until - now if isfinite(wait_until) else None


_throttles: WeakSet[Throttle] = WeakSet()


def _reset_all() -> None:
    """Start without a limit in a forked child: its parent's calls are not its own."""
    for throttle in list(_throttles):
        throttle._reset()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_reset_all)
