"""Tool calling through the prompt: tools in the messages, formatted as by Qwen3's own chat template.

If the server has no tool parser, or its gateway rejects `tools`, the tools are described in the system message, and the
calls are parsed from the answer's text. The model sees the same prompt either way.

Source: the chat template of Qwen3-32B (`tokenizer_config.json`), which uses the format of the Hermes models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from .._response.text.tool_calls import CLOSE, OPEN
from ..errors import ConfigurationError
from ..types import JSON

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
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    choice: str | Mapping[str, Any] | None = None,
) -> list[JSON]:
    """Return the messages with tools, calls and their results written into the text.

    Args:
        messages: Messages in wire format.
        tools: Tools in wire format; may be empty if the messages contain calls.
        choice: `tool_choice` in wire format.

    Raises:
        ConfigurationError: A message contains something other than text.
    """
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and any(part.get("type", "text") != "text" for part in content):
            raise ConfigurationError(
                "a message contains a part that is not text, which is not possible with tools in the messages."
            )
    written: list[JSON] = []
    previous_role = None
    for message in messages:
        role = message["role"]
        if role == "tool":
            result = f"<tool_response>\n{message_text(message)}\n</tool_response>"
            if previous_role == "tool":  # another result of the same turn
                written[-1]["content"] += f"\n{result}"
            else:
                written.append({"role": "user", "content": result})
        elif role == "assistant" and message.get("tool_calls"):
            calls = [_call_text(call) for call in message["tool_calls"]]
            rest = {name: value for name, value in message.items() if name != "tool_calls"}
            written.append({**rest, "content": "\n".join([text for text in (message_text(message), *calls) if text])})
        else:
            written.append({**message, "content": message_text(message)})
        previous_role = role
    if tools and choice != "none":
        prompt = _tools_prompt(tools, choice)
        if written and written[0]["role"] == "system":
            written[0]["content"] += f"\n\n{prompt}"
        else:
            written.insert(0, {"role": "system", "content": prompt})
    return written


def message_text(message: Mapping[str, Any]) -> str:
    """Return the text of a message; its content may be a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content)


def _json(value: Any) -> str:
    """Return JSON formatted as by the chat template."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        pass
    raise ConfigurationError("a tool, or an earlier tool call, cannot be written as JSON.")


def _tools_prompt(tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any] | None) -> str:
    lines = "".join(f"\n{_json(tool)}" for tool in tools)
    instruction = ""
    if choice == "required":
        instruction = "\n\nAnswer with one or more function calls, and nothing else."
    elif isinstance(choice, Mapping):
        if "function" not in choice:
            raise ConfigurationError("tool_choice must name its function.")
        instruction = f"\n\nAnswer with a call of the function {choice['function']['name']}, and nothing else."
    return f"{_HEAD}{lines}{_TAIL}{instruction}"


def _call_text(call: Mapping[str, Any]) -> str:
    function = call["function"]
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        # As vLLM does: the template formats objects itself, and writes strings as they are.
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    if not isinstance(arguments, str):
        arguments = _json(arguments)
    arguments = arguments.replace("</think>", "<\\/think>")  # the template drops everything before the tag
    return f'{OPEN}\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n{CLOSE}'
