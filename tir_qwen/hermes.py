"""Tools through the messages alone, as Qwen3's own chat template writes them (pure).

Where the server has no tool parser, or its gateway lets no `tools` pass, the offer stands in the system message, and
the calls come back as text. What the model reads is what it would have read either way.

Source: the chat template of Qwen3-32B (`tokenizer_config.json`); the format is that of the Hermes models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from .calls import CLOSE, OPEN
from .errors import ConfigurationError
from .types import JSON

_HEAD = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
_TAIL = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


def messages_with_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[JSON], choice: str | JSON | None = None
) -> list[JSON]:
    """Write tools, calls and their results into the messages.

    Args:
        messages: Messages as on the wire.
        tools: Tools as on the wire; may be empty, while there are calls among the messages.
        choice: `tool_choice` as on the wire: the model is told to call one, or which.

    Raises:
        ConfigurationError: A message holds something else than text.
    """
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and any(part.get("type", "text") != "text" for part in content):
            raise ConfigurationError("a message holds a part that is no text: with tools in the messages it cannot.")
    written: list[JSON] = []
    before = None  # the role of the message before
    for message in messages:
        role = message["role"]
        if role == "tool":
            result = f"<tool_response>\n{text_of(message)}\n</tool_response>"
            if before == "tool":  # of the same turn
                written[-1]["content"] += f"\n{result}"
            else:
                written.append({"role": "user", "content": result})
        elif role == "assistant" and message.get("tool_calls"):
            calls = [_call_text(call) for call in message["tool_calls"]]
            rest = {name: value for name, value in message.items() if name != "tool_calls"}
            written.append({**rest, "content": "\n".join([text for text in (text_of(message), *calls) if text])})
        else:
            written.append({**message, "content": text_of(message)})
        before = role
    if tools and choice != "none":
        offer = _offer(tools, choice)
        if written and written[0]["role"] == "system":
            written[0]["content"] += f"\n\n{offer}"
        else:
            written.insert(0, {"role": "system", "content": offer})
    return written


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content may come in parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content)


def _json(value: Any) -> str:
    """Write `value` as the chat template does."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        pass
    raise ConfigurationError("a tool, or a tool call of the past, cannot be written as JSON.")


def _offer(tools: Sequence[JSON], choice: str | JSON | None) -> str:
    lines = "".join(f"\n{_json(tool)}" for tool in tools)
    told = ""
    if choice == "required":
        told = "\n\nAnswer with one or more function calls, and nothing else."
    elif isinstance(choice, Mapping):
        if "function" not in choice:
            raise ConfigurationError("tool_choice must name its function.")
        told = f"\n\nAnswer with a call of the function {choice['function']['name']}, and nothing else."
    return f"{_HEAD}{lines}{_TAIL}{told}"


def _call_text(call: Mapping[str, Any]) -> str:
    function = call["function"]
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        # As vLLM does for the template, which writes them anew, and a string as it is.
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    if not isinstance(arguments, str):
        arguments = _json(arguments)
    arguments = arguments.replace("</think>", "<\\/think>")  # else the template cuts off all before it
    return f'{OPEN}\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n{CLOSE}'
