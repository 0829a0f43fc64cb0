"""The deltas of one choice: reasoning, answer and tool calls, wherever the server files them (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from pydantic_core import to_json

from .calls import CallSplitter
from .fields import call_delta, expect, items
from .tags import NewlineTrimmer, ThinkSplitter, TornTags
from .types import JSON, Delta, ToolCallDelta
from .wire import object_of


@dataclass(frozen=True, slots=True)
class Expected:
    """What a request makes of its answer, where the servers' versions do not hold to it alike.

    Attributes:
        tools: Tools were offered: text between `<tool_call>` tags is a call that the server has not parsed.
        named: The tool that had to be called: an object for an answer is its arguments.
        written: The tools stood in the messages: an object for an answer may be a call without its tags.
        one_call: No more than one call was allowed.
        no_thinking: Thinking was switched off: an answer filed under reasoning is an answer.
        lag: By so many characters a stream's text may lag behind its tokens, in case that a stop string comes.
    """

    tools: bool = False
    named: str | None = None
    written: bool = False
    one_call: bool = False
    no_thinking: bool = False
    lag: int = 0


NOTHING = Expected()


class ChoiceDecoder:
    """Decodes the deltas of one choice: `feed` each, then `close`."""

    __slots__ = (
        *("_arguments", "_calls", "_content", "_doubted", "_expected", "_id", "_index", "_is_arguments", "_numbers"),
        *("_plain", "_reasoned", "_reasoning", "_said", "_seam", "_splitter", "_think", "_torn", "_untagged"),
        *("_worded", "finished", "heard"),
    )

    def __init__(self, index: int, expected: Expected, id_: str | None = None) -> None:
        """Begin a choice; `id_` is the response's, of which ids of calls are made where the server has none."""
        self.finished = False
        self._index = index
        self._expected = expected
        self._id = f"{id_ or uuid4().hex}-{index}" if index else id_ or uuid4().hex
        self._think: ThinkSplitter | None = ThinkSplitter()  # None: all further content is answer
        self._torn = TornTags(expected.lag) if expected.lag else None  # None: tags come whole, or not at all
        self._reasoned = False
        self._reasoning = NewlineTrimmer(leading=True)
        self._content = NewlineTrimmer(leading=False)
        self._calls: dict[int, ToolCallDelta] = {}  # what each tool call has named so far
        self._arguments: dict[int, list[str]] = {}
        self._splitter = CallSplitter(self._new_id) if expected.tools else None
        self._numbers: dict[tuple[str, int], int] = {}  # calls by who numbered them and how: their number here
        self._is_arguments = None if expected.named else False  # whether the text is; None: not yet known
        self._untagged: list[str] = []  # a named call, or its arguments, without tags
        self._plain = expected == Expected(lag=expected.lag)  # text is text
        self._doubted: list[str] = []  # reasoning that may be the answer
        self.heard = 0
        """Deltas that held anything, though it may still be held back."""
        self._worded = False  # whether there is content
        self._seam = False  # whether a call has come after it: what follows is another paragraph
        self._said = False  # whether there is an answer, or a call

    def feed(self, choice: JSON) -> Delta:
        """What a choice of a chunk, or of a whole answer, says."""
        said = choice.get("delta")
        if said is None:
            said = choice.get("message") or {}
            self._torn = None  # that is of streams
        delta = Delta(self._index)
        expect(said, dict, "delta")
        if self._torn is not None:
            said = self._mended(self._torn, said)
        if reasoning := said.get("reasoning_content") or said.get("reasoning"):
            self.heard += 1
            if self._think is not None:  # the server parses the reasoning: a tag in the content is a quotation
                held, rest = self._think.close()
                self._think = None
                self._add_reasoning(delta, held or "")
                self._add_answer(delta, rest)
            self._add_reasoning(delta, expect(reasoning, str, "reasoning"))
        if content := said.get("content"):
            self.heard += 1
            self._add_content(delta, expect(content, str, "content"))
        if said.get("tool_calls"):
            self.heard += 1
            self._drop()
            for position, call in enumerate(items(said, "tool_calls")):
                piece = call_delta(position, call)
                piece.index = self._number("server", piece.index)
                self._add_call(delta, piece)
        if (logprobs := choice.get("logprobs")) is not None:
            delta.logprobs = expect(logprobs, dict, "logprobs")
        if finish_reason := choice.get("finish_reason"):
            delta.finish_reason = expect(finish_reason, str, "finish_reason")
            delta.stop_reason = choice.get("stop_reason")
            self.finished = True
            self._flush(delta, cut=finish_reason == "length")
            if finish_reason == "stop" and any(origin == "text" for origin, _ in self._numbers):
                delta.finish_reason = "tool_calls"  # as of a server that parses them
        return delta

    def close(self) -> Delta:
        """What was held back, where no finish reason has brought it out."""
        delta = Delta(self._index)
        if self.finished:
            return delta
        cut = self._expected.tools and not self._calls and not self._said
        self._flush(delta, cut=cut)
        if self._expected.tools and (self._calls or cut):
            # vLLM 0.9 ends tool streams without one, and cut ones too.
            texts = ["".join(pieces) or "{}" for pieces in self._arguments.values()]
            whole = bool(texts) and all(object_of(text) is not None for text in texts)
            delta.finish_reason = "tool_calls" if whole else "length"
        return delta

    def broken(self) -> Delta:
        """What was held back of an answer that did not end."""
        delta = Delta(self._index)
        if not self.finished:
            self._flush(delta, cut=True, ended=False)
        return delta

    def _mended(self, torn: TornTags, said: JSON) -> JSON:
        """A delta without what torn tags leave in it."""
        reasoning = expect(said.get("reasoning_content") or said.get("reasoning") or "", str, "reasoning")
        content = expect(said.get("content") or "", str, "content")
        late = ""
        if reasoning or content:
            self.heard += 1
        if reasoning:
            reasoning = torn.reasoning(reasoning)
        elif "" in (said.get("reasoning_content"), said.get("reasoning")):
            torn.blank()
        if content:
            late, content = torn.content(content)
        elif said.get("tool_calls") and not self._expected.named:
            late, content = torn.close(ended=False)
        if torn.settled:
            self._torn = None
        return {**said, "reasoning_content": reasoning + late, "reasoning": None, "content": content}

    def _add_reasoning(self, delta: Delta, reasoning: str) -> None:
        if not self._reasoned:
            self._reasoned = True
            self._content.leading = True
        reasoning = self._reasoning.feed(reasoning)
        if self._expected.no_thinking and not self._said:
            self._doubted.append(reasoning)
        else:
            delta.reasoning += reasoning

    def _add_content(self, delta: Delta, content: str) -> None:
        if self._think is not None:
            reasoning, content = self._think.feed(content)
            if reasoning is not None:
                self._add_reasoning(delta, reasoning)
            if self._think.settled:
                self._think = None
        if self._plain:  # nearly every chunk
            delta.content += self._content.feed(content)
        else:
            self._add_answer(delta, content)

    def _add_answer(self, delta: Delta, text: str) -> None:
        if self._splitter is None:
            self._add_text(delta, text)
            return
        for found in self._splitter.feed(text) if text else ():
            self._add_found(delta, found)

    def _add_found(self, delta: Delta, found: str | ToolCallDelta) -> None:
        if isinstance(found, str):
            self._add_text(delta, found)
        else:
            self._drop()
            found.index = self._number("text", found.index)
            if found.name == "":
                found.name = self._expected.named or ""
            self._add_call(delta, found)

    def _add_text(self, delta: Delta, text: str) -> None:
        if self._is_arguments is None and text.strip():
            # vLLM 0.9 streams the arguments of a named tool as text when thinking is off.
            self._is_arguments = text.lstrip().startswith("{") and not self._calls
            if self._is_arguments:
                text = text.lstrip()
                self._content.drop()
        if self._is_arguments and self._expected.written:
            self._said = True
            self._untagged.append(text)
        elif self._is_arguments:
            self._add_call(delta, ToolCallDelta(0, self._new_id(0), self._expected.named, text))
        elif content := self._content.feed(text):
            self._settle(delta)
            delta.content += f"\n{content}" if self._seam else content
            self._seam, self._worded = False, True

    def _add_call(self, delta: Delta, call: ToolCallDelta) -> None:
        """Add a piece of a call; its id and its name come out once, though some versions repeat them or send null."""
        if self._torn is not None and self._expected.named:  # its arguments stand where the content would
            late, call.arguments = self._torn.content(call.arguments)
            self._add_reasoning(delta, late)
            if self._torn.settled:
                self._torn = None
        known = self._calls.get(call.index)
        if known is None:
            known = self._calls[call.index] = ToolCallDelta(call.index)
            self._arguments[call.index] = []
        known.id, call.id = known.id or call.id, None if known.id else call.id
        known.name, call.name = known.name or call.name, None if known.name else call.name
        self._arguments[call.index].append(call.arguments)
        if self._expected.one_call and call.index != next(iter(self._calls)):
            return
        self._settle(delta)
        if isinstance(delta.tool_calls, list):
            delta.tool_calls.append(call)
        else:
            delta.tool_calls = [call]

    def _drop(self) -> None:
        self._content.drop()
        self._seam = self._worded

    def _number(self, origin: str, number: int) -> int:
        """A number for a call that no other has: the server's own, if it is free."""
        known = self._numbers.get((origin, number))
        if known is None:
            known = number if origin == "server" else len(self._calls)
            if known in self._calls:
                known = max(self._calls) + 1
            self._numbers[origin, number] = known
        return known

    def _new_id(self, number: int) -> str:
        return f"{self._id}-call-{number}"

    def _settle(self, delta: Delta) -> None:
        """There is an answer: what the server filed under reasoning is that."""
        self._said = True
        if self._doubted:
            delta.reasoning = self._certain() + delta.reasoning

    def _certain(self) -> str:
        doubted = "".join(self._doubted)
        self._doubted.clear()
        return doubted

    def _flush(self, delta: Delta, *, cut: bool, ended: bool = True) -> None:
        if self._torn is not None:
            late, content = self._torn.close(ended=ended)
            self._torn = None
            if late:
                self._add_reasoning(delta, late)
            self._add_content(delta, content)
        if self._think is not None:
            reasoning, content = self._think.close()
            self._think = None
            if reasoning is not None:
                self._add_reasoning(delta, reasoning)
            self._add_answer(delta, content)
        if self._doubted and not self._said and not cut:
            self._add_answer(delta, self._certain() + self._reasoning.release())
        for found in self._splitter.close() if self._splitter else ():
            self._add_found(delta, found)
        if self._untagged:
            text = "".join(self._untagged)
            self._untagged.clear()
            self._add_call(delta, ToolCallDelta(0, self._new_id(0), self._expected.named, _inner(text)))
        if ended:
            delta.content += self._content.release()
        if self._doubted:
            delta.reasoning = self._certain()


def _inner(text: str) -> str:
    """The arguments of a call that is written without its tags; the text, if it is the arguments alone."""
    call = object_of(text) or {}
    inner = call.get("arguments", call.get("parameters"))
    return to_json(inner).decode() if len(call) == 2 and "name" in call and isinstance(inner, dict) else text
