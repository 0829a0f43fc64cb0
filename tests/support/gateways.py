"""Gateways that accept only documented fields, for recording; see tests/data/cassettes/README.md.

python -m tests.support.gateways http://127.0.0.1:8080 strict
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
from typing import Any
from urllib.parse import urlsplit

from tir_qwen.testing import FakeEndpoint, Request, Response

DOCUMENTED = frozenset(
    ("temperature", "max_tokens", "top_p", "frequency_penalty", "presence_penalty", "stream", "model", "messages")
)
"""The fields of the API reference."""


class Gateway:
    """Passes requests on to `upstream`.

    `strict` answers a field that is not documented with 400 and names it, one at a time; `dropping` takes all of them
    out without a word.
    """

    def __init__(self, upstream: str, manner: str) -> None:
        self.upstream = urlsplit(upstream)
        self.manner = manner

    def __call__(self, request: Request) -> Response:
        """Return the response to a request."""
        body = request.json()
        unknown = sorted(body.keys() - DOCUMENTED)
        if unknown and self.manner == "strict":
            message = {"error": {"message": f"Unrecognized request argument supplied: {unknown[0]}"}}
            return Response(
                status=400, headers={"content-type": "application/json"}, content=json.dumps(message).encode()
            )
        return self._pass_on(request, {name: value for name, value in body.items() if name in DOCUMENTED})

    def _pass_on(self, request: Request, body: dict[str, Any]) -> Response:
        connection = http.client.HTTPConnection(self.upstream.hostname or "", self.upstream.port)
        headers = {"content-type": "application/json", "authorization": request.headers["authorization"]}
        connection.request("POST", request.target, json.dumps(body).encode(), headers)
        response = connection.getresponse()
        kind = {"content-type": response.getheader("content-type") or ""}
        passed_on = Response(status=response.status, headers=kind, content=response.read())
        connection.close()
        return passed_on


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream", help="the lab's URL")
    parser.add_argument("manner", choices=["strict", "dropping"])
    options = parser.parse_args()
    with FakeEndpoint(default=Gateway(options.upstream, options.manner)) as endpoint:
        print(endpoint.base_url, flush=True)
        threading.Event().wait()
