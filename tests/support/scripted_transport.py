"""A server without a socket that gives scripted replies in turn, whole or streamed as requested."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import httpx

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.fake_vllm import MODEL, USAGE, Lab, frame

KNOWN = {"project_id": 1, "access_token": "token"}
BODY_OF_OVERFLOW = {
    "object": "error",
    "message": "This model's maximum context length is 32768 tokens. However, you requested 40000 tokens.",
    "type": "BadRequestError",
    "param": None,
    "code": 400,
}


@dataclass(frozen=True)
class Reply:
    """A scripted reply, which is sent whole or streamed.

    Attributes:
        content: The text of the answer.
        calls: Its tool calls: names (of the first tool that is offered, if empty), and arguments as the model wrote
            them.
        cut: How long the pieces of a stream are; None: 4 characters, and arguments begin with a brace and a quotation
            mark, which are one token.
        error: The body of a refusal, with `status`.
        frames: The deltas of a stream, where it is they that matter.
        counted: Whether each chunk of a stream repeats what has been counted so far.
    """

    content: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    reasoning: str = "Hm."
    finish_reason: str = "stop"
    cut: int | None = None
    status: int = 200
    error: Any = None
    frames: Sequence[dict[str, Any]] | None = None
    counted: bool = False

    def whole(self) -> dict[str, Any]:
        """Return the whole message."""
        calls = [
            {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(self.calls)
        ]
        message = {"role": "assistant", "reasoning_content": self.reasoning, "content": self.content}
        return {**message, "tool_calls": calls} if calls else message

    def deltas(self) -> list[dict[str, Any]]:
        """Return the message as deltas."""
        said: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        said += [{"reasoning_content": piece} for piece in _cut(self.reasoning, self.cut or 4)]
        said += [{"content": piece} for piece in _cut(self.content, self.cut or 4)]
        for number, (name, arguments) in enumerate(self.calls):
            first = {"index": number, "id": f"c{number}", "type": "function", "function": {"name": name}}
            texts = _cut(arguments, self.cut) if self.cut else [arguments[:2], *_cut(arguments[2:], 4)]
            pieces = [{"index": number, "function": {"arguments": text}} for text in texts if text]
            said += [{"tool_calls": [piece]} for piece in (first, *pieces)]
        return said


def _cut(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


class Scripted(Lab):
    """Gives its replies in turn, each with its own id; a surplus request fails the test."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self.replies = replies

    def answer(self, request: Any, engine: ModuleType = httpx) -> Any:
        """Return the response to a request."""
        assert len(self.requests) < len(self.replies), "one request too many"
        reply = self.replies[len(self.requests)]
        self.requests.append(request)
        if reply.calls and (tools := json.loads(request.content).get("tools")):
            first = tools[0]["function"]["name"]
            reply = replace(reply, calls=tuple((name or first, arguments) for name, arguments in reply.calls))
        facts: dict[str, Any] = {"id": f"chatcmpl-{len(self.requests)}"}
        if reply.status != 200:
            return engine.Response(reply.status, json=reply.error, headers={"retry-after-ms": "1"})
        if not json.loads(request.content)["stream"]:
            choices = [{"index": 0, "message": reply.whole(), "finish_reason": reply.finish_reason}]
            return engine.Response(200, json={**facts, "model": MODEL, "choices": choices, "usage": USAGE})
        deltas = reply.deltas() if reply.frames is None else reply.frames
        if reply.counted:
            facts["usage"] = USAGE
        frames = [frame(**facts, choices=[{"index": 0, "delta": said, "finish_reason": None}]) for said in deltas]
        frames.append(frame(**facts, choices=[{"index": 0, "delta": {}, "finish_reason": reply.finish_reason}]))
        content = b"".join([*frames, frame(**{**facts, "choices": [], "usage": USAGE}), b"data: [DONE]\n\n"])
        return engine.Response(200, content=content, headers={"content-type": "text/event-stream"})


def model_on(lab: Lab, **settings: Any) -> ChatTIRQwen:
    """Return a LangChain model that asks `lab`."""
    return ChatTIRQwen(**{**KNOWN, "http_client": lab.client(), "http_async_client": lab.async_client(), **settings})


def model_saying(*replies: Reply, **settings: Any) -> ChatTIRQwen:
    """Return a LangChain model that gets these replies."""
    return model_on(Scripted(*replies), **settings)


def llm_on(lab: Lab, **settings: Any) -> TIRQwen:
    """Return a LlamaIndex LLM that asks `lab`."""
    clients = {"http_client": lab.client(), "async_http_client": lab.async_client()}
    return TIRQwen(**{**KNOWN, **clients, **settings})


def llm_saying(*replies: Reply, **settings: Any) -> TIRQwen:
    """Return a LlamaIndex LLM that gets these replies."""
    return llm_on(Scripted(*replies), **settings)
