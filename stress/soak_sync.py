"""Soak test of one Client: streams are abandoned and threads interrupted at random points.

Worker threads are interrupted by `PyThreadState_SetAsyncExc`, the main thread by a signal that raises
KeyboardInterrupt. The former only takes effect when a thread returns from a system call, so the server does not stall
its answers for long.
"""

from __future__ import annotations

import ctypes
import heapq
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from tir_qwen import Client

from .leaks import UNCLOSED_CONNECTED, UNCLOSED_CONNECTING, Complaints, figures
from .server import Running
from .soak import (
    AFTERWARDS,
    AT_ONCE,
    HUNG_SECONDS,
    SEED,
    WITH_DELTAS,
    Dice,
    Report,
    lift_limit,
    limited,
    question,
    right_answer,
)

LEAVES = ("break", "dropped", "close", "thrown")
WORKERS = 16
HOLD = 0.03
"""Seconds for which the server stalls an answer."""


class Interrupted(BaseException):
    """Raised in a worker thread by another thread."""


class Interrupter(threading.Thread):
    """Interrupts other threads at given times, and then every second until they call `arrived`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._due: list[tuple[float, int]] = []
        self._changed = threading.Condition()
        self._over = False
        self._again: Counter[int] = Counter()
        self.swallowed = 0
        """Number of interrupts that never arrived, because they were raised in code whose caller ignores exceptions."""
        self.start()

    def soon(self, seconds: float) -> None:
        """Interrupt the calling thread after some seconds; the main thread by a signal."""
        if threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
            return
        with self._changed:
            self._again[threading.get_ident()] = 0
            heapq.heappush(self._due, (time.monotonic() + seconds, threading.get_ident()))
            self._changed.notify()

    def arrived(self) -> None:
        """Stop interrupting the calling thread."""
        me = threading.get_ident()
        if threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)
        with self._changed:
            self._due = [due for due in self._due if due[1] != me]
            heapq.heapify(self._due)
            self.swallowed += max(self._again.pop(me, 0) - 1, 0)

    def stop(self) -> None:
        """Stop the interrupter."""
        with self._changed:
            self._over = True
            self._changed.notify()
        self.join()

    def run(self) -> None:
        """Interrupt the threads that are due."""
        while not self._over:
            with self._changed:
                wait = self._due[0][0] - time.monotonic() if self._due else 1.0
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                due, thread = heapq.heappop(self._due)
                heapq.heappush(self._due, (due + 1.0, thread))
                self._again[thread] += 1
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Interrupted))


class Soak:
    """One client, and the outcomes of its calls."""

    def __init__(self, server: Running) -> None:
        self.client = Client(base_url=server.base_url, max_retries=1000)
        self.unaccepted = Client(base_url=server.full_url, timeout=HOLD)
        """A client whose server accepts no connection."""
        self.report = Report()
        self.interrupter = Interrupter()
        self._lock = threading.Lock()

    def work(self, seed: int, numbers: Iterator[int]) -> None:
        """Make calls in sequence."""
        dice = Dice(seed)
        while self.report.failures.total() <= 20:
            with self._lock:
                number = next(numbers, None)
            if number is None:
                return
            phase = dice.phase()
            began = time.monotonic()
            try:
                way = self._one(dice, phase, number)
            except Exception as error:  # noqa: BLE001 - errors are counted
                way = f"{type(error).__name__}: {error}"[:200]
                self._fail(f"{phase}: {way}")
            if time.monotonic() - began > HUNG_SECONDS:
                self._fail(f"{phase}: hung")
            with self._lock:
                self.report.left[f"{phase}/{way}"] += 1
                self.report.calls += 1

    def _fail(self, text: str) -> None:
        with self._lock:
            self.report.failures[text] += 1

    def _one(self, dice: Dice, phase: str, number: int) -> str:
        streamed = dice.streamed(phase)
        if phase == "answered":
            if ask(self.client, question("answer", number), streamed) != right_answer(number):
                self._fail("a wrong answer")
            return "streamed" if streamed else "whole"
        way = dice.random.choice(("interrupted", *LEAVES) if phase in WITH_DELTAS else ("interrupted",))
        if way == "interrupted":
            return self._interrupted(dice, phase, number, streamed)
        self._leave(way, phase, number, 1 if phase != "deltas" else dice.random.randrange(1, 4))
        return way

    def _leave(self, way: str, phase: str, number: int, wanted: int) -> None:
        deltas = self.client.stream(question(phase, number, hold=HOLD))
        taken = 0
        with suppress(KeyError):
            for _ in deltas:
                taken += 1
                if taken == wanted:
                    if way == "thrown":
                        raise KeyError
                    break
        if way == "close":
            deltas.close()

    def _interrupted(self, dice: Dice, phase: str, number: int, streamed: bool) -> str:
        client = self.unaccepted if phase == "connecting" else self.client
        mode = phase if phase not in ("at once", "connecting") else "answer"
        messages = question(mode, number, hold=HOLD)
        seconds = max(dice.seconds(0.003 if phase == "at once" else 2 * HOLD), 1e-6)
        failure = None
        try:
            self.interrupter.soon(seconds)
            try:
                ask(client, messages, streamed)
            except Exception as error:  # noqa: BLE001
                if phase != "connecting":
                    failure = error
            while True:
                time.sleep(0.001)
        except Interrupted:
            way = "interrupted"
        except KeyboardInterrupt:
            way = "KeyboardInterrupt"
        self.interrupter.arrived()
        if failure is not None:
            raise failure
        return way


def ask(client: Client, messages: Any, streamed: bool) -> str:
    """Return the answer."""
    if streamed:
        return "".join(delta.content for delta in client.stream(messages))
    return client.complete(messages).content


def answered(client: Client, numbers: range, wait: float = 0.0) -> int:
    """Return how many of these calls, some of them concurrent, get the right answer."""

    def one(number: int) -> bool:
        with suppress(Exception):
            return ask(client, question("answer", number, wait=wait), number % 2 == 0) == right_answer(number)
        return False

    with ThreadPoolExecutor(len(numbers) if wait else WORKERS) as threads:
        return sum(threads.map(one, numbers))


def main(calls: int, server: Running, complaints: Complaints) -> Report:
    """Warm up, count resources, make the calls, and count again."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    soak = Soak(server)
    report = soak.report
    answered(soak.client, range(AFTERWARDS))
    soak.client.close()
    report.before = figures()
    began, numbers = time.monotonic(), iter(range(calls))
    workers = [threading.Thread(target=soak.work, args=(SEED + worker, numbers)) for worker in range(WORKERS)]
    for worker in workers:
        worker.start()
    soak.work(SEED - 1, numbers)
    for worker in workers:
        worker.join()
    report.seconds = time.monotonic() - began
    began = time.monotonic()
    report.next_answered = answered(soak.client, range(calls, calls + AFTERWARDS))
    report.next_seconds = time.monotonic() - began
    report.afterwards = figures()
    lift_limit(soak.client, report)
    answered(soak.client, range(AT_ONCE), wait=5.0)
    report.at_once = server.stats()["most"]
    soak.client.close()
    soak.unaccepted.close()
    soak.interrupter.stop()
    time.sleep(0.5)
    report.closed = figures()
    report.server = server.stats()
    report.complaints = Counter(text[:200] for text in complaints.texts)
    _tolerate(report)
    if soak.interrupter.swallowed:
        report.complaints["an interrupt that was swallowed"] = soak.interrupter.swallowed
    return report


def _tolerate(report: Report) -> None:
    """Separate the complaints that are caused by the standard library.

    `socket.create_connection` does not close its socket when interrupted, and neither does the engine in the moment
    after it received one. Such a socket is closed without the garbage collector, but with a warning.
    """
    interrupted = sum(
        count for key, count in report.left.items() if key.endswith(("/interrupted", "/KeyboardInterrupt"))
    )
    for text, most in ((UNCLOSED_CONNECTING, interrupted), (UNCLOSED_CONNECTED, interrupted // 50)):
        if 0 < report.complaints[f"ResourceWarning: {text}"] <= most:
            report.tolerated[text] = report.complaints.pop(f"ResourceWarning: {text}")
    report.complaints += Counter()  # drops the zeros


if __name__ == "__main__":
    limited(int(sys.argv[1]))
    everything = Complaints()
    print(main(int(sys.argv[1]), Running(*sys.argv[2:]), everything).as_json())
