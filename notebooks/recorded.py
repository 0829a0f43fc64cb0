"""Settings for notebooks: those of the live endpoint, or of a local server that replays recorded exchanges.

    given = recorded.settings("01_langchain_quickstart")
    model = ChatTIRQwen(**given)

Recorded answers are found by the complete body of a request, so a changed notebook fails until it is re-recorded.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))  # the installed package does not contain `demo`

from demo.replay import Answer, Received, ReplayServer

EXCHANGES = Path(__file__).parent / "exchanges"
CREDENTIALS = ("E2E_TIR_ACCESS_TOKEN", "E2E_TIR_PROJECT_ID", "E2E_TIR_BASE_URL")
PACE = "TIR_NOTEBOOKS_PACE"
"""Name of the variable with the tokens per second of replayed answers; tests set it high."""
RECORDER = "TIR_NOTEBOOKS_RECORDER"
"""Name of the variable with the URL of `notebooks.record` while it records."""
TOKEN = "recorded"  # noqa: S105 - not a secret: the local server's
PROJECT = 6530

Exchange = dict[str, Any]
"""`request` (the body), `status`, `content_type`, the answer as `json`, `events` or `text`, and perhaps `retry_after`.

`wrong_token` is true if the notebook did not use the token in its settings.
"""


class Server(ReplayServer):
    """A replay server for many concurrent clients."""

    request_queue_size = 128  # with the default of 5, concurrent clients lose SYNs and wait a second


_running: list[Server] = []
_HOW = "make record-notebooks NOTEBOOKS={}"


def settings(name: str) -> dict[str, Any]:
    """Print which endpoint is used, and return the settings of a notebook's models.

    Args:
        name: The notebook's name, without suffix.
    """
    if any(os.environ.get(variable) for variable in CREDENTIALS):
        print("Live: asking the endpoint that the environment names.")
        return {}
    while _running:  # this cell has run before: start over
        server = _running.pop()
        server.shutdown()
        server.server_close()
    os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"]))
    if url := os.environ.get(RECORDER):
        print("Recording.")
    else:
        source, exchanges = load(name)
        pace = float(os.environ.get(PACE, "40"))
        print(
            f"Recorded: no credentials in the environment, so a local server replays answers recorded from\n"
            f"{source}, at {pace:g} tokens a second.\n"
            f"Set {' and '.join(CREDENTIALS[:2])} to ask the live endpoint."
        )
        server = Server(replay(name, exchanges, pace)).__enter__()
        _running.append(server)
        url = server.url
    return {"base_url": url, "project_id": PROJECT, "access_token": TOKEN}


def replay(name: str, exchanges: Iterable[Exchange], pace: float, *, token: str = TOKEN) -> Answer:
    """Return a function that replays the recorded answers; equal requests get theirs in turn, then repeat the last.

    Args:
        name: The notebook's name.
        exchanges: Its recording.
        pace: Tokens per second, by which streams are timed, and non-streaming answers delayed.
        token: The right token.
    """
    recorded: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        recorded.setdefault(_key(exchange), []).append(exchange)
    lock = threading.Lock()

    def answer(received: Received) -> Iterator[bytes]:
        asked = {"request": received.json(), "wrong_token": has_wrong_token(received, token)}
        with lock:
            found = recorded.get(_key(asked))
            exchange = (found.pop(0) if len(found) > 1 else found[0]) if found else None
        if exchange is None:
            print(_explanation(name, asked, recorded), file=sys.stderr, flush=True)
            error = {"message": f"No answer of {name} is kept for this request. {_HOW.format(name)}"}
            exchange = {"status": 404, "content_type": "application/json", "json": {"error": error}}
        yield from written(exchange, pace)

    return answer


def has_wrong_token(received: Received, token: str = TOKEN) -> bool:
    """Whether a request does not have the token of the notebooks' settings."""
    return received.headers.get("authorization") != f"Bearer {token}"


def _key(exchange: Exchange) -> str:
    return json.dumps([exchange["request"], exchange.get("wrong_token", False)], sort_keys=True)


def _explanation(name: str, asked: Exchange, recorded: dict[str, list[Exchange]]) -> str:
    """Describe a request without a recorded answer, and how it differs from the most similar one with an answer."""

    def lines(exchange: Exchange) -> list[str]:
        shown = {**exchange["request"], "(wrong token)": exchange.get("wrong_token", False)}
        return json.dumps(shown, indent=1, sort_keys=True, ensure_ascii=False).split("\n")

    new = lines(asked)
    olds = [lines(exchanges[0]) for exchanges in recorded.values()]
    nearest = max(olds, key=lambda old: difflib.SequenceMatcher(None, old, new).ratio(), default=[])
    names = ("the nearest recorded request", "this request")
    difference = "\n".join(difflib.unified_diff(nearest, new, *names, n=2, lineterm=""))
    return f"{name} has no recorded answer to this request.\n{difference}\nTo record anew: {_HOW.format(name)}"


def written(exchange: Exchange, pace: float) -> Iterator[bytes]:
    """Yield the raw response, in the parts and at the pace in which a model would write it."""
    begun = time.monotonic()
    retry_after = f"retry-after: {exchange['retry_after']}\r\n" if "retry_after" in exchange else ""
    head = f"HTTP/1.1 {exchange['status']} .\r\ncontent-type: {exchange['content_type']}\r\n{retry_after}"
    if "events" not in exchange:
        usage = exchange.get("json", {}).get("usage") or {}
        content = (exchange["text"] if "text" in exchange else _compact(exchange["json"])).encode()
        _wait_until(begun + usage.get("completion_tokens", 0) / pace)
        yield f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
        return
    yield f"{head}transfer-encoding: chunked\r\n\r\n".encode()
    tokens = 0
    for event, is_token in unfold(exchange["events"]):
        if is_token:
            tokens += 1
            _wait_until(begun + tokens / pace)
        content = f"{event}\n\n".encode()
        yield b"%x\r\n%s\r\n" % (len(content), content)
    yield b"0\r\n\r\n"


def _wait_until(due: float) -> None:
    time.sleep(max(0.0, due - time.monotonic()))


# How exchanges are stored: every byte of the answers, but compact and readable. Events of a stream that differ only in
# their text form one entry: the event with HERE in place of the text, and the texts, separated by BETWEEN.

HERE = "…HERE…"
BETWEEN = "¦"
LINE = 100
_TEXT = re.compile(r'(?<="delta":)(\{.*"(?:reasoning_content|reasoning|content|arguments)":")((?:[^"\\]|\\.)+)"')


def load(name: str) -> tuple[str, list[Exchange]]:
    """Return a notebook's recording: a description of its source, and the exchanges in order."""
    kept = json.loads((EXCHANGES / f"{name}.json").read_text(encoding="utf-8"))
    return kept["recorded_from"], kept["exchanges"]


def save(name: str, source: str, exchanges: list[Exchange]) -> None:
    """Save a notebook's recording."""
    kept = {"recorded_from": source, "exchanges": exchanges}
    text = json.dumps(kept, indent=1, ensure_ascii=False) + "\n"
    (EXCHANGES / f"{name}.json").write_text(text, encoding="utf-8")


def fold(body: str) -> dict[str, Any]:
    """Return a response's body as stored: as `json` or `events`, or as `text` if these would not keep every byte."""
    with suppress(ValueError):
        content = json.loads(body)
        if isinstance(content, dict) and _compact(content) == body:
            return {"json": content}
    if not body.startswith("data:") or not body.endswith("\n\n"):
        return {"text": body}
    *events, _ = body.split("\n\n")
    entries: list[Any] = []
    for event in events:
        found = _TEXT.search(event)
        text = json.loads(f'"{found[2]}"') if found else ""
        if not found or BETWEEN in text or HERE in event or _compact(text)[1:-1] != found[2]:
            entries.append(event)
            continue
        same = event[: found.start(2)] + HERE + event[found.end(2) :]
        if not entries or not isinstance(entries[-1], dict) or entries[-1]["event"] != same:
            entries.append({"event": same, "texts": [text]})
        elif len(entries[-1]["texts"][-1]) + len(text) < LINE:
            entries[-1]["texts"][-1] += BETWEEN + text
        else:
            entries[-1]["texts"].append(text)
    return {"events": entries}


def unfold(entries: list[Any]) -> Iterator[tuple[str, bool]]:
    """Yield a stream's events, and whether each contains text."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry, False
            continue
        before, after = entry["event"].split(HERE)
        for line in entry["texts"]:
            for text in line.split(BETWEEN):
                yield before + _compact(text)[1:-1] + after, True


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
