"""The retry policy: which errors are retried, after what delay, and how `Retry-After` is read."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.calls import dialect_of
from tests.support.server import MESSAGES
from tir_qwen import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ConfigurationError,
    MalformedChunkError,
    TIRError,
)
from tir_qwen._client.base_call import MAX_STALE_CONNECTIONS
from tir_qwen._client.call import Call
from tir_qwen._client.retry import RetryPolicy
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen._request.build import Request
from tir_qwen._response.retry_after import retry_after_seconds
from tir_qwen._response.server_errors import error_from_response
from tir_qwen._transport.deadline import Deadline
from tir_qwen.timeouts import Timeout

NOW = datetime(2026, 11, 22, 8, 49, 37, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tir_qwen._response.retry_after.time", NOW.timestamp)


def status(code: int, retry_after: float | None = None) -> APIStatusError:
    """Return an error with this status."""
    error = error_from_response(code, {}, b"")
    error.retry_after = retry_after
    return error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        *[
            (status(code), code in {408, 409, 429} or code >= 500)
            for code in (301, 400, 401, 403, 404, 405, 408, 409, 410)
        ],
        *[(status(code), True) for code in (429, 500, 501, 502, 503, 504, 529, 599)],
        (status(413, retry_after=1.0), False),
        (status(422), False),
        (APIConnectionError(), True),
        (APITimeoutError(), True),
        (ConfigurationError(), False),
        (MalformedChunkError(), False),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'status_code', value)}",
)
def test_which_errors(error: TIRError, again: bool) -> None:
    """Temporary errors are retried; errors that the user has to fix are not, whatever headers the server sends."""
    assert (RetryPolicy().delay(error, 1) is not None) is again


def test_an_error_may_say_so_itself() -> None:
    """A connection error marked as permanent, such as a bad certificate, is not retried."""
    error = APIConnectionError()
    error.is_retryable = False
    assert RetryPolicy().delay(error, 1) is None


@pytest.mark.parametrize(("max_retries", "requests"), [(0, 1), (1, 2), (2, 3), (5, 6)], ids=str)
def test_requests_stop_after_max_retries(max_retries: int, requests: int) -> None:
    """`max_retries` counts the requests after the first."""
    policy = RetryPolicy(max_retries) if max_retries != 2 else RetryPolicy()  # 2 is the default
    made = 1
    while policy.delay(status(503), made) is not None:
        made += 1
    assert made == requests


@pytest.mark.parametrize(
    ("jitter", "waits"),
    [
        (0.0, [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]),
        (0.5, [0.4375, 0.875, 1.75, 3.5, 7.0, 7.0, 7.0]),
        (1.0, [0.375, 0.75, 1.5, 3.0, 6.0, 6.0, 6.0]),
    ],
)
def test_waits_double_up_to_eight_seconds(jitter: float, waits: list[float]) -> None:
    """Without `Retry-After`, delays double up to 8 seconds, each reduced by up to a quarter at random."""
    policy = RetryPolicy(10_000, lambda: jitter)
    assert [policy.delay(status(503), attempts) for attempts in range(1, 8)] == waits
    assert policy.delay(status(503), 10_000) == waits[-1]


def test_waits_differ() -> None:
    """Delays are random, so that clients that fail together do not retry together."""
    waits = {RetryPolicy().delay(status(503), 1) for _ in range(50)}
    assert len(waits) > 25
    assert all(wait is not None and 0.375 <= wait <= 0.5 for wait in waits)


@pytest.mark.parametrize(
    ("wish", "wait"), [(0.0, 0.4375), (0.02, 0.021), (7, 7.35), (60.0, 63.0), (61.0, 63.0), (1e308, 63.0)], ids=str
)
def test_the_servers_wish(wish: float, wait: float) -> None:
    """`Retry-After` is followed, up to a minute and a little longer at random, unless it is 0."""
    assert RetryPolicy(2, lambda: 0.5).delay(status(429, wish), 1) == pytest.approx(wait)
    assert RetryPolicy(2, lambda: 0.5).delay(status(429, wish), 3) is None


def test_stale_connections() -> None:
    """Stale connections cost neither an attempt nor a wait, up to a maximum number per call."""
    request = Request("http://[::1]/v1", {}, b"{}")
    call = Call(
        dialect_of(MESSAGES, {}, Capabilities()), lambda *_: request, RetryPolicy(1, lambda: 0.0), Deadline(Timeout())
    )
    error = APIConnectionError()
    error.stale = True
    assert [call.request_failed(error) for _ in range(MAX_STALE_CONNECTIONS)] == [0.0]
    assert error.attempts == 0
    assert call.request_failed(error) == 0.5
    assert call.request_failed(error) is None
    assert error.attempts == 2


def http_date(seconds: float) -> str:
    """Return the time this many seconds from now as an HTTP date."""
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": " 20 "}, 20.0),
        ({"retry-after": "1e3"}, 1000.0),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "7 s"}, None),
        ({"retry-after": "Sun, 22 Nov 2026 08:50:07 GMT"}, 30.0),
        ({"retry-after": "Sunday, 22-Nov-26 08:50:07 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 14:20:07 +0530"}, 30.0),
        ({"retry-after": http_date(0)}, 0.0),
        ({"retry-after": http_date(3600)}, 3600.0),
        ({"retry-after": http_date(-1)}, None),
        ({"retry-after": "Wed, 21 Oct 99999 07:28:00 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 0001 07:28:00 GMT"}, None),
        ({"retry-after": "Sun, 32 Nov 2026 08:50:07 GMT"}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "20"}, 1.5),
        ({"retry-after-ms": "-5", "retry-after": "20"}, 20.0),
        ({"retry-after-ms": "nan", "retry-after": "20"}, 20.0),
        ({"retry-after-ms": "x", "retry-after": http_date(30)}, 30.0),
        ({"retry-after-ms": "x", "retry-after": "x"}, None),
    ],
    ids=str,
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    """`Retry-After` is read in every form in use; an invalid header is ignored, and does not hide a valid one."""
    assert retry_after_seconds(headers) == seconds
    error = error_from_response(429, headers, b"local_rate_limited")
    assert error.retry_after == seconds
    assert str(error) == "429 Too Many Requests: local_rate_limited"


words = st.text(st.sampled_from("0123456789 -+:.,eEinfaGMTNov_")) | st.text() | st.floats().map(str)


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), words), st.integers(1, 50))
def test_no_header_breaks_the_policy(headers: dict[str, str], attempts: int) -> None:
    """Whatever the header contains, the delay is not much above one minute."""
    error = error_from_response(503, headers, b"")
    assert error.retry_after is None or error.retry_after >= 0
    wait = RetryPolicy(100).delay(error, attempts)
    assert wait is not None
    assert 0 <= wait <= 66


@given(st.integers(0, 60), st.floats(0, 1, exclude_max=True))
def test_waits_never_shrink(max_retries: int, jitter: float) -> None:
    """Delays never decrease, and there is one for each retry."""
    policy = RetryPolicy(max_retries, lambda: jitter)
    waits = [policy.delay(APITimeoutError(), attempts) for attempts in range(1, max_retries + 2)]
    assert waits.pop() is None
    assert all(wait is not None for wait in waits)
    assert all(first <= second for first, second in pairwise(waits))


@pytest.mark.parametrize("date", ["Sun Nov 22 08:50:07 2026", "Sun, 22 Nov 2026 08:50:07 -0000"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_dates_without_a_zone(monkeypatch: pytest.MonkeyPatch, date: str, zone: str) -> None:
    """HTTP dates are read as UTC in every local time zone, including the obsolete asctime format."""
    monkeypatch.setenv("TZ", {"UTC": "UTC0", "Asia/Kolkata": "IST-5:30"}[zone])
    time.tzset()
    try:
        assert retry_after_seconds({"retry-after": date}) == 30.0
    finally:
        monkeypatch.undo()
        time.tzset()
