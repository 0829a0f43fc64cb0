"""What must not show, in errors, logs and the reports that tools make of them (pure)."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import TypeVar
from urllib.parse import quote, quote_plus

_PRIVATE = re.compile(r"(/project/p-|[?&](?:project_id|apikey)=)[^/?&#\s]+")
_QUERY = re.compile(r"(?<=/chat/completions\?)[^\s\"']+")
_SHORTEST = 4
_PLAIN_WORD = 8
"""Letters below which a secret is looked for as a word of its own: a header may be `X-Team: blue`."""
_ENGINES = frozenset({"anyio", "h11", "httpcore", "httpcore2", "httpx", "httpx2"})
_Error = TypeVar("_Error", bound=BaseException)


class Secrets(tuple[str, ...]):
    """Texts that must not show, the longest first. Its repr is safe."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secrets>"


def secrets_of(values: Iterable[str | None]) -> Secrets:
    """The secrets that are these values, as they are and as URLs, JSON and HTML write them.

    Too short a value is no secret, and would blacken innocent text.
    """
    found = [value for value in values if value and len(value) >= _SHORTEST and value != "Bearer"]
    return Secrets(sorted({form for value in found for form in _forms(value)}, key=len, reverse=True))


def _forms(value: str) -> set[str]:
    quoted = {value, quote_plus(value), quote(value), quote(value, safe="")}
    quoted |= {quote(form, safe="") for form in quoted}
    quoted |= {re.sub(r"%[0-9A-F]{2}", lambda escape: escape[0].lower(), form) for form in quoted}
    written = json.dumps(value)[1:-1]
    return quoted | {written, json.dumps(written)[1:-1], html.escape(value), repr(value)[1:-1]}


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """A server's text with stars for the secrets, and without characters that a terminal or a log would act upon."""
    secrets = Secrets(secrets)
    if secrets:
        text = re.sub("|".join(map(_pattern, secrets)), "***", text)
        # A text that is cut within a secret.
        ends = (secret[:end] for secret in secrets for end in range(len(secret) - 1, _SHORTEST - 1, -1))
        text = next((text.removesuffix(end) + "***" for end in ends if text.endswith(end)), text)
    return printable(text)


def _pattern(secret: str) -> str:
    if secret.removeprefix("p-").isdigit():
        return rf"(?<![0-9]){secret}(?![0-9A-Za-z])"
    return rf"(?<!\w){re.escape(secret)}(?!\w)" if len(secret) < _PLAIN_WORD else re.escape(secret)


def printable(text: str) -> str:
    """The text with spaces for line breaks, escape sequences and marks of direction."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def without_ids(text: str) -> str:
    """Return `text` with the project ids and keys of its URLs replaced by stars, fit for a log."""
    text = _QUERY.sub(lambda query: re.sub(r"=[^&]*", "=***", query[0]), text)
    return _PRIVATE.sub(r"\1***", text)


def without_engine(error: _Error) -> _Error:
    """The error without the HTTP engine's frames, in its traceback and behind it: their locals hold the request."""
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        behind = rest.pop()
        if behind is not None and id(behind) not in seen:
            seen.add(id(behind))
            _unlink(behind)
            rest += behind.__cause__, behind.__context__
    return error


def _unlink(error: BaseException) -> None:
    kept = []
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_globals.get("__name__", "").partition(".")[0] not in _ENGINES:
            kept.append(frame)
        frame = frame.tb_next
    for this, following in zip(kept, [*kept[1:], None], strict=False):
        this.tb_next = following
    error.__traceback__ = kept[0] if kept else None
