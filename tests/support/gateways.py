"""Gateways that accept only documented fields, for recording; see tests/data/cassettes/README.md.

python -m tests.support.gateways 8160 http://127.0.0.1:8080 strict
"""

from __future__ import annotations

import argparse
import http.client
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

DOCUMENTED = frozenset(
    ("temperature", "max_tokens", "top_p", "frequency_penalty", "presence_penalty", "stream", "model", "messages")
)
"""The fields of the API reference."""


class Gateway(ThreadingHTTPServer):
    """Passes requests on to `upstream`.

    `strict` answers a field that is not documented with 400 and names it, one at a time; `dropping` takes all of them
    out without a word.
    """

    def __init__(self, port: int, upstream: str, manner: str) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.upstream = urlsplit(upstream)
        self.manner = manner


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        unknown = sorted(body.keys() - DOCUMENTED)
        if unknown and self.server.manner == "strict":
            message = {"error": {"message": f"Unrecognized request argument supplied: {unknown[0]}"}}
            self._answer(400, "application/json", json.dumps(message).encode())
        else:
            self._pass_on({name: value for name, value in body.items() if name in DOCUMENTED})

    def _pass_on(self, body: dict[str, Any]) -> None:
        upstream = self.server.upstream
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port)
        headers = {"content-type": "application/json", "authorization": self.headers["authorization"]}
        connection.request("POST", self.path, json.dumps(body).encode(), headers)
        response = connection.getresponse()
        self._answer(response.status, response.getheader("content-type") or "", response.read())
        connection.close()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("upstream", help="the lab's URL")
    parser.add_argument("manner", choices=["strict", "dropping"])
    options = parser.parse_args()
    Gateway(options.port, options.upstream, options.manner).serve_forever()
