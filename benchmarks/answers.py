"""Answers in vLLM's format: events of about 220 bytes, each in its own HTTP chunk."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from .work import TOOL, Work, usage

_FACTS = {"id": "chatcmpl-fac93c60a0c44fc89b75bb41d8838e90", "created": 1770613777, "model": "qwen3_32b"}
_HEAD = b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 07:35:51 GMT\r\nserver: uvicorn\r\ncontent-type: %b\r\n"
_STREAM_HEAD = _HEAD % b"text/event-stream; charset=utf-8" + b"transfer-encoding: chunked\r\n\r\n"
_CALL = {"id": "chatcmpl-tool-0845aff2f55a4ae9b2f7859536cb2c0e", "type": "function"}
_BURST = 64 * 1024


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    facts = {"id": _FACTS["id"], "object": "chat.completion.chunk", **_FACTS, "choices": choices}
    return _chunk(b"data: " + _json(facts | more) + b"\n\n")


def _delta(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    end = {"stop_reason": None} if finish_reason else {}
    return _event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, **end}])


def _said(kind: str, text: str) -> dict[str, Any]:
    if kind == "tool":
        return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
    return {"reasoning_content" if kind == "reasoning" else "content": text}


@lru_cache(maxsize=64)
def events(work: Work, with_usage: bool) -> list[bytes]:
    """Return the parts of a streamed answer: the beginning, one part per chunk, and the end."""
    first = _STREAM_HEAD + _delta({"role": "assistant", "content": ""})
    if work.kind == "tool":
        first += _delta({"tool_calls": [{**_CALL, "index": 0, "function": {"name": TOOL}}]})
    written = {text: _delta(_said(work.kind, text)) for text in {*work.texts}}
    last = _delta({"content": ""}, "tool_calls" if work.kind == "tool" else "stop")
    if with_usage:
        last += _event([], usage=usage(work))
    return [first, *(written[text] for text in work.texts), last + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"]


@lru_cache(maxsize=64)
def bursts(work: Work, with_usage: bool) -> list[bytes]:
    """Return the same bytes in large parts, for answers without a pace."""
    data = b"".join(events(work, with_usage))
    return [data[start : start + _BURST] for start in range(0, len(data), _BURST)]


@lru_cache(maxsize=64)
def whole(work: Work) -> bytes:
    """Return a non-streaming answer."""
    message: dict[str, Any] = {"role": "assistant", "reasoning_content": None, "content": work.whole, "tool_calls": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    counts = {**usage(work), "prompt_tokens_details": None}
    facts = {"id": _FACTS["id"], "object": "chat.completion", **_FACTS, "choices": [choice], "usage": counts}
    body = _json({**facts, "prompt_logprobs": None, "kv_transfer_params": None})
    return _HEAD % b"application/json" + b"content-length: %d\r\n\r\n%b" % (len(body), body)
