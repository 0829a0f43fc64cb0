"""Recorded exchanges: `record` stores those with a live endpoint in a file, and `play` answers from it."""

from __future__ import annotations

import difflib
import http.client
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .._redaction import collect_secrets
from .._request.endpoint import CHAT_COMPLETIONS, EMBEDDINGS, Endpoint, resolve_endpoint
from ._endpoint import TOKEN, FakeEndpoint
from ._folding import compact, fold, replace_secrets, unfold
from ._response import Interrupted, Response
from ._server import Request

Exchange = dict[str, Any]
_WRONG_TOKEN = "a-wrong-token"  # noqa: S105 - no secret
_SENT = ("accept", "content-type", "user-agent")
_TIMEOUT = 600.0


@dataclass
class Recording:
    """Exchanges with an endpoint, in order, as `record` stores them in a file.

    An exchange contains the `request` (its body) and, from the response, the `status`, the `content_type`, the body as
    `json`, `events` or `text`, and perhaps `retry_after`. Vectors are stored as they were sent, usually in base64.
    Headers and addresses are not stored. `wrong_token` is true if the request did not have the right token.

    Attributes:
        source: Describes the endpoint, for readers.
        exchanges: The exchanges.
    """

    source: str = ""
    exchanges: list[Exchange] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """Read a recording from a file."""
        kept = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(kept["recorded_from"], kept["exchanges"])

    def save(self, path: str | Path) -> None:
        """Write the recording to a file."""
        kept = {"recorded_from": self.source, "exchanges": self.exchanges}
        Path(path).write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def play(path: str | Path, *, tokens_per_second: float | None = None) -> Iterator[FakeEndpoint]:
    """Answer requests from a recording, in any order, until the end of the context.

    A request gets the answer that was recorded for the same body. Equal requests get their answers in order, and then
    the last one again. A request that was not recorded gets an error with status 410, which names the most similar
    recorded request and the fields that differ.

    Args:
        path: The file.
        tokens_per_second: The speed of the model; None: no delay.

    Raises:
        AssertionError: (at the end) A request got no answer; the message contains the differences. If another exception
            ends the context, they are added to it as a note.
    """
    player = Player(Recording.load(path))
    with _RecordedEndpoint(default=player, tokens_per_second=tokens_per_second) as endpoint:
        try:
            yield endpoint
        except Exception as error:
            try:
                endpoint.check()
            except AssertionError as problems:
                error.add_note(str(problems))
            raise
        endpoint.check()


class _RecordedEndpoint(FakeEndpoint):
    """Computes no vectors: requests for embeddings are answered like the others."""

    def _vectors(self, request: Request, body: dict[str, Any]) -> Response | Interrupted:
        return self._written(self._next(request), body, 0)


class Player:
    """Returns the recorded response to a request.

    Args:
        recording: The exchanges.
        token: The right token.
    """

    def __init__(self, recording: Recording, token: str = TOKEN) -> None:
        self._token = token
        self._lock = threading.Lock()
        self._recorded: dict[str, list[Exchange]] = {}
        for exchange in recording.exchanges:
            self._recorded.setdefault(_key(exchange), []).append(exchange)

    def __call__(self, request: Request) -> Response:
        """Return the response.

        Raises:
            LookupError: There is none.
        """
        asked = {"request": request.json(), "wrong_token": has_wrong_token(request, self._token)}
        with self._lock:
            found = self._recorded.get(_key(asked))
            exchange = (found.pop(0) if len(found) > 1 else found[0]) if found else None
        if exchange is None:
            raise LookupError(_explanation(asked, [exchanges[0] for exchanges in self._recorded.values()]))
        return response_of(exchange)


def has_wrong_token(request: Request, token: str = TOKEN) -> bool:
    """Whether a request does not have this token."""
    return request.headers.get("authorization") != f"Bearer {token}"


def response_of(exchange: Exchange) -> Response:
    """Return the response of an exchange."""
    headers = {"content-type": exchange["content_type"]}
    if "retry_after" in exchange:
        headers["retry-after"] = exchange["retry_after"]
    if "events" in exchange:
        return Response(status=exchange["status"], headers=headers, events=[*unfold(exchange["events"])])
    content = exchange["text"] if "text" in exchange else compact(exchange["json"])
    tokens = (exchange.get("json", {}).get("usage") or {}).get("completion_tokens", 0)
    return Response(status=exchange["status"], headers=headers, content=content.encode(), tokens=tokens)


def _key(exchange: Exchange) -> str:
    return json.dumps([exchange["request"], exchange.get("wrong_token", False)], sort_keys=True)


def _explanation(asked: Exchange, recorded: list[Exchange]) -> str:
    """Say how a request differs from the most similar one with an answer."""
    if not recorded:
        return "the recording is empty."

    def fields(exchange: Exchange) -> dict[str, str]:
        return dict(_flat("", {**exchange["request"], "(wrong token)": exchange.get("wrong_token", False)}))

    new = fields(asked)
    olds = [fields(exchange) for exchange in recorded]

    def likeness(old: dict[str, str]) -> tuple[float, float]:
        """The number of equal fields and, to decide ties, of equal characters."""
        equal = difflib.SequenceMatcher(None, [*old.items()], [*new.items()], autojunk=False).ratio()
        return equal, difflib.SequenceMatcher(None, str(old), str(new)).quick_ratio()

    old = max(olds, key=likeness)
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    lines = [f"{sign} {name}: {of[name]}" for name in differing for sign, of in (("-", old), ("+", new)) if name in of]
    return (
        f"it is not recorded. The nearest of {len(recorded)} differs in {', '.join(differing)}."
        f" (-: recorded, +: this request)\n" + "\n".join(lines)
    )


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield each value within a JSON value, with its path."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _flat(f"{path}.{name}" if path else name, each)
    elif isinstance(value, list) and value:
        for index, each in enumerate(value):
            yield from _flat(f"{path}[{index}]", each)
    else:
        yield path, json.dumps(value, ensure_ascii=False)


@contextmanager
def record(path: str | Path, *, source: str = "", **settings: Any) -> Iterator[FakeEndpoint]:
    """Forward requests to the live endpoint until the end of the context; then store the exchanges in a file.

    Token, project id, API key, values of headers and the host are replaced with `***` wherever a request or a response
    repeats them. Nothing is stored if the context ends with an exception.

    ```python
    from tir_qwen import Client
    from tir_qwen.testing import play, record

    messages = [{"role": "user", "content": "What is the capital of France?"}]
    with record("capitals.json") as endpoint, Client(**endpoint.settings) as client:
        client.complete(messages)
    with play("capitals.json") as endpoint, Client(**endpoint.settings) as client:
        print(client.complete(messages).content)
    ```

    Args:
        path: The file.
        source: Describes the endpoint, for readers of the file.
        settings: Those of the live endpoint: `base_url`, `access_token`, `project_id`, `apikey`, `headers`. The others
            are read from the environment.

    Raises:
        ConfigurationError: A setting is missing.
        AssertionError: (at the end) A request could not be forwarded, or an answer could not be stored because a secret
            is spread over several events of a stream.
    """
    live = resolve_endpoint(**settings)
    Path(path).parent.mkdir(parents=True, exist_ok=True)  # fails now, not after the recording
    recorder = Recorder(live)
    with _RecordedEndpoint(default=recorder) as endpoint:
        yield endpoint
        endpoint.check()
    Recording(source, recorder.exchanges).save(path)


class Recorder:
    """Forwards requests to an endpoint, and stores the exchanges without secrets."""

    def __init__(self, live: Endpoint) -> None:
        self._live = live
        host = urlsplit(live.url("model")).hostname
        self._secrets = collect_secrets([*live.secrets, host, _WRONG_TOKEN])
        self._lock = threading.Lock()
        self.exchanges: list[Exchange] = []

    def __call__(self, request: Request) -> Response:
        """Return the endpoint's response to a request."""
        body = request.json()
        exchange: Exchange = {"request": replace_secrets(body, self._secrets)}
        if has_wrong_token(request):
            exchange["wrong_token"] = True
        with self._lock:  # in the order of the requests
            self.exchanges.append(exchange)
        operation = EMBEDDINGS if request.path.endswith(EMBEDDINGS) else CHAT_COMPLETIONS
        url = self._live.url(body["model"], operation)
        response, text = self._forward(request, url, wrong_token="wrong_token" in exchange)
        exchange |= {"status": response.status, "content_type": response.headers["content-type"]}
        if "retry-after" in response.headers:
            exchange["retry_after"] = response.headers["retry-after"]
        exchange |= fold(text, self._secrets)
        return response_of(exchange)

    def _forward(self, request: Request, url: str, *, wrong_token: bool) -> tuple[http.client.HTTPResponse, str]:
        headers = {name: value for name, value in request.headers.items() if name in _SENT}
        headers |= {name.lower(): value for name, value in self._live.headers.items()}
        if wrong_token:
            headers["authorization"] = f"Bearer {_WRONG_TOKEN}"
        forwarded = urllib.request.Request(url, request.body, headers, method="POST")  # noqa: S310 - the live endpoint
        with urllib.request.build_opener(_AsItIs).open(forwarded, timeout=_TIMEOUT) as response:
            return response, response.read().decode()


class _AsItIs(urllib.request.HTTPErrorProcessor):
    """Returns every response as it is: errors are recorded, and following a redirect would leak the token."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        return response

    https_response = http_response
