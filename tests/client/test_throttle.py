"""The limit on calls at once that all calls of a client share."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Any

import pytest

from langchain_tir_qwen import ChatTIRQwen
from tests.support.server import (
    MESSAGES,
    Driver,
    Endless,
    Loopback,
    Request,
    both_clients,
    completion,
    failure,
    in_turn,
    response,
)
from tir_qwen import APITimeoutError, AsyncClient, Client, RateLimitError, Timeout
from tir_qwen._client import throttle as module
from tir_qwen._client.throttle import Throttle
from tir_qwen._transport.deadline import Deadline

LATER = response({"error": {"message": "later"}}, "429 Too Many Requests")
OUT = response({"error": {"message": "out"}}, "503 Service Unavailable")


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of throttles, without jitter."""
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    monkeypatch.setattr(module.random, "random", lambda: 0.0)
    return clock


def admitted(throttle: Throttle, most: int = 100) -> int:
    """Return how many more requests may be sent now, and send them."""
    count = 0
    while count < most and throttle._admit():
        count += 1
    return count


def refuse(throttle: Throttle, count: int, sent_at: float, status: int = 429, retry_after: float | None = None) -> None:
    """Refuse this many of the requests at work."""
    for _ in range(count):
        throttle.refused(status, retry_after, sent_at)
        throttle.leave()


def accept(throttle: Throttle, count: int, clock: Clock) -> None:
    """Accept and end this many of the requests at work, all sent now."""
    for _ in range(count):
        throttle.accepted(clock.now)
        throttle.leave()


def test_there_is_no_limit_until_something_is_refused(clock: Clock) -> None:
    """An endpoint that accepts everything gets everything at once."""
    throttle = Throttle()
    assert admitted(throttle) == 100
    accept(throttle, 100, clock)
    assert admitted(throttle, 1000) == 1000


def test_the_limit_is_what_the_endpoint_held(clock: Clock) -> None:
    """If it refuses 24 of 32, then eight are allowed, without a pause, and one more after four rounds."""
    throttle = Throttle()
    admitted(throttle, 32)
    refuse(throttle, 24, clock.now)
    assert admitted(throttle) == 0
    clock.now += 1
    accept(throttle, 8, clock)
    assert admitted(throttle) == 8
    for _ in range(3):
        accept(throttle, 8, clock)
        assert admitted(throttle) == 8 + (_ == 2)


def test_growing_takes_longer_after_each_refusal(clock: Clock) -> None:
    """A size that was refused is tried again after four, eight and at most sixteen rounds."""
    throttle = Throttle()
    admitted(throttle, 32)
    refuse(throttle, 24, clock.now)
    rounds = []
    accept(throttle, 8, clock)
    for _ in range(4):
        count = 1
        while True:
            clock.now += 1
            if (now := admitted(throttle)) == 9:
                break
            accept(throttle, now, clock)
            count += 1
        rounds.append(count)
        refuse(throttle, 1, clock.now)
        clock.now += 1
        accept(throttle, 8, clock)
    assert rounds[0] < rounds[1] <= rounds[2] <= rounds[3] <= 17


@pytest.mark.parametrize("status", [429, 503])
def test_the_refusal_of_a_single_call_sets_no_limit(clock: Clock, status: int) -> None:
    """It says nothing about how many calls the endpoint takes at once: the next one finds out when it is over."""
    throttle = Throttle()
    admitted(throttle, 1)
    refuse(throttle, 1, clock.now, status)
    clock.now += 1
    assert admitted(throttle) == 1
    accept(throttle, 1, clock)
    assert admitted(throttle) == 100


@pytest.mark.parametrize(("status", "allowed"), [(503, 32), (429, 16)])
def test_after_an_outage_it_goes_on_as_before(clock: Clock, status: int, allowed: int) -> None:
    """If all are refused, single requests find out when it is over; then all go, or half if there were too many."""
    throttle = Throttle()
    admitted(throttle, 32)
    refuse(throttle, 32, clock.now, status)
    pauses = []
    for _ in range(20):
        began = clock.now
        while not admitted(throttle):
            clock.now += 0.01
        assert admitted(throttle) == 0
        pauses.append(clock.now - began)
        refuse(throttle, 1, clock.now, status)
    assert pauses[:3] == pytest.approx([0.4, 0.5, 0.625], abs=0.02)
    assert pauses[-1] == pytest.approx(8.0, abs=0.02)
    clock.now += 10
    admitted(throttle)
    accept(throttle, 1, clock)
    assert admitted(throttle) == allowed


@pytest.mark.parametrize(("retry_after", "seconds"), [(1.0, 1.0), (0.25, 0.25), (1e9, 60.0), (0.0, 0.0), (None, 0.0)])
def test_retry_after_pauses_all(clock: Clock, retry_after: float | None, seconds: float) -> None:
    """How long the endpoint says to wait holds for all requests, up to a minute; 0 is no advice."""
    throttle = Throttle()
    admitted(throttle, 4)
    refuse(throttle, 1, clock.now, retry_after=retry_after)
    accept(throttle, 3, clock)
    clock.now += max(seconds - 0.01, 0)
    assert admitted(throttle) == (0 if seconds else 3)
    clock.now += 0.02
    assert admitted(throttle) == (3 if seconds else 0)


def test_an_announced_limit_pauses_all(clock: Clock) -> None:
    """An answer may say that there is nothing left, and until when, which counts for a minute at most."""
    throttle = Throttle()
    admitted(throttle, 1)
    throttle.accepted(clock.now, 2.0)
    throttle.leave()
    assert admitted(throttle) == 0
    clock.now += 2
    assert admitted(throttle) == 100
    throttle.accepted(clock.now, inf)
    assert throttle._paused_until == clock.now + 60


def test_patience_needs_answers(clock: Clock) -> None:
    """Waiting is only worth while if the endpoint has accepted something within that time."""
    throttle = Throttle()
    assert not throttle.is_patient(600)
    throttle.accepted(clock.now)
    clock.now += 599
    assert throttle.is_patient(600)
    clock.now += 1
    assert not throttle.is_patient(600)


def full(places: int = 1) -> Throttle:
    """Return a throttle with this many places, all taken."""
    throttle = Throttle()
    admitted(throttle, places + 1)
    now = time.monotonic()
    throttle.refused(429, None, now)
    throttle.leave()
    return throttle


def test_those_who_wait_go_in_order() -> None:
    """Calls go in the order in which they came, and those that were refused go first."""
    throttle, order = full(), []

    async def go(name: int, again: bool) -> None:
        await throttle.aenter(Deadline(Timeout()), again=again)
        order.append(name)
        throttle.leave()

    async def main() -> None:
        tasks = []
        for name in range(4):
            tasks.append(asyncio.create_task(go(name, again=name == 3)))
            await asyncio.sleep(0)
        throttle.leave()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert order == [3, 0, 1, 2]


def test_threads_and_event_loops_wait_in_one_line() -> None:
    """Synchronous and asynchronous calls of a model share the limit: no more are at work than there are places."""
    throttle, at_work, most = full(3), [3], [0]
    lock = threading.Lock()

    def enter() -> None:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])

    def leave() -> None:
        with lock:
            at_work[0] -= 1
        throttle.leave()

    def work(_: int) -> None:
        throttle.enter(Deadline(Timeout()))
        enter()
        time.sleep(0.001)
        leave()

    async def awork() -> None:
        await throttle.aenter(Deadline(Timeout()))
        enter()
        await asyncio.sleep(0.001)
        leave()

    async def together() -> None:
        await asyncio.gather(*(awork() for _ in range(50)))

    with ThreadPoolExecutor(20) as threads:
        waiting = [threads.submit(work, number) for number in range(50)]
        loops = [threads.submit(asyncio.run, together()) for _ in range(2)]
        for _ in range(3):
            leave()
        for one in (*waiting, *loops):
            one.result(10)
    assert (at_work, most) == ([0], [3])
    assert throttle._in_flight == 0


@pytest.mark.parametrize("count", [1, 5])
def test_a_cancelled_call_leaves_the_line(count: int) -> None:
    """Cancelled calls give up their place, whether they still wait or may go already."""
    throttle = full()

    async def main() -> None:
        tasks = [asyncio.create_task(throttle.aenter(Deadline(Timeout()))) for _ in range(count + 1)]
        await asyncio.sleep(0)
        throttle.leave()  # lets the first one go, which has not noticed when it is cancelled
        for task in tasks[:count]:
            task.cancel()
        await asyncio.wait_for(tasks[-1], 5)
        assert throttle._in_flight == 1

    asyncio.run(main())


def test_no_call_waits_for_one_that_has_just_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that becomes free between the look for one and the joining of the line is not overlooked."""
    throttle = full()
    join = throttle._join

    def join_late(*args: Any, **options: Any) -> Any:
        throttle.leave()
        return join(*args, **options)

    monkeypatch.setattr(throttle, "_join", join_late)
    started = time.monotonic()
    throttle.enter(Deadline(Timeout(first_delta=5)))
    assert time.monotonic() - started < 2
    assert throttle._in_flight == 1


def test_a_pause_may_end_while_a_call_looks(clock: Clock) -> None:
    """The next one in the line looks again at once if it could go now, but could not a moment ago."""
    throttle = Throttle()
    throttle._pause(1)
    waiting = throttle._join(lambda: None, first=False)
    clock.now += 1
    seconds = throttle._seconds(waiting, Deadline(Timeout()))
    assert seconds == pytest.approx(0.001, abs=1e-6)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of its socket
def test_a_stream_may_be_garbage_collected_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An abandoned stream gives up its place, even if its collection interrupts another call that takes one."""
    endless = Endless()
    with Loopback(lambda request: endless(request) if request.json()["stream"] else [completion()]) as server:
        client = Client(base_url=server.base_url)
        assert client._throttle is not None
        deltas = client.stream(MESSAGES)
        next(deltas)
        cycle: list[Any] = [deltas]
        cycle.append(cycle)
        del deltas, cycle
        client._throttle._window = 5.0

        def collect() -> float:
            gc.collect()
            return time.monotonic()

        monkeypatch.setattr(module, "monotonic", collect)
        caller = threading.Thread(target=client.complete, args=(MESSAGES,), daemon=True)
        caller.start()
        caller.join(5)
        assert not caller.is_alive()
        assert client._throttle._in_flight == 0


def test_calls_whose_event_loop_is_closed_hold_nobody_up() -> None:
    """Those who wait in a closed event loop leave the line, and do not break the call that would let them go."""
    throttle = full()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # tasks are destroyed
    tasks = [loop.create_task(throttle.aenter(Deadline(Timeout()))) for _ in range(2000)]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    throttle.leave()
    assert (throttle._in_flight, len(throttle._line)) == (0, 0)
    del tasks
    gc.collect()
    assert (throttle._in_flight, len(throttle._line)) == (0, 0)


@both_clients
def test_waiting_has_its_limits(driver: Driver) -> None:
    """A call in the line gives up when nothing has been accepted for as long as its first delta may take."""
    with Loopback(in_turn()) as server:
        for timeout, name in ((Timeout(first_delta=0.05), "first_delta"), (Timeout(total=0.05), "total")):
            client = driver.make(base_url=server.base_url, timeout=timeout)
            client._throttle = full()
            error = failure(driver, client, streamed=False)
            assert isinstance(error, APITimeoutError)
            assert str(error).endswith(f"within 0.05 s (timeout: {name})")
            assert client._throttle._in_flight == 1
    assert server.requests == []


def test_a_line_that_does_not_move_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds the only place may be waiting for the call in the line."""
    monkeypatch.setattr(module, "_STALLED_SECONDS", 0.05)
    throttle = full()
    throttle.enter(Deadline(Timeout()))
    assert throttle._in_flight == 2


def serve_at_once(places: int) -> Callable[[Request], list[bytes]]:
    """Return a server that answers so many requests at once, each in 20 ms, and refuses others."""
    taken, lock = [0], threading.Lock()

    def serve(_: Request) -> list[bytes]:
        with lock:
            if taken[0] >= places:
                return [LATER]
            taken[0] += 1
        time.sleep(0.02)
        with lock:
            taken[0] -= 1
        return [completion("Hi")]

    return serve


def ask_together(client: Any, calls: int) -> list[str]:
    """Return the answers to as many calls at once."""
    if isinstance(client, Client):
        with ThreadPoolExecutor(calls) as threads:
            return [each.content for each in threads.map(lambda _: client.complete(MESSAGES), range(calls))]

    async def gather() -> list[str]:
        answers = await asyncio.gather(*(client.complete(MESSAGES) for _ in range(calls)))
        return [each.content for each in answers]

    return asyncio.run(gather())


@both_clients
def test_nothing_is_lost_to_a_limit_that_nobody_knows(driver: Driver) -> None:
    """Forty calls at once, of which the endpoint takes four, are all answered, with few refusals."""
    with Loopback(serve_at_once(4)) as server:
        client = driver.make(base_url=server.base_url)
        assert ask_together(client, 40) == ["Hi"] * 40
        first = len(server.requests) - 40
        assert ask_together(client, 40) == ["Hi"] * 40
        second = len(server.requests) - 80 - first
    assert first <= 60
    assert second <= 10


@both_clients
def test_the_limit_can_be_turned_off(driver: Driver) -> None:
    """Without it, each call has only its own retries."""
    with Loopback(serve_at_once(1)) as server:
        client = driver.make(base_url=server.base_url, adaptive_limit=False, max_retries=0)
        with pytest.raises(RateLimitError):
            ask_together(client, 10)


@both_clients
def test_no_retries_means_none(driver: Driver) -> None:
    """With `max_retries=0` a refusal is raised, even if the endpoint accepts other calls."""
    with Loopback(in_turn(completion("Hi"), LATER)) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        assert driver.complete(client).content == "Hi"
        error = failure(driver, client, streamed=False)
    assert (type(error), error.attempts) == (RateLimitError, 1)


@both_clients
def test_refusals_are_no_retries_while_others_are_accepted(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that the endpoint will accept later is sent as often as necessary."""
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    told: list[tuple[int, float]] = []

    def note(error: Any, delay: float) -> None:
        told.append((error.attempts, delay))

    async def anote(error: Any, delay: float) -> None:
        note(error, delay)

    with Loopback(in_turn(completion("Hi"), *[LATER, OUT] * 4, completion("At last"))) as server:
        client = driver.make(base_url=server.base_url, max_retries=1)
        assert driver.complete(client).content == "Hi"
        on_retry = note if driver.make is Client else anote
        assert driver.complete(client, on_retry=on_retry).content == "At last"
    assert [attempts for attempts, _ in told] == [*range(1, 9)]
    assert all(0 <= delay <= 0.1 for _, delay in told)


@both_clients
def test_an_endpoint_that_accepts_nothing_is_given_up(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing has been accepted yet, a refusal counts as a retry."""
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr("tir_qwen._client.retry.FIRST_DELAY", 0.01)
    with Loopback(lambda _: [OUT]) as server:
        error = failure(driver, driver.make(base_url=server.base_url), streamed=True)
    assert (error.attempts, len(server.requests)) == (3, 3)


def test_a_model_has_one_limit() -> None:
    """The synchronous and the asynchronous calls of a model share it; a copy and a pickle start anew."""
    model = ChatTIRQwen(base_url="http://127.0.0.1:9/v1")
    throttle = model._client._throttle
    assert throttle is model._async_client._throttle is not None
    assert ChatTIRQwen(base_url="http://127.0.0.1:9/v1", adaptive_limit=False)._client._throttle is None
    limited = full()
    for other in (copy.deepcopy(limited), pickle.loads(pickle.dumps(limited))):
        assert admitted(other) == 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on Windows")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_without_a_limit() -> None:
    """The calls of its parent are not its own."""
    throttle = full()
    with throttle._lock:  # as if another thread held it
        child = os.fork()
        if not child:
            os._exit(admitted(throttle, 10))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10


def test_a_forked_child_may_close_a_stream_of_its_parent() -> None:
    """A call that the child has not begun makes no place for one more."""
    throttle = full()
    throttle._reset()
    throttle.leave()
    assert throttle._in_flight == 0


@both_clients
def test_every_end_of_a_call_gives_up_its_place(driver: Driver) -> None:
    """Errors, broken streams and abandoned ones take no place with them."""
    cut = response(
        b'data: {"choices": [{"index": 0, "delta": {"content": "H"}}]}\n\n', content_type="text/event-stream"
    )
    refused = response({"error": {"message": "no"}}, "400 Bad Request")
    with Loopback(in_turn(refused, cut, cut, completion("Hi"))) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        failure(driver, client, streamed=False)
        failure(driver, client, streamed=True)
        if isinstance(client, AsyncClient):

            async def abandon() -> None:
                stream = client.stream(MESSAGES)
                await anext(stream)
                await stream.aclose()

            asyncio.run(abandon())
        else:
            next(client.stream(MESSAGES))
        assert driver.complete(client).content == "Hi"
    assert client._throttle._in_flight == 0


USED_UP = response(
    {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}, "429 Too Many Requests"
)


@both_clients
def test_a_quota_that_is_used_up_is_not_waited_for(driver: Driver) -> None:
    """No waiting helps then, so the refusal is raised at once, and other calls are not held up."""
    with Loopback(in_turn(completion("Hi"), USED_UP, completion("Hi"))) as server:
        client = driver.make(base_url=server.base_url)
        assert driver.complete(client).content == "Hi"
        error = failure(driver, client, streamed=False)
        assert driver.complete(client).content == "Hi"
    assert (type(error), error.attempts, client._throttle._window) == (RateLimitError, 1, float("inf"))


@both_clients
def test_a_call_that_waits_in_vain_says_why(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the call that gives up contains the endpoint's last words to it."""
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    blocked = threading.Event()

    def serve(request: Request) -> list[bytes]:
        if "first" in str(request.json()):
            blocked.wait(5)
            return [completion("Hi")]
        return [LATER]

    with Loopback(serve) as server:
        client = driver.make(base_url=server.base_url, timeout=Timeout(first_delta=0.4))
        client._throttle._accepted_at = time.monotonic()
        error = failure(driver, client, streamed=False)
        blocked.set()
    assert isinstance(error, (APITimeoutError, RateLimitError))
    assert "later" in str(error)
    assert error.attempts == len(server.requests)


def test_after_quiet_minutes_the_limit_is_tried_anew(clock: Clock) -> None:
    """An endpoint that has refused nothing for five minutes may have grown: its limit doubles in each round."""
    throttle = Throttle()
    admitted(throttle, 32)
    refuse(throttle, 24, clock.now)
    clock.now += 301
    accept(throttle, 8, clock)
    assert admitted(throttle) == 16


def test_news_of_refusals_are_logged_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A warning says that the endpoint refuses calls, and another that it refuses all of them."""
    throttle = Throttle()
    admitted(throttle, 4)
    refuse(throttle, 2, clock.now)
    clock.now += 1
    accept(throttle, 2, clock)
    for _ in range(3):
        clock.now += 60
        admitted(throttle, 1)
        refuse(throttle, 1, clock.now)
    assert caplog.messages == [
        "The endpoint refuses calls (429): 3 others in progress, the next one in 0.0 s.",
        "The endpoint refuses calls (429): no others in progress, the next one in 0.4 s.",
    ]


def test_a_model_shows_what_is_known() -> None:
    """Printed, the capabilities of a model say what has been given up."""
    model = ChatTIRQwen(base_url="http://127.0.0.1:9/v1")
    model.capabilities.give_up("tools")
    assert str(model.capabilities) == "The server does not accept tools: they are written into the messages."
