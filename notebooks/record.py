"""Re-record notebooks' exchanges: `python -m notebooks.record NAME ...`, at the endpoint given by the environment.

`--from TEXT` describes the endpoint, if it is not the one named in the last recording.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from nbclient.exceptions import CellExecutionError

from demo.replay import Received
from tir_qwen._request.endpoint import Endpoint, resolve_endpoint

from .execute import execute, find
from .recorded import CREDENTIALS, RECORDER, Exchange, Server, fold, has_wrong_token, load, save, written

WRONG_TOKEN = "a-wrong-token"  # noqa: S105 - no secret
SENT = ("accept", "accept-encoding", "content-type")


class Recorder:
    """Forwards requests to the endpoint, and keeps them with their responses."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self.exchanges: list[Exchange] = []

    def __call__(self, received: Received) -> Iterator[bytes]:
        """Answer a request with the endpoint's response."""
        exchange: Exchange = {"request": received.json()}
        if has_wrong_token(received):
            exchange["wrong_token"] = True
        with self._lock:  # in the order of the requests
            self.exchanges.append(exchange)
        headers = {name: value for name, value in received.headers.items() if name in SENT}
        headers |= {name.lower(): value for name, value in self._endpoint.headers.items()}
        if "wrong_token" in exchange:
            headers["authorization"] = f"Bearer {WRONG_TOKEN}"
        url = urlsplit(self._endpoint.url(exchange["request"]["model"]))
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.netloc, timeout=600)
        try:
            target = f"{url.path}?{url.query}".rstrip("?")
            connection.request("POST", target, received.body, headers)
            response = connection.getresponse()
            exchange["status"] = response.status
            exchange["content_type"] = response.headers["content-type"]
            if "retry-after" in response.headers:
                exchange["retry_after"] = response.headers["retry-after"]
            exchange |= fold(response.read().decode())
        finally:
            connection.close()
        yield from written(exchange, float("inf"))


def record(path: Path, source: str | None) -> int:
    """Run a notebook against the endpoint and save its exchanges; return their number."""
    endpoint = resolve_endpoint()
    recorder = Recorder(endpoint)
    with Server(recorder) as server:
        environment = {name: value for name, value in os.environ.items() if name not in CREDENTIALS}
        execute(path, {**environment, RECORDER: server.url})
    _look_for_secrets(endpoint, repr(recorder.exchanges))
    save(path.stem, source or load(path.stem)[0], recorder.exchanges)
    return len(recorder.exchanges)


def _look_for_secrets(endpoint: Endpoint, text: str) -> None:
    token = "".join(value for name, value in endpoint.headers.items() if name.lower() == "authorization")
    url = urlsplit(endpoint.url("qwen3_32b"))
    project = re.search(r"/project/(p-[^/]+)", url.path)
    for secret in filter(None, [token.removeprefix("Bearer "), url.hostname, project and project[1]]):
        if secret in text:
            raise SystemExit("Not kept: the exchanges hold the token, the project id or the host.")


def main() -> None:
    """Record the notebooks that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--from", dest="source", metavar="TEXT", help="description of the endpoint: vLLM 0.9.2, say")
    arguments = parser.parse_args()
    for path in find(arguments.names):
        try:
            print(f"{path.stem}: {record(path, arguments.source)} exchanges", flush=True)
        except CellExecutionError as error:
            sys.exit(f"{path.stem}: FAILED\n{error}")


if __name__ == "__main__":
    main()
