"""What the first call of an event loop does: the engine is prepared in another thread, once, whatever happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.server import MESSAGES, QUESTION, Loopback, echo, record_complaints, whole_and_streamed
from tests.support.stopping_servers import open_sockets
from tests.support.subprograms import run
from tests.transport.test_interception import CERTIFICATE, SERVER_TLS
from tir_qwen import AsyncClient, ConfigurationError
from tir_qwen._transport import engine

FIRST_CALL = """
import os
os.environ["SSL_CERT_FILE"] = {certificate!r}
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from blockbuster import blockbuster_ctx
from tir_qwen import AsyncClient

async def main():
    async with AsyncClient(base_url=base_url, max_retries=0) as client:
        if {streamed}:
            content = "".join([delta.content async for delta in client.stream(messages)])
        else:
            content = (await client.complete(messages)).content
    print(content)

with blockbuster_ctx():
    asyncio.run(main())
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@whole_and_streamed
def test_the_first_call_does_not_block_its_loop(streamed: bool, host: str) -> None:
    """In a new process, the first call passes a tool that raises whatever blocks an event loop."""
    with Loopback(echo, tls=SERVER_TLS) as server:
        program = FIRST_CALL.format(certificate=str(CERTIFICATE), streamed=streamed)
        assert run(program, f"https://{host}:{server.server_address[1]}/v1", strict=False) == (0, f"{QUESTION}\n", "")


IMPORTS = """
from tir_qwen import AsyncClient, Client

class Finder:
    names = []

    def find_spec(self, name, path=None, target=None):
        is_ours = name.partition(".")[0] in ("tir_qwen", *sys.stdlib_module_names)
        if threading.current_thread() is threading.main_thread() and not is_ours:
            self.names.append(name)

async def main():
    sys.meta_path.insert(0, Finder())
    async with AsyncClient(base_url=base_url, max_retries=0) as client:
        await client.complete(messages)
        print("".join([delta.content async for delta in client.stream(messages)]))

if {after_another}:
    with Client(base_url=base_url) as client:
        client.complete(messages)
asyncio.run(main())
print(Finder.names)
"""


@pytest.mark.parametrize("after_another", [False, True], ids=["first", "after a Client"])
def test_the_first_call_imports_nothing_in_its_loop(after_another: bool) -> None:
    """In a new process, the packages that the first call needs are imported in another thread."""
    with Loopback(echo) as server:
        program = IMPORTS.format(after_another=after_another)
        assert run(program, server.base_url, strict=False) == (0, f"{QUESTION}\n[]\n", "")


LAST_CALL = """
from tir_qwen import AsyncClient

async def main():
    async with AsyncClient(base_url=base_url, max_retries=0) as client:
        print((await client.complete(messages)).content)

atexit.register(lambda: asyncio.run(main()))
"""


def test_the_first_call_may_come_when_there_are_no_new_threads() -> None:
    """A function that runs at exit can make the first call, when no other thread can be started any more."""
    with Loopback(echo) as server:
        assert run(LAST_CALL, server.base_url) == (0, f"{QUESTION}\n", "")


class Preparation:
    """Counts the preparations of the engine, which has not been prepared before, and can hold them up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Event()
        self.may_end.set()
        self.threads: list[int] = []
        self._prepare: Callable[[], None] = engine.prepare
        monkeypatch.setattr(engine, "_has_opened", False)
        monkeypatch.setattr("tir_qwen._transport.certificates._contexts", {})
        monkeypatch.setattr("tir_qwen._transport.async_pool.prepare", self)

    def __call__(self) -> None:
        self.threads.append(threading.get_ident())
        self.begun.release()
        assert self.may_end.wait(5)
        self._prepare()

    async def has_begun(self) -> None:
        """Wait until a preparation has begun."""
        assert await asyncio.to_thread(self.begun.acquire, timeout=5)


@pytest.fixture
def preparation(monkeypatch: pytest.MonkeyPatch) -> Preparation:
    """Return the preparation of an engine that has not been prepared before."""
    return Preparation(monkeypatch)


async def test_many_first_calls_prepare_the_engine_once(preparation: Preparation) -> None:
    """Sixty-four calls at once wait for one preparation, which takes place in another thread."""
    with Loopback(echo) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            answers = await asyncio.gather(*(client.complete(MESSAGES) for _ in range(64)))
            await client.complete(MESSAGES)
    assert [answer.content for answer in answers] == [QUESTION] * 64
    assert len(preparation.threads) == 1
    assert threading.get_ident() not in preparation.threads


async def test_the_loop_runs_while_the_engine_is_prepared(preparation: Preparation) -> None:
    """Other tasks run while a first call waits for the preparation."""
    preparation.may_end.clear()
    with Loopback(echo) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            call = asyncio.ensure_future(client.complete(MESSAGES))
            await preparation.has_begun()
            assert not call.done()
            preparation.may_end.set()
            assert (await call).content == QUESTION


async def test_a_failed_preparation_fails_every_call_until_it_succeeds(
    monkeypatch: pytest.MonkeyPatch, preparation: Preparation
) -> None:
    """With a wrong SSL_CERT_FILE, each of many calls gets the ConfigurationError; corrected, the client works."""
    monkeypatch.setenv("SSL_CERT_FILE", "missing.pem")
    with Loopback(echo, tls=SERVER_TLS) as server:
        async with AsyncClient(base_url=server.base_url.replace("http:", "https:")) as client:
            calls = [client.complete(MESSAGES) for _ in range(8)]
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert server.connections == 0
            monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
            assert (await client.complete(MESSAGES)).content == QUESTION
    words = "SSL_CERT_FILE does not name readable certificates (No such file or directory)."
    assert [(type(error), str(error)) for error in errors] == [(ConfigurationError, words)] * 8
    assert threading.get_ident() not in preparation.threads


async def test_certificates_of_another_file_are_loaded_in_another_thread(
    monkeypatch: pytest.MonkeyPatch, preparation: Preparation
) -> None:
    """If SSL_CERT_FILE changes between calls, the new certificates do not block the loop either."""
    with Loopback(echo) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            await client.complete(MESSAGES)
            monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
            await client.complete(MESSAGES)
    assert len(preparation.threads) == 2


async def test_a_call_cancelled_in_the_preparation_leaves_the_client_usable(preparation: Preparation) -> None:
    """Cancelling the first call ends it at once, and neither the others nor later ones."""
    preparation.may_end.clear()
    with Loopback(echo) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            first, second = (asyncio.ensure_future(client.complete(MESSAGES)) for _ in range(2))
            await preparation.has_begun()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await preparation.has_begun()  # again, for the second
            preparation.may_end.set()
            assert (await second).content == QUESTION
            assert (await client.complete(MESSAGES)).content == QUESTION
            assert server.connections == 1


async def test_a_time_limit_of_the_caller_includes_the_preparation(preparation: Preparation) -> None:
    """`asyncio.timeout` ends a call whose preparation takes too long."""
    preparation.may_end.clear()
    with Loopback(echo) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.complete(MESSAGES)
            preparation.may_end.set()
            assert (await client.complete(MESSAGES)).content == QUESTION


def test_a_client_closed_in_the_preparation_leaves_no_socket_open(
    monkeypatch: pytest.MonkeyPatch, preparation: Preparation
) -> None:
    """A call that was waiting for the preparation when its client was closed leaves no socket open in the end."""
    complaints = record_complaints(monkeypatch)
    preparation.may_end.clear()

    async def main() -> str:
        client = AsyncClient(base_url=server.base_url)
        call = asyncio.ensure_future(client.complete(MESSAGES))
        await preparation.has_begun()
        await client.aclose()
        preparation.may_end.set()
        return (await call).content

    with Loopback(echo) as server:
        assert asyncio.run(main()) == QUESTION
        assert open_sockets(server) == 0
    assert complaints() == []


def test_event_loops_of_two_threads_prepare_the_engine_at_once(preparation: Preparation) -> None:
    """Event loops in two threads that begin at the same time both get their answers, over the same certificates."""
    start = threading.Barrier(2)
    with Loopback(echo) as server:
        client = AsyncClient(base_url=server.base_url)

        async def calls() -> list[str]:
            return [answer.content for answer in await asyncio.gather(*(client.complete(MESSAGES) for _ in range(8)))]

        def work(_: int) -> list[str]:
            start.wait(5)
            return asyncio.run(calls())

        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(work, range(2))) == [[QUESTION] * 8] * 2
        assert open_sockets(server) == 0
    assert 1 <= len(preparation.threads) <= 2
