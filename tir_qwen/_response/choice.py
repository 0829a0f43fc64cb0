"""Decoder of the deltas of one choice: reasoning, answer and tool calls, wherever the server puts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from pydantic_core import to_json

from .._json import parse_object
from ..types import JSON, Delta, ToolCallDelta, Usage
from .arguments import INTERRUPTED, TRUNCATED
from .fields import expect, items, read_tool_call_delta
from .message import ORDINARY_FIELDS, TEXT_TYPES, convert
from .reported import read_logprobs
from .text.newlines import AnswerText, NewlineTrimmer
from .text.think_tags import OPEN, ThinkSplitter, lacks_opening_tag
from .text.tool_calls import ToolCallParser, has_malformed_call, parse_tool_calls
from .text.torn_tags import TornTagRepair
from .tool_call_tracker import Source, ToolCallTracker


class DecodingOptions(NamedTuple):
    """What the request implies about its answer, where server versions differ.

    Attributes:
        tools: Tools were offered.
        tool_names: Their names; empty if not known.
        text_calls: What calls between `<tool_call>` tags in the text are: `unparsed`: calls that the server has not
            parsed, if it has parsed none. `quoted`: quotations, unless one is malformed: then the server could not
            parse them. `plain`: text. `prompted`: calls, since the tools were offered in the messages; an answer that
            is a JSON object may be one without its tags.
        required_tool: Name of the tool that the model must call: an answer that is a JSON object is its arguments.
        single_call: `parallel_tool_calls` was false: only the first call counts.
        thinking_off: Thinking was switched off: if the server labels the answer as reasoning, it is the answer.
        stop_lag: Maximum number of characters by which a stream's text lags behind its tokens, because vLLM holds back
            text that may begin a stop string.
        max_tokens: Maximum number of tokens of the answer, if the request limited it.
        lossy_streams: A tool call of which the stream may have lost a part is to be marked as such.
        tools_with_parameters: Names of the tools that have any.
        opening_tag: Reasoning in the text of a stream begins with its tag.
    """

    tools: bool = False
    tool_names: frozenset[str] = frozenset()
    text_calls: Literal["unparsed", "quoted", "plain", "prompted"] = "unparsed"
    required_tool: str | None = None
    single_call: bool = False
    thinking_off: bool = False
    stop_lag: int = 0
    max_tokens: int | None = None
    lossy_streams: bool = False
    tools_with_parameters: frozenset[str] = frozenset()
    opening_tag: bool = True

    @property
    def reads_calls(self) -> bool:
        """Whether text may be a tool call."""
        return self.tools and self.text_calls != "plain"

    @property
    def text_is_plain(self) -> bool:
        """Whether text needs no inspection: it cannot be a tool call or mislabeled reasoning."""
        return not (self.tools or self.required_tool or self.single_call or self.thinking_off)


DEFAULT_OPTIONS = DecodingOptions()
REASONING_FIELDS = ("reasoning_content", "reasoning")
"""The fields of a message in which servers put and read reasoning."""


class ChoiceDecoder:
    """Decodes the deltas of one choice: `feed` each, then `close`.

    Text passes through up to four steps: `TornTagRepair`, `ThinkSplitter` (reasoning or answer), `ToolCallParser`
    (answer or tool call), and the trimming of newlines.

    Attributes:
        finished: Whether a finish reason has arrived.
        heard: Number of non-empty deltas received, including those whose text is still held back.
        reasoning_fields: The fields in which the server put the first piece of reasoning.
        lacks_opening_tag: Whether reasoning in the text had no opening tag; None: that is not known of a stream.
        is_lossy: Whether the stream may have lost a part of a tool call.
    """

    __slots__ = (
        "_answer",
        "_call_parser",
        "_calls",
        "_doubtful_reasoning",
        "_final_choice",
        "_has_answer",
        "_has_reasoning",
        "_index",
        "_is_stream",
        "_options",
        "_past_reasoning",
        "_reasoning",
        "_reasoning_so_far",
        "_text_is_arguments",
        "_text_is_plain",
        "_think_splitter",
        "_torn_tags",
        "_unclosed_text",
        "_untagged_call",
        "finished",
        "heard",
        "is_lossy",
        "lacks_opening_tag",
        "reasoning_fields",
    )

    def __init__(self, index: int, options: DecodingOptions, new_id: Callable[[int], str]) -> None:
        """Start a choice; `new_id` returns the id of the call with a given index, if the server gives none."""
        self.finished = False
        self._final_choice: JSON = {}
        self.heard = 0
        self.reasoning_fields: frozenset[str] = frozenset()
        self._index = index
        self._options = options
        self._text_is_plain = options.text_is_plain
        self._torn_tags = TornTagRepair(options.stop_lag) if options.stop_lag else None
        is_open = not options.opening_tag
        self._think_splitter: ThinkSplitter | None = ThinkSplitter(is_open=is_open)  # None: the rest is the answer
        self._unclosed_text: list[str] | None = [] if is_open else None  # may turn out to be the answer
        self.lacks_opening_tag: bool | None = None
        self.is_lossy = False
        self._calls = ToolCallTracker(new_id)
        self._call_parser = ToolCallParser(hold=options.text_calls != "prompted") if options.reads_calls else None
        self._reasoning = NewlineTrimmer(leading=True)
        self._reasoning_so_far: list[str] = []  # with tools: may contain calls
        self._past_reasoning = False  # whether the think block has ended
        self._is_stream = True
        self._has_reasoning = False
        self._doubtful_reasoning: list[str] = []  # with thinking off: may turn out to be the answer
        self._answer = AnswerText()
        self._has_answer = False  # whether there has been text or a call
        # Whether the text is the arguments of the required tool; None: not known until its first character.
        self._text_is_arguments = None if options.required_tool else False
        self._untagged_call: list[str] = []  # the required tool's call or arguments, without tags

    @property
    def has_parsed_calls(self) -> bool:
        """Whether there have been tool calls that the server parsed."""
        return self._calls.has_calls_from("server")

    def feed(self, choice: JSON) -> Delta:
        """Decode one choice of a chunk, or of a non-streaming response."""
        if self.finished and choice == self._final_choice:  # repeated, as some gateways do
            return Delta(self._index)
        said = choice.get("delta")
        if said is None:
            said = self._read_message(choice)
        elif (
            type(said) is not dict or not said.keys() <= ORDINARY_FIELDS or type(said.get("content")) not in TEXT_TYPES
        ):
            said = convert(said)
        delta = Delta(self._index)
        received = said
        if self._torn_tags is not None:
            said = self._repair(self._torn_tags, said)
        if reasoning := said.get("reasoning_content") or said.get("reasoning"):
            self.heard += 1
            if self._think_splitter is not None:  # the server parses reasoning: tags in the content are quoted text
                self.reasoning_fields = frozenset(name for name in REASONING_FIELDS if received.get(name))
                self._add_reasoning(delta, "")
                self._end_think_block(delta)
                self._unclosed_text = None
            self._add_reasoning(delta, reasoning if type(reasoning) is str else expect(reasoning, str, "reasoning"))
        if content := said.get("content"):
            self.heard += 1
            self._add_content(delta, content)
        if said.get("tool_calls"):
            self.heard += 1
            self._answer.interrupt()
            for position, call in enumerate(items(said, "tool_calls")):
                self._add_call(delta, read_tool_call_delta(position, call), "server")
        if (logprobs := choice.get("logprobs")) is not None:
            delta.logprobs = read_logprobs(logprobs)
        if finish_reason := choice.get("finish_reason"):
            self._finish(delta, expect(finish_reason, str, "finish_reason"), choice)
        return delta

    def _read_message(self, choice: JSON) -> JSON:
        """Return what a whole message adds: after deltas, it repeats them, except what cannot be streamed."""
        said = convert(choice.get("message") or {})
        if self._is_stream and self.heard:
            is_answered = self._past_reasoning or bool(self._calls) or not self.reasoning_fields
            return {} if is_answered else {name: said.get(name) for name in ("content", "tool_calls")}
        self._torn_tags = None  # tags are torn in streams only
        self._is_stream = False
        self._think_splitter, self._unclosed_text = ThinkSplitter(), None
        if self._options.thinking_off or any(said.get(name) for name in REASONING_FIELDS):
            return said
        self.lacks_opening_tag = lacks_opening_tag(said.get("content") or "")
        return {**said, "content": f"{OPEN}{said['content']}"} if self.lacks_opening_tag else said

    def close(self, usage: Usage | None = None) -> Delta:
        """Return what was held back, and what the token counts show, at the end of the answer."""
        delta = Delta(self._index)
        if not self.finished:
            self._close_unfinished(delta)
            return delta
        self._end_calls(delta, None)  # of calls that came after the finish reason
        if self._is_stream and self._calls.has_calls_from("server") and self._reached_max_tokens(usage):
            # vLLM 0.9 completes the arguments of a truncated call, and reports the finish reason `tool_calls`.
            self._pass_on_ends(delta, self._calls.truncate(TRUNCATED))
        return delta

    def _close_unfinished(self, delta: Delta) -> None:
        is_cut = self._options.tools and not self._calls and not self._has_answer
        self._flush(delta, cut=is_cut)
        is_cut = is_cut or self._calls.is_truncated
        self._end_calls(delta, TRUNCATED if is_cut else None)
        if self._options.tools and (self._calls or is_cut):
            # vLLM 0.9 ends streams with tools like this, including truncated ones.
            delta.finish_reason = "length" if is_cut else "tool_calls"

    def _reached_max_tokens(self, usage: Usage | None) -> bool:
        """Whether the answer has the maximum number of tokens, though its finish reason does not say so."""
        limit, used = self._options.max_tokens, (usage or {}).get("completion_tokens")
        is_reported = self._final_choice.get("finish_reason") == "length"
        return not is_reported and limit is not None and isinstance(used, int) and used >= limit

    def interrupt(self) -> Delta:
        """Return what was held back, for a choice whose stream broke."""
        delta = Delta(self._index)
        if not self.finished:
            self._flush(delta, cut=True, ended=False)
            self._end_calls(delta, INTERRUPTED)
        return delta

    def _finish(self, delta: Delta, finish_reason: str, choice: JSON) -> None:
        is_cut = finish_reason == "length"
        self._flush(delta, cut=is_cut)
        self._end_calls(delta, TRUNCATED if is_cut else None)
        if self.finished:  # the first finish reason counts: frameworks may join several
            return
        self.finished = True
        self._final_choice = choice
        delta.finish_reason = finish_reason
        delta.stop_reason = choice.get("stop_reason")
        if finish_reason == "function_call" or (finish_reason == "stop" and self._calls.has_calls_from("text")):
            delta.finish_reason = "tool_calls"  # as reported by servers that parse them

    def _repair(self, torn_tags: TornTagRepair, said: JSON) -> JSON:
        """Return the delta without remains of torn think tags."""
        reasoning = expect(said.get("reasoning_content") or said.get("reasoning") or "", str, "reasoning")
        content = said.get("content") or ""
        late_reasoning = ""
        if reasoning or content:
            self.heard += 1
        if reasoning:
            reasoning = torn_tags.reasoning(reasoning)
        elif "" in (said.get("reasoning_content"), said.get("reasoning")):
            torn_tags.blank()
        if content:
            late_reasoning, content = torn_tags.content(content)
        elif said.get("tool_calls") and not self._options.required_tool:
            late_reasoning, content = torn_tags.close(ended=False)
        if torn_tags.settled:
            self._torn_tags = None
        return {**said, "reasoning_content": reasoning + late_reasoning, "reasoning": None, "content": content}

    def _end_think_block(self, delta: Delta) -> None:
        """Pass on what the splitter holds back; all further content is the answer."""
        if self._think_splitter is not None:
            reasoning, answer = self._think_splitter.close()
            self._think_splitter = None
            if reasoning is not None:
                self._add_text_reasoning(delta, reasoning)
            self._add_answer(delta, answer)

    def _add_text_reasoning(self, delta: Delta, reasoning: str) -> None:
        self._add_reasoning(delta, reasoning)
        if self._unclosed_text is not None:
            self._unclosed_text.append(reasoning)

    def _add_reasoning(self, delta: Delta, reasoning: str) -> None:
        if not self._has_reasoning:
            self._has_reasoning = True
            self._answer.trimmer.leading = True
        reasoning = self._reasoning.feed(reasoning)
        if self._call_parser is not None:
            self._reasoning_so_far.append(reasoning)
        if self._options.thinking_off and not self._has_answer:
            self._doubtful_reasoning.append(reasoning)
        else:
            delta.reasoning += reasoning

    def _add_content(self, delta: Delta, content: str) -> None:
        if (splitter := self._think_splitter) is not None:
            reasoning, content = splitter.feed(content)
            if reasoning is not None:
                self._add_text_reasoning(delta, reasoning)
            if self._unclosed_text is not None and (splitter.has_opening_tag or splitter.settled):
                self._unclosed_text, self.lacks_opening_tag = None, not splitter.has_opening_tag
            if splitter.settled:
                self._think_splitter = None
        if self._think_splitter is None:
            self._past_reasoning = True
        if self._text_is_plain:  # nearly every chunk
            delta.content += self._answer.trimmer.feed(content)
        else:
            self._add_answer(delta, content)

    def _add_answer(self, delta: Delta, text: str) -> None:
        if self._call_parser is None:
            self._add_text(delta, text)
            return
        for found in self._call_parser.feed(text) if text else ():
            self._add_found(delta, found)
        if self._call_parser.is_holding:
            self._accept_answer(delta)

    def _add_found(self, delta: Delta, found: str | ToolCallDelta) -> None:
        if isinstance(found, str):
            self._add_text(delta, found)
            return
        self._answer.interrupt()
        if found.name == "":
            found.name = self._options.required_tool
        self._add_call(delta, found, "text")

    def _add_text(self, delta: Delta, text: str) -> None:
        if self._text_is_arguments is None and text.strip():
            # vLLM 0.9 streams the arguments of a required tool as text when thinking is switched off.
            self._text_is_arguments = text.lstrip().startswith("{") and not self._calls
            if self._text_is_arguments:
                text = text.lstrip()
                self._answer.trimmer.drop()
        if self._text_is_arguments and self._options.text_calls == "prompted":
            self._has_answer = True
            self._untagged_call.append(text)
        elif self._text_is_arguments:
            self._add_required_call(delta, text)
        elif content := self._answer.feed(text):
            self._accept_answer(delta)
            delta.content += content

    def _add_required_call(self, delta: Delta, arguments: str) -> None:
        self._add_call(delta, ToolCallDelta(0, name=self._options.required_tool, arguments=arguments))

    def _add_call(self, delta: Delta, call: ToolCallDelta, source: Source | None = None) -> None:
        if self._torn_tags is not None and self._options.required_tool:  # arguments take the place of content
            late_reasoning, call.arguments = self._torn_tags.content(call.arguments)
            self._add_reasoning(delta, late_reasoning)
            if self._torn_tags.settled:
                self._torn_tags = None
        self._calls.add(call, source)
        if self._options.single_call and not self._calls.is_first(call):
            return
        if not self._has_answer:
            self._accept_answer(delta)
        if not delta.tool_calls:  # nearly every chunk
            delta.tool_calls = [call]
        elif call.id or call.name or call.arguments:
            _append_call(delta, call)

    def _end_calls(self, delta: Delta, truncation: str | None) -> None:
        """Pass on the last part of each call; `truncation` is the error of the last one if it is incomplete."""
        if self._is_stream and self._calls.has_calls_from("server"):
            options = self._options
            is_lossy = self._calls.find_lossy(options.tools_with_parameters, mark=options.lossy_streams)
            self.is_lossy = self.is_lossy or is_lossy
        self._pass_on_ends(delta, self._calls.close(self._options.tool_names, truncation))

    def _pass_on_ends(self, delta: Delta, ends: Iterable[ToolCallDelta]) -> None:
        for end in ends:
            if not self._options.single_call or self._calls.is_first(end):
                _append_call(delta, end)

    def _accept_answer(self, delta: Delta) -> None:
        """Note that an answer has begun, so what the server labeled as reasoning is reasoning."""
        self._has_answer = True
        if self._doubtful_reasoning:
            delta.reasoning = self._take_doubtful_reasoning() + delta.reasoning

    def _take_doubtful_reasoning(self) -> str:
        reasoning = "".join(self._doubtful_reasoning)
        self._doubtful_reasoning.clear()
        return reasoning

    def _flush(self, delta: Delta, *, cut: bool, ended: bool = True) -> None:
        """Pass on what each step holds back.

        Args:
            delta: The delta to add it to.
            cut: Whether the answer was truncated, so that doubtful reasoning without an answer is reasoning.
            ended: False if the stream broke.
        """
        if self._torn_tags is not None:
            late_reasoning, content = self._torn_tags.close(ended=ended)
            self._torn_tags = None
            if late_reasoning:
                self._add_reasoning(delta, late_reasoning)
            self._add_content(delta, content)
        self._end_think_block(delta)
        if self._unclosed_text is not None and not (cut or self._calls or self._has_answer):
            self.lacks_opening_tag = False
            self._add_answer(delta, "".join(self._unclosed_text))
        self._unclosed_text = None
        if self._doubtful_reasoning and not self._has_answer and not cut:
            self._add_answer(delta, self._take_doubtful_reasoning() + self._reasoning.release())
        for found in self._remaining_text_and_calls(cut=cut):
            self._add_found(delta, found)
        if self._untagged_call:
            text = "".join(self._untagged_call)
            self._untagged_call.clear()
            self._add_required_call(delta, _arguments_of_untagged_call(text, self._options.required_tool))
        if ended:
            delta.content += self._answer.trimmer.release()
        if self._doubtful_reasoning:
            delta.reasoning = self._take_doubtful_reasoning()

    def _remaining_text_and_calls(self, *, cut: bool) -> Iterable[str | ToolCallDelta]:
        """Return the text and calls that the parser held back."""
        parser = self._call_parser
        if parser is None:
            return ()
        if held := parser.held_text:
            is_quoted = self._options.text_calls == "quoted" and not has_malformed_call(held)
            is_text = is_quoted or self._calls.has_calls_from("server")
            return [held] if is_text else parse_tool_calls(held, cut=cut)
        found = parser.close(cut=cut)
        if not (cut or self._has_answer or self._calls or self._past_reasoning or found):
            # A think block that is never closed, as streams of vLLM label it and as servers without a reasoning parser
            # send it. vLLM's own parsers find its calls in answers that are not streamed.
            return [call for call in parse_tool_calls("".join(self._reasoning_so_far)) if not isinstance(call, str)]
        return found


def _append_call(delta: Delta, part: ToolCallDelta) -> None:
    if not isinstance(delta.tool_calls, list):
        delta.tool_calls = [part]
    elif (last := delta.tool_calls[-1]).index == part.index:
        last.arguments += part.arguments
        last.id, last.name, last.error = last.id or part.id, last.name or part.name, part.error
    else:
        delta.tool_calls.append(part)


def _arguments_of_untagged_call(text: str, name: str | None) -> str:
    """Return the arguments in `{"name": name, "arguments": {...}}`, or `text` if it is the arguments alone."""
    call = parse_object(text) or {}
    arguments = call.get("arguments", call.get("parameters"))
    is_call = len(call) == 2 and call.get("name") == name and isinstance(arguments, dict)
    return to_json(arguments).decode() if is_call else text
