"""`Reply`: an answer of the model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat
from pydantic.dataclasses import dataclass as validated
from pydantic_core import to_json, to_jsonable_python

JSON = dict[str, Any]
_TOOLS = re.compile(r"<tools>\n(.*?)\n</tools>", re.DOTALL)


@dataclass(frozen=True)
class Message:
    """What the model writes in reply to a specific request."""

    reasoning: str
    content: str
    tool_calls: Sequence[tuple[str, str]]
    finish_reason: str


@validated(frozen=True, config={"extra": "forbid"})
class Reply:
    """An answer of the model, sent whole or streamed as requested.

    ```python
    from tir_qwen import Client
    from tir_qwen.testing import FakeEndpoint, Reply

    with FakeEndpoint(Reply("It is Paris.", reasoning="France, so Paris.")) as endpoint:
        with Client(**endpoint.settings) as client:
            completion = client.complete([{"role": "user", "content": "What is the capital of France?"}])
    print(completion.reasoning, completion.content)
    ```

    Raises:
        ValidationError: (pydantic's, a ValueError) An argument has the wrong type.

    Attributes:
        text: The answer.
        reasoning: What the model thinks before its answer.
        tool_calls: The calls, each a name with its arguments: a dict, or a string, which need not be valid JSON. If the
            request offers no tools in its field `tools`, the calls are written into the text, as Qwen3 does.
        json: A JSON value or a pydantic model to answer with. It becomes the text of the answer or, if the request
            requires a tool call (`tool_choice`), the arguments of the first tool that has these parameters.
        finish_reason: Why the answer ends: `length` if it is truncated. Default: `tool_calls` or `stop`.
        usage: Token counts, instead of the server's, which counts words.
        delay: Seconds before the answer begins.
        tokens_per_second: The speed of the model; None: that of the endpoint.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: Sequence[tuple[str, Mapping[str, Any] | str]] = ()
    json: Any = None
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None
    delay: NonNegativeFloat = 0.0
    tokens_per_second: PositiveFloat | None = None


def message_to(body: Mapping[str, Any], reply: Reply) -> Message:
    """Return the message that answers a request with this body."""
    content, calls = reply.text, [(name, _written(arguments)) for name, arguments in reply.tool_calls]
    forced = _forced_tools(body)
    if reply.json is not None:
        if tools := forced or _tools_in_prompt(body):
            calls.append(_fitting_call(tools, to_jsonable_python(reply.json)))
        else:
            content += _written(reply.json)
    is_called = bool(calls) and bool(body.get("tools"))
    if not is_called:
        content, calls = "\n".join([*filter(None, [content]), *map(_as_text, calls)]), []
    reasoning = f"\n{reply.reasoning}\n" if reply.reasoning else ""  # these newlines are Qwen3's
    if reasoning and not body.get("response_format") and not forced:
        content = f"\n\n{content}"
    by_itself = "tool_calls" if is_called and not forced else "stop"
    return Message(reasoning, content, calls, reply.finish_reason or by_itself)


def _forced_tools(body: Mapping[str, Any]) -> list[JSON]:
    """Return the tools of which one must be called; none if the model decides."""
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    if isinstance(choice, dict):
        return [tool for tool in tools if tool["function"]["name"] == choice["function"]["name"]]
    return tools if choice == "required" else []


def _tools_in_prompt(body: Mapping[str, Any]) -> list[JSON]:
    """Return the tools that the text of the first message offers, as Qwen3's template writes them.

    A required call is requested in this way if a `thinking_budget` limits the reasoning before it.
    """
    content = (body.get("messages") or [{}])[0].get("content")
    offered = _TOOLS.search(content) if isinstance(content, str) and not body.get("response_format") else None
    with suppress(ValueError, KeyError, TypeError):  # other text between such tags
        return [{"function": json.loads(line)["function"]} for line in offered[1].split("\n")] if offered else []
    return []


def _fitting_call(tools: Sequence[JSON], value: Any) -> tuple[str, str]:
    """Return the call of the first tool that has a parameter for each key of an object, or else of the first one.

    A list or a number is the argument of the first tool that has a single parameter.
    """
    for tool in tools:
        name, names = tool["function"]["name"], [*(tool["function"].get("parameters") or {}).get("properties", ())]
        if isinstance(value, dict) and value.keys() <= set(names):
            return name, _written(value)
        if not isinstance(value, (dict, str)) and len(names) == 1:
            return name, _written({names[0]: value})
    return tools[0]["function"]["name"], _written(value)


def _written(value: Any) -> str:
    """Return JSON text as Qwen3 writes it; text as it is."""
    return value if isinstance(value, str) else json.dumps(json.loads(to_json(value)), ensure_ascii=False)


def _as_text(call: tuple[str, str]) -> str:
    name, arguments = call
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n</tool_call>'
