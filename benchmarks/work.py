"""What a subject is asked to do, and what it must answer; the server reads it out of the question."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

TOOL = "write"


class Seen(NamedTuple):
    """What a subject has handed over: chunks with something in them, and their characters."""

    chunks: int
    characters: int


class WrongAnswerError(Exception):
    """Less or more has been handed over than was sent."""


@dataclass(frozen=True)
class Work:
    """One call. Equal works have equal questions, so that the server has to write its answer only once."""

    kind: str = "text"
    """Of the answer: `text`, `reasoning` or `tool` (the arguments of a call)."""
    chunks: int = 8
    size: int = 6
    """Characters in each chunk."""
    pace: float = 0.0
    """Seconds between the chunks, or before a whole answer; 0: as fast as the client takes them."""
    history: int = 1
    """Messages of the conversation, this question included."""
    form: str = "v0"
    """How a LangChain user takes the stream: `v0`, `v1`, `v3`, or `fold` and `sum`, which add its chunks up."""

    @cached_property
    def question(self) -> str:
        """The text of the last message."""
        return json.dumps({name: value for name, value in asdict(self).items() if name not in ("history", "form")})

    @cached_property
    def texts(self) -> list[str]:
        """The answer's pieces; those of a tool's arguments are a JSON object together."""
        piece = (" token" * (self.size // 6 + 1))[: self.size]
        texts = [piece] * self.chunks
        if self.kind == "tool":
            texts[0], texts[-1] = '{"text": "', '"}'
        return texts

    @cached_property
    def whole(self) -> str:
        """All of the answer."""
        return "".join(self.texts)

    @cached_property
    def earlier(self) -> list[tuple[str, str]]:
        """The roles and texts of the messages before the question."""
        roles = ("assistant", "user")
        return [(roles[number % 2], f"{number} " + "word " * 40) for number in range(1, self.history)]

    @cached_property
    def wire(self) -> list[dict[str, str]]:
        """The conversation as on the wire."""
        messages = [*self.earlier, ("user", self.question)]
        return [{"role": role, "content": text} for role, text in messages]

    def check(self, seen: Seen, *, streamed: bool) -> None:
        """Raise unless this is what was sent, so that nothing is fast by being wrong."""
        least, most = (self.chunks, self.chunks + 1) if streamed else (1, 1)
        if seen.characters != len(self.whole) or not least <= seen.chunks <= most:
            raise WrongAnswerError(
                f"{seen.chunks} chunks and {seen.characters} characters instead of {self.chunks} and {len(self.whole)}"
            )


def usage(work: Work) -> dict[str, Any]:
    """The counts that the server gives."""
    return {"prompt_tokens": 15, "total_tokens": 15 + work.chunks, "completion_tokens": work.chunks}
