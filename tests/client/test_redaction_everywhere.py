"""No secret leaks through what the HTTP library stores, logs or reads by itself, or through event loop messages."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from demo.replay import Received
from tests.support.secrets import (
    CREDENTIALS,
    HEADER,
    KEY,
    PROJECT,
    ROOT,
    SERVERS,
    SETTINGS,
    TOKEN,
    engines_frames,
    in_frames,
    leaked,
    logged,
    shown,
    written,
)
from tests.support.server import (
    MESSAGES,
    Driver,
    Loopback,
    ask,
    both_clients,
    completion,
    echo,
    failure,
    response,
    stream,
    whole_and_streamed,
)
from tir_qwen import AsyncClient, Client
from tir_qwen._doctor.cli import main


@both_clients
def test_what_a_client_shows(driver: Driver) -> None:
    """The reprs and attributes of a client and its copies contain no credentials."""
    client = driver.make(**SETTINGS, base_url="https://host.invalid")
    twins = [copy.copy(client), copy.deepcopy(client), pickle.loads(pickle.dumps(client))]
    parts = [each for twin in (client, *twins) for each in (twin, vars(twin), *vars(twin).values())]
    assert leaked("\n".join(map(written, [*parts, client.stream(MESSAGES)]))) == []
    assert str(client) == (
        f"{type(client).__name__}(model='qwen3_32b', endpoint=<Endpoint"
        " https://host.invalid/project/p-***/genai/.../v1/chat/completions>)"
    )


@pytest.mark.parametrize("does", ["fails", "refuses", "gives up", "breaks off"])
def test_what_an_event_loop_tells(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, does: str) -> None:
    """In debug mode, an event loop reports failed tasks and dropped streams without revealing a secret."""
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda complaint: told.append(written(complaint.exc_value)))
    caplog.set_level(logging.DEBUG)

    async def taken(client: AsyncClient) -> None:
        async for _ in client.stream(MESSAGES):
            pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0
        handle = loop.default_exception_handler
        loop.set_exception_handler(lambda _, context: (told.append(f"{context!r}"), handle(context)))
        client = AsyncClient(**SETTINGS, base_url=server.url, max_retries=0)
        task = asyncio.create_task(taken(client))
        await asyncio.wait([task])
        del task
        dropped = client.stream(MESSAGES)
        await asyncio.wait_for(asyncio.gather(anext(dropped), return_exceptions=True), 5)
        del dropped

    with Loopback(SERVERS[does]) as server, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main(), debug=True)
    text = "\n".join([logged(caplog), *told, *(f"{warning.message}" for warning in caught)])
    assert "Task exception was never retrieved" in text
    assert "Executing <" in text
    assert leaked(text) == []


GOSSIP: dict[str, Callable[[Received], dict[str, str]]] = {
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

    def answer(request: Received) -> list[bytes]:
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
def test_cookies_are_not_stored(driver: Driver) -> None:
    """Cookies are not stored, so a call cannot reveal earlier calls, possibly of other users."""

    def answer(request: Received) -> list[bytes]:
        return [response(completion().partition(b"\r\n\r\n")[2], set_cookie="session=alice; Path=/")]

    with Loopback(answer) as server:
        client = driver.make(**SETTINGS, base_url=server.url)
        if isinstance(client, Client):
            for _ in range(2):
                client.complete(MESSAGES)
        else:

            async def twice() -> None:
                for _ in range(2):
                    await client.complete(MESSAGES)

            asyncio.run(twice())
    assert [request.headers.get("cookie") for request in server.received] == [None, None]


@pytest.mark.parametrize("token", [TOKEN, None])
@both_clients
def test_netrc_passwords_are_not_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: Driver, token: str | None
) -> None:
    """A password for the host in the user's `.netrc` is never sent, with or without a token."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password else\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with Loopback(echo) as server:
        driver.complete(driver.make(base_url=server.base_url, access_token=token))
    assert server.received[0].headers.get("authorization") == (f"Bearer {token}" if token else None)


PROXIES = (
    "http://someone:pass-canary@127.0.0.1:1",
    "http://someone:pass-canary/2@127.0.0.1:1",
    "http://someone:pass-canary@[::bad",
    "foo://someone:pass-canary@127.0.0.1:1",
)


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("scheme", ["http", "https"])
@both_clients
def test_password_of_a_proxy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, driver: Driver, scheme: str, proxy: str
) -> None:
    """The password of a proxy from the environment appears in no error and no log, even if the proxy URL is invalid."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy)
    client = driver.make(**SETTINGS, base_url=f"{scheme}://host.invalid", allow_http=True, max_retries=0)
    error = failure(driver, client, streamed=False)
    secrets = (*CREDENTIALS, "pass-canary")
    assert leaked(shown(error) + logged(caplog), secrets) == []
    assert in_frames(error, secrets) == []
    assert engines_frames(error) == []


CONTROLS = "".join(map(chr, [*range(1, 9), *range(14, 32), *range(127, 160), 0x200B, 0x202E, 0x2066]))


@both_clients
def test_log_of_a_status_line(caplog: pytest.LogCaptureFixture, driver: Driver) -> None:
    """Escape sequences in a server's status line do not reach the log, which a terminal may display."""
    caplog.set_level(logging.DEBUG)
    with Loopback(lambda _: [b"HTTP/1.1 401 No\x1b[2Jno\r\ncontent-length: 0\r\n\r\n"]) as server:
        failure(driver, driver.make(**SETTINGS, base_url=server.url), streamed=False)
    assert all(line.isprintable() for record in caplog.records for line in record.getMessage().split("\n"))


HOSTILE = "../a?b#c%2f\r\nx-evil: 1\x1b"


@whole_and_streamed
@both_clients
def test_nothing_but_the_path_is_the_models(driver: Driver, streamed: bool) -> None:
    """The model name and extra body fields of a call cannot change the host, query or headers of the request."""
    fields = {"project_id": "1", "apikey": "2", "headers\r\nx-evil": "1"}
    with Loopback(echo) as server:
        client = driver.make(**SETTINGS, base_url=server.url)
        ask(driver, client, streamed)
        ask(driver, client, streamed, model=HOSTILE, extra_body=fields)
    plain, hostile = server.received
    query = f"project_id={PROJECT}&apikey={KEY}"
    assert hostile.target == f"/project/p-{PROJECT}/genai/{quote(HOSTILE, safe='')}/v1/chat/completions?{query}"
    assert hostile.json() == {**plain.json(), **fields, "model": HOSTILE}
    assert {**hostile.headers, "content-length": ""} == {**plain.headers, "content-length": ""}


ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\b"


@pytest.mark.parametrize("json", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(
    "does", ["answers", "answers about the token", *(does for does in SERVERS if does != "answers")]
)
def test_doctor_prints_no_credentials(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    does: str,
    json: list[str],
) -> None:
    """`doctor` prints no credentials and no control characters, whatever the server says or how it fails."""
    caplog.set_level(logging.WARNING, "tir_qwen")  # doctor silences this logger; caplog restores it
    for name, value in (("ACCESS_TOKEN", TOKEN), ("PROJECT_ID", PROJECT), ("API_KEY", KEY)):
        monkeypatch.setenv(f"E2E_TIR_{name}", value)
    texts = {"answers": ESCAPES, "answers about the token": f"{'x' * 50} {TOKEN}"}

    def answer(request: Received) -> Any:
        if does in texts:
            return [stream(texts[does]) if request.json()["stream"] else completion(texts[does])]
        request.headers["x-team"] = ESCAPES
        return SERVERS[does](request)

    with Loopback(answer) as server:
        status = main(["doctor", "--base-url", server.url, "--timeout", "5", *json])
    told = "".join(capsys.readouterr())
    assert status == (0 if does in texts else 1)
    assert leaked(told, [secret[:4] for secret in CREDENTIALS if secret != HEADER]) == []
    assert all(line.isprintable() for line in told.split("\n"))


FILES = sorted(
    path
    for folder in ("tests/data/cassettes", "tests/data/captures", "demo/exchanges")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.suffix != ".md"
)
PRIVATE = re.compile(
    rb"eyJ[\w-]{8,}|lab-token|set-cookie|(?:p-|project_id=)[1-9]\d*|apikey="
    rb"|authorization: (?!bearer (?:\[key\]|wrong)\r)",
    re.IGNORECASE,
)
HOSTS = re.compile(rb"https?://([\w.-]+)|\r\nhost: ([\w.-]+)", re.IGNORECASE)


def test_recorded_files() -> None:
    """Recordings contain no tokens, projects, keys, cookies, or hosts other than localhost and made-up ones."""
    hosts = set()
    for path in FILES:
        content = path.read_bytes()
        assert PRIVATE.search(content) is None, path.name
        hosts |= {first or second for first, second in HOSTS.findall(content)}
    assert len(FILES) > 500
    assert hosts == {b"127.0.0.1", b"tir.invalid", b"errors.pydantic.dev"}
