"""Tracks the tool calls of one choice, whether parsed by the server or found in the answer's text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Literal

from ..types import ToolCallDelta
from .arguments import LOST, ArgumentsDecoder

Source = Literal["server", "text"]

_VLLM_ID = "chatcmpl-tool-"
"""How the ids of calls begin that vLLM has parsed."""


class ToolCallTracker:
    """Identifies and checks tool calls: pass each part to `add`, then pass on what `close` yields.

    It gives each call a unique index, an id if the server gives none, and passes on its id and name only once, though
    some servers repeat them.
    """

    __slots__ = ("_calls", "_ids", "_indices", "_new_id")

    def __init__(self, new_id: Callable[[int], str]) -> None:
        """Start a choice; `new_id` returns the id of the call with a given index, if the server gives none."""
        self._new_id = new_id
        self._calls: dict[int, _TrackedCall] = {}
        self._ids: set[str] = set()
        self._indices: dict[tuple[Source, int], int] = {}  # the index of each call, by its source's own index

    def __bool__(self) -> bool:
        return bool(self._calls)

    def has_calls_from(self, source: Source) -> bool:
        """Whether any call came from the server, or was found in the text."""
        return any(of_call == source for of_call, _ in self._indices)

    @property
    def is_truncated(self) -> bool:
        """Whether the last call looks truncated: for streams that end without a finish reason."""
        return bool(self._calls) and self._calls[max(self._calls)].arguments.is_truncated

    def add(self, part: ToolCallDelta, source: Source | None = None) -> None:
        """Add a part of a call.

        Args:
            part: The part; changed in place: its index becomes unique, an id or name that has already been passed on is
                removed, and its arguments are what to pass on now.
            source: What assigned the index; None if it is already unique.
        """
        if source is not None:
            index = self._indices.get((source, part.index))
            if index is None or (part.name and self._calls[index].is_followed_by(part)):
                index = self._indices[source, part.index] = self._free_index(part.index, source)
            part.index = index
        call = self._calls.get(part.index)
        if call is None:
            call = self._calls[part.index] = _TrackedCall()
        call.server_id = call.server_id or part.id
        if part.id and not call.id and part.id in self._ids:
            part.id = self._new_id(part.index)  # TGI gives each call the id `0`
        if part.name and not call.id:
            part.id = part.id or self._new_id(part.index)
        call.id, part.id = call.id or part.id, None if call.id else part.id
        if part.id:
            self._ids.add(part.id)
        call.name, part.name = call.name or part.name, None if call.name else part.name
        call.error, part.error = call.error or part.error, None
        call.is_open = True
        part.arguments = call.arguments.feed(part.arguments)

    def close(self, names: Collection[str] = (), truncation: str | None = None) -> Iterator[ToolCallDelta]:
        """Yield the last part of each open call, if there is something to add: the end of its arguments, its error.

        Args:
            names: Names of the tools that were offered; empty if they are not known.
            truncation: The error of the last call if it is incomplete, as without any arguments, since the answer is.
        """
        last = max(self._calls, default=None)
        for index, call in self._calls.items():
            if not call.is_open:
                continue
            call.is_open = False
            is_empty = call.arguments.is_empty
            end, problem = call.arguments.close()
            problem = LOST if call.error == LOST else problem or call.error
            if truncation and index == last and (problem or is_empty):
                problem = truncation
            elif not call.name:
                problem = call.error or "it names no tool"
            elif names and call.name not in names:
                problem = "there is no tool of this name"
            call.error = problem
            new_id = None if call.id else self._new_id(index)
            if end or problem or new_id:
                yield ToolCallDelta(index, new_id, arguments=end, error=problem)

    def find_lossy(self, with_parameters: Collection[str], *, mark: bool) -> bool:
        """Return whether the calls of the server come from a parser whose streams may lose a part of a call.

        The parser of vLLM 0.9 and 0.10 loses the first value if that is a number, an object or a list, and closing
        braces anywhere. It is recognized by the first part of the arguments, which contains a key. Arguments that are
        not an object are lost altogether.

        Args:
            with_parameters: Names of the tools that have parameters.
            mark: Whether to note an error for calls that seem to have lost something.
        """
        is_lossy = False
        for (source, _), index in self._indices.items():
            call = self._calls[index]
            if source != "server" or not call.is_open:
                continue
            if not (call.server_id or "").startswith(_VLLM_ID):  # other servers split arguments in any way
                continue
            is_suspect = call.arguments.is_empty and call.name in with_parameters
            if call.arguments.begins_with_a_key:
                is_lossy = True
                is_suspect = call.arguments.may_lack_a_part
            if is_suspect and mark:
                call.error = LOST
        return is_lossy

    def truncate(self, truncation: str) -> Iterator[ToolCallDelta]:
        """Yield the error of the last call, which turned out to be truncated only after its end."""
        last = max(self._calls)
        if not self._calls[last].error:
            yield ToolCallDelta(last, error=truncation)

    def is_first(self, call: ToolCallDelta) -> bool:
        """Whether this is a part of the first call."""
        return call.index == next(iter(self._calls))

    def _free_index(self, index: int, source: Source) -> int:
        """Return the server's index for a new call if it is free, otherwise the next free one."""
        free = index if source == "server" else len(self._calls)
        return max(self._calls) + 1 if free in self._calls else free


class _TrackedCall:
    __slots__ = ("arguments", "error", "id", "is_open", "name", "server_id")

    def __init__(self) -> None:
        self.id: str | None = None
        self.server_id: str | None = None  # may arrive after the name, when the call already has an id
        self.name: str | None = None
        self.error: str | None = None
        self.is_open = True
        self.arguments = ArgumentsDecoder()

    def is_followed_by(self, part: ToolCallDelta) -> bool:
        """Whether a part with the same index begins another call, as with servers that do not number parallel calls."""
        if self.name is None:
            return False
        if part.id and self.server_id:
            return part.id != self.server_id
        return self.arguments.has_ended and part.arguments.lstrip().startswith("{")
