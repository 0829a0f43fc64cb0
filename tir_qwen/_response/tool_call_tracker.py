"""The tool calls of one choice, from whichever source: the server's parser, or the text of the answer."""

from __future__ import annotations

from typing import Literal
from uuid import uuid4

from .._json import parse_object
from ..types import ToolCallDelta

Source = Literal["server", "text"]


class ToolCallTracker:
    """Gives each tool call one index, and passes its id and its name on once, though some servers repeat them."""

    __slots__ = ("_arguments", "_id_prefix", "_indices", "_seen")

    def __init__(self, choice_index: int, response_id: str | None) -> None:
        """Start a choice; ids that the server leaves out are made of the id of the response."""
        prefix = response_id or uuid4().hex
        self._id_prefix = f"{prefix}-{choice_index}" if choice_index else prefix
        self._seen: dict[int, ToolCallDelta] = {}  # the id and the name of each call
        self._arguments: dict[int, list[str]] = {}
        self._indices: dict[tuple[Source, int], int] = {}  # the index of each call, by its source's own index

    def __bool__(self) -> bool:
        return bool(self._seen)

    @property
    def found_in_text(self) -> bool:
        """Whether there are calls that the server has not parsed."""
        return any(source == "text" for source, _ in self._indices)

    @property
    def are_complete(self) -> bool:
        """Whether there are calls, and the arguments of each are a JSON object."""
        texts = ["".join(pieces) or "{}" for pieces in self._arguments.values()]
        return bool(texts) and all(parse_object(text) is not None for text in texts)

    def new_id(self, index: int) -> str:
        """Return an id for a call that has none."""
        return f"{self._id_prefix}-call-{index}"

    def add(self, call: ToolCallDelta, source: Source | None = None) -> None:
        """Add a piece of a call.

        Args:
            call: The piece. Its index is changed to one that is its own, and an id or a name that was passed on before
                is removed from it.
            source: Who numbered the call; None if its index needs no change.
        """
        if source is not None:
            index = self._indices.get((source, call.index))
            if index is None:
                index = self._indices[source, call.index] = self._free_index(call.index, source)
            call.index = index
        seen = self._seen.get(call.index)
        if seen is None:
            seen = self._seen[call.index] = ToolCallDelta(call.index)
            self._arguments[call.index] = []
        seen.id, call.id = seen.id or call.id, None if seen.id else call.id
        seen.name, call.name = seen.name or call.name, None if seen.name else call.name
        self._arguments[call.index].append(call.arguments)

    def is_first(self, call: ToolCallDelta) -> bool:
        """Whether it is a piece of the first call."""
        return call.index == next(iter(self._seen))

    def _free_index(self, index: int, source: Source) -> int:
        """Return the server's index of a new call if it is free, otherwise the next one."""
        free = index if source == "server" else len(self._seen)
        return max(self._seen) + 1 if free in self._seen else free
