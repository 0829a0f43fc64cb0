"""Re-record the demo's exchanges: `python -m demo.record`, at the endpoint given by the environment."""

from __future__ import annotations

import json
import socket
import ssl
from urllib.parse import urlsplit

from tir_qwen._request.body import Body
from tir_qwen._request.build import Request, build_request
from tir_qwen._request.endpoint import DEFAULT_MODEL, resolve_endpoint

from .questions import EXCHANGES, RECORDED

KEPT_HEADERS = (b"content-type", b"transfer-encoding")


def main() -> None:
    """Ask each question, and save the raw bytes of the response."""
    EXCHANGES.mkdir(exist_ok=True)
    for name, question in RECORDED.items():
        messages = [{"role": "user", "content": question}]
        body = Body(messages=messages, stream_options={"include_usage": True})
        request = build_request(resolve_endpoint(), DEFAULT_MODEL, body, stream=True)
        head, _, rest = post(request).partition(b"\r\n\r\n")
        status, *headers = head.split(b"\r\n")
        kept = [line for line in headers if line.lower().startswith(KEPT_HEADERS)]
        (EXCHANGES / f"{name}.request.json").write_text(
            json.dumps({"messages": messages, "stream": True}, indent=1, ensure_ascii=False) + "\n"
        )
        (EXCHANGES / f"{name}.response.http").write_bytes(b"\r\n".join([status, *kept]) + b"\r\n\r\n" + rest)
        print(f"{name}: {status.decode()}, {len(rest)} bytes")


def post(request: Request) -> bytes:
    """Send a request over a plain socket and return the raw response, which an HTTP client would decode."""
    url = urlsplit(request.url)
    headers = {**request.headers, "host": url.netloc, "connection": "close", "content-length": len(request.content)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    port = url.port or (443 if url.scheme == "https" else 80)
    connection = socket.create_connection((url.hostname, port))
    if url.scheme == "https":
        connection = ssl.create_default_context().wrap_socket(connection, server_hostname=url.hostname)
    with connection:
        connection.sendall(f"POST {url.path}?{url.query} HTTP/1.1\r\n{lines}\r\n".encode() + request.content)
        raw = b""
        while data := connection.recv(65536):
            raw += data
    return raw


if __name__ == "__main__":
    main()
