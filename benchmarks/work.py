"""The work that a subject is given and the answer it must return; the server reads both from the question."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

TOOL = "write"


class Seen(NamedTuple):
    """What a subject returned: the number of non-empty chunks, and of their characters."""

    chunks: int
    characters: int


class WrongAnswerError(Exception):
    """A subject returned more or less than was sent."""


@dataclass(frozen=True)
class Work:
    """One call. Equal works have equal questions, so that the server builds each answer only once."""

    kind: str = "text"
    """Kind of the answer: `text`, `reasoning` or `tool` (the arguments of a call)."""
    chunks: int = 8
    size: int = 6
    """Characters in each chunk."""
    pace: float = 0.0
    """Seconds between chunks, or before a non-streaming answer; 0: as fast as the client reads."""
    history: int = 1
    """Number of messages in the conversation, including this question."""
    form: str = "v0"
    """How LangChain's stream is consumed: `v0`, `v1`, `v3`, or `fold` and `sum`, which add up the chunks."""

    @cached_property
    def question(self) -> str:
        """The text of the last message."""
        return json.dumps({name: value for name, value in asdict(self).items() if name not in ("history", "form")})

    @cached_property
    def texts(self) -> list[str]:
        """The parts of the answer; those of tool arguments form a JSON object."""
        piece = (" token" * (self.size // 6 + 1))[: self.size]
        texts = [piece] * self.chunks
        if self.kind == "tool":
            texts[0], texts[-1] = '{"text": "', '"}'
        return texts

    @cached_property
    def whole(self) -> str:
        """The complete answer."""
        return "".join(self.texts)

    @cached_property
    def earlier(self) -> list[tuple[str, str]]:
        """The roles and texts of the messages before the question."""
        roles = ("assistant", "user")
        return [(roles[number % 2], f"{number} " + "word " * 40) for number in range(1, self.history)]

    @cached_property
    def wire(self) -> list[dict[str, str]]:
        """The conversation in wire format."""
        messages = [*self.earlier, ("user", self.question)]
        return [{"role": role, "content": text} for role, text in messages]

    def check(self, seen: Seen, *, streamed: bool) -> None:
        """Raise an error unless this is what was sent, so that nothing is fast because it is wrong."""
        least, most = (self.chunks, self.chunks + 1) if streamed else (1, 1)
        if seen.characters != len(self.whole) or not least <= seen.chunks <= most:
            raise WrongAnswerError(
                f"{seen.chunks} chunks and {seen.characters} characters instead of {self.chunks} and {len(self.whole)}"
            )


def usage(work: Work) -> dict[str, Any]:
    """Return the token counts that the server sends."""
    return {"prompt_tokens": 15, "total_tokens": 15 + work.chunks, "completion_tokens": work.chunks}
