"""What an endpoint supports, learnt from what it rejects and ignores."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field

from ..types import Usage
from .grammar import SchemaForm

logger = logging.getLogger("tir_qwen")

_FIELDS = {
    "tools": ("tools", "tool_choice"),
    "parallel_switch": ("parallel_tool_calls",),
    "response_format": ("response_format",),
    "template_kwargs": ("chat_template_kwargs", "enable_thinking"),
    "stream_options": ("stream_options", "include_usage"),
    "reasoning_history": ("reasoning_content", "reasoning"),
}
"""The request fields that use each capability."""
_CONSEQUENCES = {
    "tools": "does not accept tools: they are written into the messages",
    "parallel_switch": "does not accept parallel_tool_calls: surplus calls are dropped",
    "response_format": "does not enforce response_format: the schema is written into the messages",
    "template_kwargs": "does not accept chat_template_kwargs: thinking is switched by /think and /no_think",
    "thinking_switch": "ignores enable_thinking: thinking is switched by /think and /no_think",
    "stream_options": "does not accept stream_options: streams have no token counts",
    "reasoning_history": "does not accept reasoning in the history: it is left out",
}
# Patterns of error messages. They are compiled when a request is refused, not at import.
_NO_TOOL_PARSER = r"tool-call-parser|enable-auto-tool-choice"
_REFUSAL = (
    r"(?i)\bnot (?:\w+ )?(?:support|permitted|allowed|available|enabled|recogni[sz]ed|accept)|unsupported"
    r"|unavailable|unknown|unrecogni[sz]ed|unexpected|\bextra\b|additional propert|forbidden|disabled|undocumented"
)
_REFUSED_VALUE = (
    r"(?i)(?<!json_)schema|keyword '|unexpected keyword\b(?! argument)|parameter type|too many"
    r"|\bfunction '|\bfunction \w+ in"
)


@dataclass(slots=True)
class Capabilities:
    """What an endpoint is assumed to support: nearly everything, until it rejects or ignores something.

    Attributes:
        tools: `tools` and `tool_choice`.
        parallel_switch: `parallel_tool_calls`.
        response_format: `response_format`, and that the answer conforms to it.
        template_kwargs: `chat_template_kwargs`.
        thinking_switch: `enable_thinking` in `chat_template_kwargs`.
        stream_options: `stream_options`.
        reasoning_history: Reasoning in earlier messages.
        reasoning_field: The field in which it reads that reasoning; None: not known, so it is sent in both.
        whole_streams: Streams that lose nothing of a tool call; assumed only when a whole answer has confirmed it.
        tool_parser: Parsing of the model's tool calls; assumed only when an answer has contained a parsed one.
        schema_forms: By the fingerprint of a schema that the server's grammar did not support: what to send instead.
    """

    tools: bool = True
    parallel_switch: bool = True
    response_format: bool = True
    template_kwargs: bool = True
    thinking_switch: bool = True
    stream_options: bool = True
    reasoning_history: bool = True
    reasoning_field: str | None = None
    tool_parser: bool = False
    whole_streams: bool = False
    schema_forms: dict[bytes, SchemaForm] = field(default_factory=dict)

    def mark_unsupported(self, name: str) -> None:
        """Remember that a capability is not supported, and log the consequence once."""
        if getattr(self, name):
            setattr(self, name, False)
            logger.warning("The server %s from now on.", _CONSEQUENCES[name])


def reasoning_field_read(answered_in: frozenset[str], usage: Usage) -> str | None:
    """Return the field in which a server reads earlier reasoning, judged by an answer; None if that is not conclusive.

    vLLM reads `reasoning_content` up to 0.19, and `reasoning` from 0.20. Up to 0.15 it answers in the former (in both
    from 0.11.1), from 0.16 only in the latter; and from 0.28 it counts the tokens of the reasoning.

    Args:
        answered_in: The fields of the answer's reasoning; not empty.
        usage: The answer's token counts.
    """
    is_old = "reasoning_content" in answered_in
    details = usage.get("completion_tokens_details")
    is_new = isinstance(details, dict) and "reasoning_tokens" in details
    if is_old is is_new:  # 0.16 to 0.27, or a gateway that renames fields
        return None
    return "reasoning_content" if is_old else "reasoning"


def refuses(text: str, name: str) -> bool:
    """Whether an error message says that the server does not accept the fields of a capability."""
    if name == "tools" and re.search(_NO_TOOL_PARSER, text):
        return True
    # A path into the field (tools.0.function) means that its value is wrong. Other sentences may just list fields.
    field = rf"\b(?:{'|'.join(_FIELDS[name])})\b(?!['\"`]?(?:, |[.\[])\d)"
    sentences = re.split(r"[.;]\s", text)
    return any(
        re.search(_REFUSAL, sentence) is not None and re.search(field, sentence) is not None for sentence in sentences
    )


def is_about_value(text: str) -> bool:
    """Whether an error message is about the value of a field, such as the user's schema."""
    return re.search(_REFUSED_VALUE, text) is not None
