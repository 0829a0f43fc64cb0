"""When both clients retry a rejected request, and when they give up."""

from __future__ import annotations

import math
import socket
from contextlib import closing
from typing import Any

import pytest

from tests.support.server import (
    Driver,
    Loopback,
    ask,
    both_clients,
    completion,
    failure,
    in_turn,
    record_waits,
    response,
    stream,
    whole_and_streamed,
)
from tir_qwen import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    Client,
    ConfigurationError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    TIRError,
)

BUSY = response({"error": {"message": "busy"}}, "503 Service Unavailable")


def refusal(status: str, **headers: str) -> bytes:
    """Return an error response without a body."""
    return response(b"", status, **headers)


@whole_and_streamed
@both_clients
def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch, driver: Driver, streamed: bool) -> None:
    """Requests to a busy server are retried after a delay, and each retry is identical to the first request."""
    waits = record_waits(monkeypatch)
    with Loopback(in_turn(BUSY, BUSY, stream("Hi") if streamed else completion("Hi"))) as server:
        assert ask(driver, driver.make(base_url=server.base_url), streamed) == "Hi"
    assert waits == [0.4375, 0.875]
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[1] == server.requests[2]


@whole_and_streamed
@both_clients
def test_a_server_that_stays_busy(monkeypatch: pytest.MonkeyPatch, driver: Driver, streamed: bool) -> None:
    """After the last retry, the last error is raised and carries the number of attempts."""
    waits = record_waits(monkeypatch)
    with Loopback(lambda _: [BUSY]) as server:
        error = failure(driver, driver.make(base_url=server.base_url), streamed)
    assert type(error) is InternalServerError
    assert str(error) == "503 Service Unavailable: busy"
    assert error.attempts == len(server.requests) == 3
    assert len(waits) == 2
    assert error.partial is None


@pytest.mark.parametrize("max_retries", [0, 1, 4])
@both_clients
def test_max_retries_counts_requests_after_the_first(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, max_retries: int
) -> None:
    """`max_retries` counts the requests after the first, so 0 means a single request."""
    record_waits(monkeypatch)
    with Loopback(lambda _: [BUSY]) as server:
        error = failure(driver, driver.make(base_url=server.base_url, max_retries=max_retries), streamed=False)
    assert error.attempts == len(server.requests) == max_retries + 1


@both_clients
def test_max_retries_of_one_call(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """A call can override its client's `max_retries`."""
    record_waits(monkeypatch)
    with Loopback(lambda _: [BUSY]) as server:
        client = driver.make(base_url=server.base_url, max_retries=1)
        assert failure(driver, client, streamed=False, max_retries=3).attempts == 4
        assert failure(driver, client, streamed=True, max_retries=0).attempts == 1
        assert failure(driver, client, streamed=True, max_retries=None).attempts == 2
        assert len(server.requests) == 7
        assert "max_retries" not in server.requests[0].json()


@pytest.mark.parametrize(
    "name",
    [
        *("project_id", "access_token", "api_key", "tir_access_token", "base_url", "api_base", "apikey", "allow_http"),
        *("default_headers", "http_client", "http_async_client", "async_http_client"),
    ],
)
@both_clients
def test_settings_of_the_constructor(driver: Driver, name: str) -> None:
    """Constructor arguments are rejected in calls, where they could leak a secret into the request body."""
    client = driver.make(base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ConfigurationError) as caught:
        driver.complete(client, **{name: "canary"})
    assert str(caught.value) == f"{name} is an argument of the constructor, not of a call."


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry_after": "7"}, 7.35),
        ({"Retry_After": "0"}, 0.4375),
        ({"retry_after_ms": "250"}, 0.2625),
        ({"retry_after": "86400"}, 63.0),
        ({"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "1m20s"}, 63.0),
        ({"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "400ms"}, 0.42),
        ({"x_ratelimit_remaining_tokens": "5", "x_ratelimit_reset_tokens": "400ms"}, 0.4375),
        ({"retry_after": "nan"}, 0.4375),
        ({"retry_after": "-3"}, 0.4375),
        ({"retry_after": "soon"}, 0.4375),
    ],
    ids=str,
)
@both_clients
def test_retry_after_sets_the_wait(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, headers: dict[str, str], wait: float
) -> None:
    """The server's `Retry-After` is respected, up to a limit, and a little longer at random; 0 is no advice."""
    waits = record_waits(monkeypatch)
    with Loopback(in_turn(refusal("429 Too Many Requests", **headers), completion("Hi"))) as server:
        assert driver.complete(driver.make(base_url=server.base_url)).content == "Hi"
    assert waits == pytest.approx([wait])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400 Bad Request", BadRequestError),
        ("401 Unauthorized", AuthenticationError),
        ("403 Forbidden", PermissionDeniedError),
        ("404 Not Found", NotFoundError),
        ("405 Method Not Allowed", APIStatusError),
        ("422 Unprocessable Entity", BadRequestError),
    ],
)
@whole_and_streamed
@both_clients
def test_what_the_user_has_to_mend_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, streamed: bool, status: str, kind: type[TIRError]
) -> None:
    """A request that the user has to fix is not retried, whatever headers the server sends."""
    waits = record_waits(monkeypatch)
    with Loopback(lambda _: [refusal(status, retry_after="1", x_request_id="r-1")]) as server:
        error = failure(driver, driver.make(base_url=server.base_url), streamed)
    assert type(error) is kind
    assert isinstance(error, APIStatusError)
    assert (error.status_code, error.request_id, error.retry_after) == (int(status[:3]), "r-1", 1.0)
    assert error.attempts == len(server.requests) == 1
    assert waits == []


@pytest.mark.parametrize(
    "status", ["300 Multiple Choices", "301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent"]
)
@whole_and_streamed
@both_clients
def test_redirects_are_not_followed(driver: Driver, streamed: bool, status: str) -> None:
    """Redirects are not followed, so the token and the question go only to the configured address."""
    with Loopback(in_turn()) as elsewhere:
        to = refusal(status, location=f"{elsewhere.url}/v1/chat/completions")
        with Loopback(lambda _: [to]) as server:
            error = failure(driver, driver.make(base_url=server.base_url), streamed)
    assert type(error) is APIStatusError
    assert error.status_code == int(status[:3])
    assert len(server.requests) == 1
    assert elsewhere.connections == 0


@whole_and_streamed
@both_clients
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, driver: Driver, streamed: bool) -> None:
    """A refused connection is retried, and the final error says where nobody listens."""
    waits = record_waits(monkeypatch)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    error = failure(driver, driver.make(base_url=f"http://127.0.0.1:{port}/v1"), streamed)
    assert type(error) is APIConnectionError
    assert str(error) == f"could not connect to 127.0.0.1:{port}: Connection refused"
    assert error.attempts == 3
    assert len(waits) == 2
    assert error.partial is None


@whole_and_streamed
@both_clients
def test_on_retry_is_called_before_each_wait(monkeypatch: pytest.MonkeyPatch, driver: Driver, streamed: bool) -> None:
    """`on_retry` is called with each error and delay, before the client waits."""
    told: list[tuple[str, int, float, int]] = []
    waits = record_waits(monkeypatch)

    def note(error: TIRError, delay: float) -> None:
        told.append((str(error), error.attempts, delay, len(waits)))

    async def anote(error: TIRError, delay: float) -> None:
        note(error, delay)

    raws = (BUSY, refusal("429 Too Many Requests", retry_after="7"), stream("Hi") if streamed else completion("Hi"))
    with Loopback(in_turn(*raws)) as server:
        client = driver.make(base_url=server.base_url)
        assert ask(driver, client, streamed, on_retry=note if driver.make is Client else anote) == "Hi"
    assert told == [("503 Service Unavailable: busy", 1, 0.4375, 0), ("429 Too Many Requests.", 2, waits[1], 1)]
    assert waits == pytest.approx([0.4375, 7.35])
    assert "on_retry" not in server.requests[-1].json()


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, 1e300, "5", [5]], ids=repr)
@pytest.mark.parametrize("where", ["client", "call"])
@both_clients
def test_timeout_that_is_none(driver: Driver, where: str, timeout: Any) -> None:
    """A timeout that no socket supports is rejected before anything is sent."""
    ours, theirs = ({"timeout": timeout}, {}) if where == "client" else ({}, {"timeout": timeout})
    with Loopback(in_turn(completion("Hi"))) as server:
        with pytest.raises(ConfigurationError, match=r"^timeout must be "):
            driver.complete(driver.make(base_url=server.base_url, **ours), **theirs)
        assert server.connections == 0


LOCAL = {"base_url": "http://127.0.0.1:9/v1"}


@pytest.mark.parametrize("wrong", ["2", -1, 1.5, True])
@both_clients
def test_an_invalid_max_retries_is_rejected(driver: Driver, wrong: Any) -> None:
    """An invalid `max_retries` is rejected by the constructor or the call, not at the first failure."""
    with pytest.raises(ConfigurationError, match="max_retries"):
        driver.make(**LOCAL, max_retries=wrong)
    with pytest.raises(ConfigurationError, match="max_retries"):
        driver.complete(driver.make(**LOCAL), max_retries=wrong)
