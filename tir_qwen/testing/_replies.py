"""`Reply`: what the model says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json


@dataclass(frozen=True)
class Message:
    """What the model writes for one request: a reply, once it is known what was asked for."""

    reasoning: str
    content: str
    tool_calls: Sequence[tuple[str, str]]
    finish_reason: str


@dataclass(frozen=True)
class Reply:
    """What the model says; it is written whole or streamed, as the request wants it.

    ```python
    from tir_qwen import Client
    from tir_qwen.testing import FakeEndpoint, Reply

    with FakeEndpoint(Reply("It is Paris.", reasoning="France, so Paris.")) as endpoint:
        with Client(**endpoint.settings) as client:
            completion = client.complete([{"role": "user", "content": "What is the capital of France?"}])
    print(completion.reasoning, completion.content)
    ```

    Attributes:
        text: The answer.
        reasoning: What the model thinks before its answer.
        tool_calls: The calls, each a name with the arguments: a dict, or the text that the model writes, valid or not.
            If the request offers no tools in its field `tools`, the calls are written into the text, as Qwen3 does.
        json: An object to answer with: anything that JSON can hold, or a pydantic model. It is the text of the answer,
            or the arguments of a call if the request demands one (`tool_choice`).
        finish_reason: Why the answer ends: `length` if it is truncated. Default: `tool_calls` or `stop`.
        usage: Token counts that replace those of the server, which counts words.
        delay: Seconds before the answer begins.
        tokens_per_second: The pace of the model; None: that of the endpoint.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: Sequence[tuple[str, Mapping[str, Any] | str]] = ()
    json: Any = None
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None
    delay: float = 0.0
    tokens_per_second: float | None = None


def message_to(body: Mapping[str, Any], reply: Reply) -> Message:
    """Return the message that answers a request with this body."""
    content, calls = reply.text, [(name, _written(arguments)) for name, arguments in reply.tool_calls]
    forced = _forced_tool(body)
    if reply.json is not None and forced:
        calls.append((forced, _written(reply.json)))
    elif reply.json is not None:
        content += _written(reply.json)
    is_called = bool(calls) and bool(body.get("tools"))
    if not is_called:
        content, calls = "\n".join([*filter(None, [content]), *map(_as_text, calls)]), []
    reasoning = f"\n{reply.reasoning}\n" if reply.reasoning else ""  # these newlines are Qwen3's
    if reasoning and not body.get("response_format") and not forced:
        content = f"\n\n{content}"
    by_itself = "tool_calls" if is_called and not forced else "stop"
    return Message(reasoning, content, calls, reply.finish_reason or by_itself)


def _forced_tool(body: Mapping[str, Any]) -> str | None:
    """Return the tool that must be called; None if it is up to the model."""
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    if isinstance(choice, dict):
        return str(choice["function"]["name"])
    return str(tools[0]["function"]["name"]) if choice == "required" and tools else None


def _written(value: Any) -> str:
    """Return JSON text as Qwen3 writes it; text as it is."""
    return value if isinstance(value, str) else json.dumps(json.loads(to_json(value)), ensure_ascii=False)


def _as_text(call: tuple[str, str]) -> str:
    name, arguments = call
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n</tool_call>'
