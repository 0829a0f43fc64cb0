"""Clients in processes that are forked, spawned, interrupted, or that exit in the middle of a call."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.server import (
    MESSAGES,
    QUESTION,
    STREAM_HEAD,
    HangUpError,
    Loopback,
    Sync,
    ask,
    echo,
    event,
)
from tests.support.subprograms import run, run_and_interrupt
from tir_qwen import AsyncClient, Client
from tir_qwen.testing import Request

forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
"""Newer Python versions warn when a process with several threads forks; here the other thread is the server's."""


def question(name: str) -> list[dict[str, str]]:
    """Return the messages of a call."""
    return [{"role": "user", "content": name}]


def ask_both(client: Client | AsyncClient, name: str) -> tuple[str, str]:
    """Return a whole and a streamed answer."""
    if isinstance(client, Client):
        streamed = "".join(delta.content for delta in client.stream(question(name)))
        return client.complete(question(name)).content, streamed

    async def calls() -> tuple[str, str]:
        streamed = "".join([delta.content async for delta in client.stream(question(name))])
        return (await client.complete(question(name))).content, streamed

    return asyncio.run(calls())


@forking
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_process_pools(make: Any, context: str) -> None:
    """A used client works in the workers of a process pool, forked or spawned, and meanwhile in the parent."""
    with Loopback(echo) as server:
        client = make(base_url=server.base_url)
        assert ask_both(client, "before") == ("before", "before")
        with ProcessPoolExecutor(2, multiprocessing.get_context(context)) as processes:
            names = [f"call {number}" for number in range(4)]
            answers = [processes.submit(ask_both, client, name) for name in names]
            assert ask_both(client, "during") == ("during", "during")
            assert [answer.result(20) for answer in answers] == [(name, name) for name in names]
        assert ask_both(client, "after") == ("after", "after")


def child_of(client: Client | AsyncClient, held: Any, answers: Any) -> None:
    """Run in a forked child: make a call, drop the inherited stream, and make another call."""
    first = ask_both(client, "child")
    del held
    answers.send([first, ask_both(client, "child")])


def slowly(request: Request) -> Iterator[bytes]:
    """Answer the parent's stream in small, slow pieces."""
    if request.json()["messages"] != MESSAGES:
        yield from echo(request)
        return
    whole = next(iter(echo(request)))
    for piece in (whole[:400], whole[400:-300], whole[-300:]):
        yield piece
        threading.Event().wait(0.05)


@forking
@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_fork_while_a_stream_is_open(make: Any) -> None:
    """A child forked during a stream uses connections of its own, and the parent's stream continues undisturbed."""
    with Loopback(slowly) as server, asyncio.Runner() as runner:
        client = make(base_url=server.base_url)
        deltas = client.stream(MESSAGES)
        asynchronous = make is AsyncClient

        def step() -> str:
            return (runner.run(anext(deltas)) if asynchronous else next(deltas)).content

        begun = step()
        receive, send = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=child_of, args=(client, deltas, send))
        process.start()
        assert receive.poll(10)
        assert receive.recv() == [("child", "child")] * 2
        process.join(10)
        assert process.exitcode == 0
        rest = ""
        for _ in QUESTION[1:]:
            rest += step()
        assert begun + rest == QUESTION


FORK = """
from tir_qwen import AsyncClient, Client
client, other = Client(base_url=base_url), AsyncClient(base_url=base_url)
with asyncio.Runner(debug=False) as runner:
    def calls(*words):
        print(*words, client.complete(messages).content, runner.run(other.complete(messages)).content, flush=True)
    calls("parent")
    child = os.fork()
    if not child:
        with asyncio.Runner(debug=False) as runner:
            calls("child")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    calls("parent")
"""


def test_a_forked_child_opens_its_own_connections() -> None:
    """A forked child opens connections of its own, and the parent keeps its own."""
    with Loopback(echo) as server:
        both = f"{QUESTION} {QUESTION}\n"
        assert run(FORK, server.base_url) == (0, f"parent {both}child {both}parent {both}", "")
        assert server.connections == 4


FORK_AND_EXIT = """
from tir_qwen import Client
client = Client(base_url=base_url)
deltas = client.stream(messages)
print(next(deltas).content, end="", flush=True)
if not (child := os.fork()):
    print("<", client.complete([{"role": "user", "content": "child"}]).content, ">", sep="", end="", flush=True)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
print(*(delta.content for delta in deltas), sep="")
"""


def test_fork_that_ends_as_programs_do() -> None:
    """A forked child can end with `sys.exit` while holding its parent's stream; the stream continues."""
    with Loopback(slowly) as server:
        assert run(FORK_AND_EXIT, server.base_url) == (0, f"W<child>{QUESTION[1:]}\n", "")


ENDS = {
    "open client": """
from tir_qwen import Client
client = Client(base_url=base_url)
client.complete(messages)
""",
    "open stream": """
from tir_qwen import Client
deltas = Client(base_url=base_url).stream([{"role": "user", "content": "endless"}])
next(deltas)
""",
    "streams in a cycle": """
from tir_qwen import Client
class Holder: pass
holder, client = Holder(), Client(base_url=base_url)
holder.self, holder.deltas = holder, [client.stream([{"role": "user", "content": "endless"}]) for _ in range(3)]
for deltas in holder.deltas: next(deltas)
del holder, client, deltas
""",
    "open async client": """
from tir_qwen import AsyncClient
client = AsyncClient(base_url=base_url)
asyncio.run(client.complete(messages))
""",
    "open async streams": """
from tir_qwen import AsyncClient
client, held = AsyncClient(base_url=base_url), []
async def main():
    for _ in range(3):
        held.append(client.stream([{"role": "user", "content": "endless"}]))
        await anext(held[-1])
asyncio.run(main())
""",
    "pending calls": """
from tir_qwen import AsyncClient
client, tasks = AsyncClient(base_url=base_url), []
async def main():
    for _ in range(3):
        tasks.append(asyncio.ensure_future(client.complete([{"role": "user", "content": "silent"}])))
    await asyncio.sleep(1)
asyncio.run(main())
""",
    "daemon thread in a call": """
from tir_qwen import Client
client = Client(base_url=base_url)
client.complete(messages)
def work():
    client.complete([{"role": "user", "content": "silent"}])
threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
""",
    "daemon threads in streams": """
from tir_qwen import Client
client = Client(base_url=base_url)
begun = threading.Semaphore(0)
def work():
    for _ in client.stream([{"role": "user", "content": "endless"}]): begun.release()
for _ in range(4): threading.Thread(target=work, daemon=True).start()
for _ in range(20): begun.acquire()
""",
    "call at exit": """
from tir_qwen import Client
client = Client(base_url=base_url)
atexit.register(lambda: client.complete(messages))
client.complete(messages)
""",
    "first call at exit": """
from tir_qwen import Client
client = Client(base_url=base_url)
@atexit.register
def last():
    deltas = client.stream(messages)
    next(deltas)
""",
    "async call at exit": """
from tir_qwen import AsyncClient
client = AsyncClient(base_url=base_url)
atexit.register(lambda: asyncio.run(client.complete(messages)))
asyncio.run(client.complete(messages))
""",
    "call as an object ends": """
from tir_qwen import Client
class Holder:
    def __init__(self): self.client = Client(base_url=base_url)
    def __del__(self): self.client.complete(messages); self.client.close()
holder = Holder()
holder.client.complete(messages)
del holder
""",
    "loop closed by hand": """
from tir_qwen import AsyncClient
client = AsyncClient(base_url=base_url)
loop = asyncio.new_event_loop()
loop.run_until_complete(client.complete(messages))
loop.run_until_complete(loop.shutdown_asyncgens())
loop.close()
""",
    "loops in threads": """
from tir_qwen import AsyncClient
client = AsyncClient(base_url=base_url)
async def main():
    await asyncio.gather(*(client.complete(messages) for _ in range(3)))
threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
for thread in threads: thread.start()
""",
}
"""Programs that exit without closing anything."""


def as_asked(server: Loopback) -> threading.Event:
    """Make the server answer `endless` forever and `silent` never; the event is set when either is requested."""
    asked = threading.Event()

    def answer(request: Request) -> Iterator[bytes]:
        content = request.json()["messages"][0]["content"]
        if content not in ("endless", "silent"):
            yield from echo(request)
            return
        asked.set()
        if content == "endless":
            yield STREAM_HEAD + event("0")
            while not server.left_within(0.005):
                yield event("1")
        server.left_within(10)
        raise HangUpError

    server.answer = answer
    return asked


@pytest.mark.parametrize("name", ENDS)
def test_programs_that_just_end(name: str) -> None:
    """A program can exit at any time without closing anything: immediately, with status 0 and no output."""
    with Loopback(echo) as server:
        as_asked(server)
        assert run(ENDS[name], server.base_url) == (0, "", "")
        assert server.connections > 0
        assert server.noticed(server.connections)


INTERRUPTED = {
    "call": """
from tir_qwen import Client
try:
    Client(base_url=base_url).complete([{"role": "user", "content": "silent"}])
except KeyboardInterrupt:
    print("stopped")
""",
    "stream": """
from tir_qwen import Client
try:
    for _ in Client(base_url=base_url).stream([{"role": "user", "content": "endless"}]): pass
except KeyboardInterrupt:
    print("stopped")
""",
    "async call": """
from tir_qwen import AsyncClient
try:
    asyncio.run(AsyncClient(base_url=base_url).complete([{"role": "user", "content": "silent"}]))
except KeyboardInterrupt:
    print("stopped")
""",
    "async stream": """
from tir_qwen import AsyncClient
async def main():
    async for _ in AsyncClient(base_url=base_url).stream([{"role": "user", "content": "endless"}]): pass
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("stopped")
""",
    "async streams in tasks": """
from tir_qwen import AsyncClient
client = AsyncClient(base_url=base_url)
async def one():
    async for _ in client.stream([{"role": "user", "content": "endless"}]): pass
async def main():
    await asyncio.gather(*(one() for _ in range(5)))
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("stopped")
""",
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_ctrl_c_ends_a_program_quietly(name: str) -> None:
    """Ctrl-C raises `KeyboardInterrupt` at once, without further output, and closes the connections."""
    with Loopback(echo) as server:
        asked = as_asked(server)
        assert run_and_interrupt(INTERRUPTED[name], server.base_url, asked) == (0, "stopped\n", "")
        assert server.noticed(server.connections)


async def test_synchronous_calls_within_an_event_loop() -> None:
    """The synchronous client can be used inside a running event loop, as in a notebook."""
    with Loopback(echo) as server, Client(base_url=server.base_url) as client:
        assert [ask(Sync(), client, streamed) for streamed in (False, True)] == [QUESTION] * 2
        async with AsyncClient(base_url=server.base_url) as other:
            deltas = other.stream(MESSAGES)
            first = (await anext(deltas)).content
            between = client.complete(MESSAGES).content
            assert (first + "".join([delta.content async for delta in deltas]), between) == (QUESTION, QUESTION)


def test_thread_pools_come_and_go() -> None:
    """A thread that ends leaves its connections to later threads."""
    with Loopback(echo) as server, Client(base_url=server.base_url) as client:
        for _ in range(10):
            with ThreadPoolExecutor(1) as threads:
                assert threads.submit(ask_both, client, "Hi").result(10) == ("Hi", "Hi")
        assert server.connections == 1


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_fork_while_a_client_is_being_made() -> None:
    """A child forked while another thread holds the client's lock can still make calls: it gets its own lock."""
    with Loopback(echo) as server:
        client = Client(base_url=server.base_url)
        read, write = os.pipe()
        with client._pool._connections.released:  # as that other thread would hold it
            child = os.fork()
            if not child:
                os.write(write, client.complete(MESSAGES).content.encode())
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as said:
            assert said.read() == QUESTION
        os.waitpid(child, 0)
