"""A server in its own process that does what the question says: answer it, or stall at some point of the answer.

A question is a JSON object: `mode` (see `MODES`), `number`, and where needed `pieces`, `pace` (seconds between them),
`wait` (seconds before the answer), `once` (only the first request with the number waits) and `hold` (seconds for which
an answer stalls; forever if missing).
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.request import urlopen

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after-ms: %d\r\ncontent-length: 2\r\n\r\n{}"
END = b"0\r\n\r\n"
_ENDLESS_PACE = 0.01


def chunk(data: bytes) -> bytes:
    """Return a chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(content: str, finish_reason: str | None = None) -> bytes:
    """Return an event with a part of an answer, as a chunk."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return chunk(b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n")


DELTA = event("more ")
LAST = event("", "stop") + chunk(b"data: [DONE]\n\n")


def whole(content: str) -> bytes:
    """Return a non-streaming response."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    body = json.dumps({"id": "x", "choices": [choice]}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


WHOLE = whole("more " * 10)
MODES = {
    "silent": (b"", STREAM_HEAD),
    "head": (STREAM_HEAD[:30], STREAM_HEAD[30:]),
    "deltas": (STREAM_HEAD + DELTA, b""),
    "frame": (STREAM_HEAD + DELTA + DELTA[:40], DELTA[40:]),
    "done": (STREAM_HEAD + DELTA + LAST, END),
    "body": (WHOLE[:-40], WHOLE[-40:]),
}
"""What is sent before and after an answer stalls. Other modes: `answer` answers, `refused` is always a 503."""


def pieces(question: dict[str, Any]) -> list[str]:
    """Return the right answer to a question, in parts; it is unique."""
    return [f"{question['number']}.{index} " for index in range(question.get("pieces", 3))]


class Server:
    """Answers requests and counts them."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.numbers: set[int] = set()
        self.connections = 0
        self.answering = 0
        self.most = 0

    def stats(self) -> dict[str, Any]:
        """Return calls started and abandoned by mode, other open connections, and the most concurrent answers."""
        return {"seen": dict(self.seen), "connections": self.connections - 1, "most": self.most}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection."""
        self.connections += 1
        self.seen["connections"] += 1
        try:
            while (body := await _request(reader)) is not None:
                if not body:
                    writer.write(_json(self.stats()))
                    continue
                request = json.loads(body)
                question = json.loads(request["messages"][-1]["content"])
                self.seen[question["mode"]] += 1
                self.answering += 1
                self.most = max(self.most, self.answering)
                try:
                    if not await self._answer(question, request["stream"], reader, writer):
                        self.seen[f"{question['mode']} left"] += 1
                        return
                finally:
                    self.answering -= 1
        except OSError:
            pass
        finally:
            self.connections -= 1
            writer.transport.abort()

    async def _answer(
        self, question: dict[str, Any], streamed: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Return whether the client stayed to the end."""
        mode, pace = question["mode"], question.get("pace", 0.0)
        waits = question.get("wait") and not (question.get("once") and question["number"] in self.numbers)
        self.numbers.add(question["number"])
        if waits and await _left(reader, question["wait"]):
            return False
        if mode == "refused":
            writer.write(REFUSAL % int(1000 * (question.get("hold") or 0.02)))
            return True
        if mode == "answer":
            return await _write(pieces(question), streamed, pace, reader, writer)
        before, after = MODES[mode]
        writer.write(before)
        if mode != "deltas" and await _left(reader, question.get("hold")):
            return False
        writer.write(after)
        while mode not in ("done", "body"):
            writer.write(DELTA)
            if await _left(reader, _ENDLESS_PACE):
                return False
        return True


async def _write(
    parts: list[str], streamed: bool, pace: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    if not streamed:
        writer.write(whole("".join(parts)))
        return True
    writer.write(STREAM_HEAD)
    for part in parts:
        writer.write(event(part))
        if pace:
            await asyncio.sleep(pace)
        if reader.at_eof():
            return False
    writer.write(LAST + END)
    return True


async def _left(reader: asyncio.StreamReader, seconds: float | None) -> bool:
    """Whether the client disconnects within these seconds (it sends nothing while it waits for an answer)."""
    try:
        async with asyncio.timeout(seconds):
            return not await reader.read(1)
    except TimeoutError:
        return False
    except OSError:
        return True


async def _request(reader: asyncio.StreamReader) -> bytes | None:
    """Return the body of the next request; None if there is none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        return await reader.readexactly(int(length or 0))
    except (OSError, asyncio.IncompleteReadError):
        return None


def _json(value: Any) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def main() -> None:
    """Print the port, and that of a socket that accepts no connection; listen until standard input ends."""
    server = await asyncio.start_server(Server().serve, "127.0.0.1", 0, backlog=2048)
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())  # fills the backlog
        print(server.sockets[0].getsockname()[1], full.getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


class Running(NamedTuple):
    """A server that has been started."""

    base_url: str
    full_url: str
    """A URL to which connecting never finishes."""

    def stats(self) -> Any:
        """See `Server.stats`."""
        with urlopen(self.base_url) as answer:
            return json.load(answer)


@contextmanager
def running() -> Iterator[Running]:
    """Run a server in its own process."""
    command = [sys.executable, "-m", "stress.server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Running(*(f"http://127.0.0.1:{port}/v1" for port in process.stdout.readline().split()))
        process.terminate()


if __name__ == "__main__":
    asyncio.run(main())
