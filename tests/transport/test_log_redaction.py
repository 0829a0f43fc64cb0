"""The HTTP library's log contains no secrets, and nothing else that a server says."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.support.secrets import (
    KEY,
    PROJECT,
    SETTINGS,
    TOKEN,
    leaked,
    logged,
    shown,
)
from tests.support.server import (
    Driver,
    Loopback,
    ask,
    both_clients,
    completion,
    failure,
    in_turn,
    response,
)
from tir_qwen.testing import Request

LOGGED_CALL = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
from tir_qwen import Client
{setup}
Client(8653097, "eyJhbGciOiJIUzI1NiJ9.canary.c2lnbmF0dXJl", apikey="key-canary-0815", base_url=sys.argv[1],
       default_headers={{"X-Team": "header-canary"}}, http_client=given).complete([{{"role": "user", "content": "Hi"}}])
if given:
    given.close()
"""


def log_of(setup: str) -> str:
    """Return the log of a new process that makes one call; `setup` assigns `given`."""
    with Loopback(in_turn(completion())) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", LOGGED_CALL.format(setup=setup), server.url],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "HTTP Request: POST http://127.0.0.1" in done.stdout
        return done.stdout


def test_log_of_our_client() -> None:
    """The request URL in the HTTP library's log contains neither the project nor the key."""
    log = log_of("given = None")
    assert leaked(log) == []
    assert "/project/p-***/genai/qwen3_32b/v1/chat/completions?project_id=***&apikey=*** " in log


@pytest.mark.parametrize("engine", ["httpx", "httpx2"])
def test_log_of_a_client_that_was_passed_in(engine: str) -> None:
    """The log of an HTTP client passed in by the user contains neither the project nor the key."""
    assert leaked(log_of(f"import {engine}; given = {engine}.Client()")) == []


@both_clients
def test_log_of_a_redirect(caplog: pytest.LogCaptureFixture, driver: Driver) -> None:
    """The request URL, sent back by a redirecting gateway, is not logged."""
    caplog.set_level(logging.DEBUG)
    with Loopback(lambda request: [response(b"", "307 Temporary Redirect", location=request.target)]) as server:
        assert failure(driver, driver.make(PROJECT, TOKEN, base_url=server.url, apikey=KEY), streamed=False)
    assert leaked(logged(caplog)) == []


@both_clients
def test_log_of_a_query(caplog: pytest.LogCaptureFixture, driver: Driver) -> None:
    """The query of the base URL, which may hold a key under any name, is not logged."""
    caplog.set_level(logging.DEBUG)
    with Loopback(in_turn(completion("Hi"))) as server:
        driver.complete(driver.make(base_url=f"{server.base_url}?subscription-key={KEY}&x=1"))
    assert server.requests[0].target == f"/v1/chat/completions?subscription-key={KEY}&x=1"
    assert leaked(logged(caplog)) == []


GOSSIP: dict[str, Callable[[Request], dict[str, str]]] = {
    "log in first": lambda request: {"location": f"https://sso.invalid/?next={quote(request.target, safe='')}"},
    "refuses": lambda request: {"www_authenticate": f'Bearer error="{request.headers["authorization"]}"'},
    "remembers": lambda _: {"set_cookie": f"session={TOKEN}; Path=/"},
    "counts": lambda request: {"x_request_id": f"{TOKEN}-1", "x_url": request.target},
}


@pytest.mark.parametrize("status", ["200 OK", "307 Temporary Redirect", "401 Unauthorized"])
@pytest.mark.parametrize("does", GOSSIP)
@both_clients
def test_log_of_headers(caplog: pytest.LogCaptureFixture, driver: Driver, does: str, status: str) -> None:
    """Secrets that a server repeats in its headers do not appear in the HTTP library's DEBUG log."""
    caplog.set_level(logging.DEBUG)

    def answer(request: Request) -> list[bytes]:
        raw = completion("Hi").partition(b"\r\n\r\n")[2]
        return [response(raw, status, **GOSSIP[does](request))]

    with Loopback(answer) as server:
        client = driver.make(**SETTINGS, base_url=server.url)
        if status == "200 OK":
            assert ask(driver, client, streamed=False) == "Hi"
        else:
            assert leaked(shown(failure(driver, client, streamed=False))) == []
    assert "receive_response_headers" in logged(caplog)
    assert leaked(logged(caplog)) == []


@both_clients
def test_log_of_what_is_no_http(caplog: pytest.LogCaptureFixture, driver: Driver) -> None:
    """A non-HTTP answer that repeats the token is not quoted in the log."""
    caplog.set_level(logging.DEBUG)
    with Loopback(lambda request: [f"ECHO {request.headers['authorization']}\r\n\r\n".encode()]) as server:
        error = failure(driver, driver.make(**SETTINGS, base_url=server.url, max_retries=0), streamed=False)
    assert leaked(shown(error) + logged(caplog)) == []


@both_clients
def test_log_of_a_status_line(caplog: pytest.LogCaptureFixture, driver: Driver) -> None:
    """Escape sequences in a server's status line do not reach the log, which a terminal may display."""
    caplog.set_level(logging.DEBUG)
    with Loopback(lambda _: [b"HTTP/1.1 401 No\x1b[2Jno\r\ncontent-length: 0\r\n\r\n"]) as server:
        failure(driver, driver.make(**SETTINGS, base_url=server.url), streamed=False)
    assert all(line.isprintable() for record in caplog.records for line in record.getMessage().split("\n"))
