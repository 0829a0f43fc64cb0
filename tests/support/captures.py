"""Raw exchanges with real vLLM servers, as captured from the socket; see tests/data/captures/README.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.support.calls import dialect_of
from tests.support.paths import DATA
from tir_qwen._dialect.capabilities import Capabilities
from tir_qwen._response.choice import DecodingOptions

FOLDER = DATA / "captures"


_DECIDE_DECODING = {
    "chat_template_kwargs",
    "include_stop_str_in_output",
    "parallel_tool_calls",
    "stop",
    "tool_choice",
    "tools",
}
"""The fields of a request that decide how its answer is decoded; some captures sent invalid values in others."""


@dataclass(frozen=True)
class Capture:
    """One exchange: `setup` is the folder (`vllm-0.9.2`), `name` what was asked."""

    setup: str
    name: str
    raw: bytes
    """The response as it came, chunked framing and all."""
    request: dict[str, Any] | None
    """The request's body; None if it was not a JSON object."""

    @property
    def id(self) -> str:
        return f"{self.setup}/{self.name}"

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def expected(self) -> DecodingOptions:
        """How the request's answer is to be decoded."""
        request = self.request or {}
        params = {name: value for name, value in request.items() if name in _DECIDE_DECODING}
        return dialect_of([{"role": "user", "content": "Hello"}], params, Capabilities()).decoding_options

    @property
    def streamed(self) -> bool:
        return "event-stream" in self.headers.get("content-type", "")

    @property
    def body(self) -> bytes:
        """The response's body without its transfer encoding; truncated where the capture is."""
        rest = self.raw.partition(b"\r\n\r\n")[2]
        if self.headers.get("transfer-encoding") != "chunked":
            return rest
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size or b"0", 16)
            body += rest[:length]
            rest = rest[length + 2 :]
        return body


def load() -> list[Capture]:
    """Return all captures, in order."""
    captures = []
    for path in sorted(FOLDER.rglob("*.response.http")):
        name = path.name.removesuffix(".response.http")
        sent = path.with_name(f"{name}.request.http").read_bytes().partition(b"\r\n\r\n")[2]
        try:
            request = json.loads(sent)
        except ValueError:
            request = None
        setup = str(path.parent.relative_to(FOLDER))
        captures.append(Capture(setup, name, path.read_bytes(), request if isinstance(request, dict) else None))
    return captures


CAPTURES = load()
