"""How a server sent an answer, as far as the answer itself does not say."""

from __future__ import annotations

from typing import NamedTuple


class Signs(NamedTuple):
    """How a server sent an answer.

    Attributes:
        has_parsed_calls: Whether it contains tool calls that the server parsed.
        reasoning_fields: The fields in which its reasoning came.
        lacks_opening_tag: Whether its reasoning came in the text, without an opening tag; None: not known yet.
        is_lossy: Whether it is a stream that may have lost a part of a tool call.
    """

    has_parsed_calls: bool = False
    reasoning_fields: frozenset[str] = frozenset()
    lacks_opening_tag: bool | None = None
    is_lossy: bool = False
