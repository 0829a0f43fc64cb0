"""What an error message refuses: a field, or only what it contains."""

from __future__ import annotations

import re

STATUSES = frozenset((400, 404, 422, 500, 501))
"""The statuses with which servers refuse a field: OpenRouter uses 404, llama.cpp and LiteLLM 500."""
# Patterns of error messages, in any case. They are compiled when a request is refused, not at import. A message refuses
# a field if the field itself is the subject or the object of the refusal. It does not if the field only says where
# something is ("in tools", "tools[0].strict"), or if the message is about some values ("custom tools", "128 tools").
_NAMES = {
    "tools": r"tools|tool_choice|(?<!parallel )(?:tool (?:use|calls?|calling)|function call(?:s|ing))",
    "parallel_switch": r"parallel_tool_calls",
    "response_format": r"response_format(?:\.type)?|grammar(?:-based generation)?|json[ _]mode|structured outputs?",
    "template_kwargs": r"chat_template_kwargs|enable_thinking",
    "stream_options": r"stream_options|include_usage",
    "thinking_budget": r"thinking_token_budget",
    "continuation": r"continue_final_message|add_generation_prompt",
    "reasoning_history": r"reasoning_content|reasoning",
}
"""What servers call the request fields that use each capability."""
_FLAG = {
    "tools": r"tool-call-parser|enable-auto-tool-choice|param requires --jinja|cannot use tools with stream",
    "thinking_budget": r"thinking_token_budget is set but reasoning_config is not configured",
    "response_format": r"GuidedDecoder is not setup|unknown variant `json_schema`",
}
"""Messages that only say what the server's operator would have to set, or that a combination is not possible."""
_PLACE = r"(?:^|[-:,(\[{./] ?|\b(?:the|this|that|and|or|use of|param(?:eter)?|property|field|argument|option) )['\"`]?"
"""What can precede a field that is a subject: no other noun, and no adjective or preposition."""
_WHOLE = r"(?![\w-])(?!['\"`]?(?:\.\w|\[))"
"""The end of a field, if no path into it follows, as in `tools.0` or `tools[0]`."""
_SUBJECT_TAIL = (
    r"['\"`\])]*(?:=\w+)?(?:,? (?:and|or) ['\"`]?[a-z_]+['\"`]?| \([\w, ]+\)"
    r"| (?:param(?:eter)?|field|argument|input|type)| (?:of type )?['\"`]\w+['\"`])*"
)
"""What can follow the name of a field before it is refused, such as the value that was sent."""
_IS_REFUSED = (
    r"(?:: extra inputs are not permitted| does not support being set| (?:is|are|was|were)(?: currently| at present)?"
    r" (?:not (?:\w+ )?(?:support|permitted|allowed(?! to)|available|enabled|recogni[sz]ed|accept)"
    r"|unsupported|unavailable|unknown|unrecogni[sz]ed|unexpected|forbidden|disabled|undocumented))"
)
"""What says that the subject before it is refused."""
_ARGUMENT = r"(?:param(?:eter)?|field|argument|propert(?:y|ie)|input|option|name|key)(?:s|\(s\))?"
_REFUSES = (
    rf"(?:(?:not|n't) (?:\w+ )?support(?: (?:the|this|provided|{_ARGUMENT}))*"
    r"|\bno \w+ found that support(?: the| provided)*"
    r"|(?:unsupported|unknown|unrecogni[sz]ed|unexpected|undocumented|extra)(?: \w+)??"
    rf" {_ARGUMENT}(?: supplied| in the request)?"
    r"|inputs are not permitted, field)"
)
"""What says that the object after it is refused."""
_OBJECT_HEAD = rf"(?::? |: ?)(?:{_ARGUMENT} )?['\"`(\[{{]*(?:[\w.]+['\"`]?, ['\"`]?)*(?:\w+\.)*"
"""What can precede a field that is an object: quotation marks, other fields of a list, the path to it."""
_OBJECT_TAIL = r"(?! (?:with(?! this| the)|in|of|whose|that|named|longer|larger|containing|without)\b)"
_COMBINATION = (
    r"\b(?:in combination with|together with|combined with|with streaming|for n ?>|when (?:tools|using|stream))"
)
"""The words for a field that is refused only beside another one."""
_CHOICE = (
    r"(?:this|provided) ['\"`]?tool_choice|tool_choice['\"`]?(?:=| ['\"`]| value| parameter does not support being set)"
)
"""The words for a choice of tools that the server refuses, and that other calls need not make."""


def refuses(text: str, name: str) -> bool:
    """Whether an error message says that the server does not accept the fields of a capability."""
    if name in _FLAG and re.search(rf"(?i){_FLAG[name]}", text):
        return True
    if name not in _NAMES:
        return False
    field = rf"(?<![\w-])(?:{_NAMES[name]}){_WHOLE}"
    is_subject = rf"(?i){_PLACE}{field}{_SUBJECT_TAIL}{_IS_REFUSED}"
    is_object = rf"(?i){_REFUSES}{_OBJECT_HEAD}{field}{_OBJECT_TAIL}"
    sentences = re.split(r"[.;]\s", text)  # others may list the fields that are supported
    return any(re.search(is_subject, sentence) or re.search(is_object, sentence) for sentence in sentences)


def is_about_this_call(text: str) -> bool:
    """Whether an error message refuses a field only together with others, or the value of `tool_choice`."""
    if re.search(rf"(?i){_COMBINATION}", text):
        return True
    return re.search(rf"(?i){_CHOICE}", text) is not None and re.search(rf"(?i){_FLAG['tools']}", text) is None
