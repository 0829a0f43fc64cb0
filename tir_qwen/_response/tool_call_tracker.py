"""Tracks the tool calls of one choice, whether parsed by the server or found in the answer's text."""

from __future__ import annotations

from typing import Literal
from uuid import uuid4

from .._json import parse_object
from ..types import ToolCallDelta

Source = Literal["server", "text"]


class ToolCallTracker:
    """Gives each tool call a unique index, and passes on its id and name only once, though some servers repeat them."""

    __slots__ = ("_arguments", "_id_prefix", "_indices", "_seen")

    def __init__(self, choice_index: int, response_id: str | None) -> None:
        """Start a choice; ids that the server leaves out are derived from the id of the response."""
        prefix = response_id or uuid4().hex
        self._id_prefix = f"{prefix}-{choice_index}" if choice_index else prefix
        self._seen: dict[int, ToolCallDelta] = {}  # with the id and name of each call
        self._arguments: dict[int, list[str]] = {}
        self._indices: dict[tuple[Source, int], int] = {}  # the index of each call, by its source's own index

    def __bool__(self) -> bool:
        return bool(self._seen)

    @property
    def found_in_text(self) -> bool:
        """Whether any call was found in the text, unparsed by the server."""
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
        """Add a part of a call.

        Args:
            call: The part; changed in place: its index becomes unique, and an id or name that has already been passed
                on is removed.
            source: What assigned the index; None if it is already unique.
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
        """Whether this is a part of the first call."""
        return call.index == next(iter(self._seen))

    def _free_index(self, index: int, source: Source) -> int:
        """Return the server's index for a new call if it is free, otherwise the next free one."""
        free = index if source == "server" else len(self._seen)
        return max(self._seen) + 1 if free in self._seen else free
