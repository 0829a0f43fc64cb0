"""No secret leaks through reprs, event loop messages, request addresses, `doctor` or recordings."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import re
import sys
import warnings
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.secrets import (
    CREDENTIALS,
    HEADER,
    KEY,
    PROJECT,
    ROOT,
    SERVERS,
    SETTINGS,
    TOKEN,
    leaked,
    logged,
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
    stream,
    whole_and_streamed,
)
from tir_qwen import AsyncClient
from tir_qwen._doctor.cli import main
from tir_qwen.testing import Request


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
    plain, hostile = server.requests
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

    def answer(request: Request) -> Any:
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
    assert hosts == {b"127.0.0.1", b"tir.invalid", b"docs.example.com", b"errors.pydantic.dev"}
