"""What an endpoint supports, learnt from what it refuses and ignores."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

logger = logging.getLogger("tir_qwen")

_FIELDS = {
    "tools": ("tools", "tool_choice"),
    "parallel_switch": ("parallel_tool_calls",),
    "response_format": ("response_format",),
    "template_kwargs": ("chat_template_kwargs", "enable_thinking"),
    "stream_options": ("stream_options", "include_usage"),
    "reasoning_history": ("reasoning_content", "reasoning"),
}
"""The fields of the request by which a capability is used."""
_CONSEQUENCES = {
    "tools": "does not accept tools: they are written into the messages",
    "parallel_switch": "does not accept parallel_tool_calls: surplus calls are dropped",
    "response_format": "does not enforce response_format: the schema is written into the messages",
    "template_kwargs": "does not accept chat_template_kwargs: thinking is switched by /think and /no_think",
    "thinking_switch": "ignores enable_thinking: thinking is switched by /think and /no_think",
    "stream_options": "does not accept stream_options: streams have no token counts",
    "reasoning_history": "does not accept reasoning in the history: it is left out",
}
_NO_TOOL_PARSER = re.compile(r"tool-call-parser|enable-auto-tool-choice")
_REFUSAL = re.compile(
    r"\bnot (?:\w+ )?(?:support|permitted|allowed|available|enabled|recogni[sz]ed|accept)|unsupported"
    r"|unavailable|unknown|unrecogni[sz]ed|unexpected|\bextra\b|additional propert|forbidden|disabled|undocumented",
    re.IGNORECASE,
)
_REFUSED_VALUE = re.compile(
    r"(?<!json_)schema|keyword '|unexpected keyword\b(?! argument)|parameter type|too many"
    r"|\bfunction '|\bfunction \w+ in",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Capabilities:
    """What an endpoint is believed to support: everything, until it refuses or ignores something.

    Attributes:
        tools: `tools` and `tool_choice`.
        parallel_switch: `parallel_tool_calls`.
        response_format: `response_format`, enforced on the answer.
        template_kwargs: `chat_template_kwargs`.
        thinking_switch: `enable_thinking` in these.
        stream_options: `stream_options`.
        reasoning_history: The reasoning of earlier messages.
    """

    tools: bool = True
    parallel_switch: bool = True
    response_format: bool = True
    template_kwargs: bool = True
    thinking_switch: bool = True
    stream_options: bool = True
    reasoning_history: bool = True

    def mark_unsupported(self, name: str) -> None:
        """Remember that something is not supported, and log what follows from it, once."""
        if getattr(self, name):
            setattr(self, name, False)
            logger.warning("The server %s from now on.", _CONSEQUENCES[name])


def refuses(text: str, name: str) -> bool:
    """Whether the text of a refusal says that the fields of a capability are not accepted."""
    if name == "tools" and _NO_TOOL_PARSER.search(text):
        return True
    # A place within the field (tools.0.function) means that the value is wrong; another sentence may list the fields.
    field = re.compile(rf"\b(?:{'|'.join(_FIELDS[name])})\b(?!['\"`]?(?:, |[.\[])\d)")
    sentences = re.split(r"[.;]\s", text)
    return any(_REFUSAL.search(sentence) is not None and field.search(sentence) is not None for sentence in sentences)


def is_about_value(text: str) -> bool:
    """Whether the text of a refusal is about what the user wrote into a field, such as a schema."""
    return _REFUSED_VALUE.search(text) is not None
