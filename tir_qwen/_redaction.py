"""Redaction of credentials and project ids in errors, logs and reports."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

_PRIVATE_PART = r"(/project/p-|[?&](?:project_id|apikey)=)[^/?&#\s]+"
_REQUEST_QUERY = r"(?:(?<=/chat/completions\?)|(?<=/embeddings\?))[^\s\"']+"
_MIN_LENGTH = 4
"""Shorter values are not treated as secrets: replacing them would make harmless text unreadable."""
_MIN_LENGTH_INSIDE_WORDS = 8
"""Shorter secrets are only replaced as whole words: a header may be `X-Team: blue`."""


class Secrets(tuple[str, ...]):
    """Strings that must not be shown, longest first. Its repr is safe to log."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secrets>"


def collect_secrets(values: Iterable[str | None]) -> Secrets:
    """Return the values that are long enough, both plain and as encoded in URLs, JSON and HTML."""
    secrets = [value for value in values if value and len(value) >= _MIN_LENGTH and value != "Bearer"]
    return Secrets(sorted({form for value in secrets for form in _encoded_forms(value)}, key=len, reverse=True))


def _encoded_forms(value: str) -> set[str]:
    quoted = {value, quote_plus(value), quote(value), quote(value, safe="")}
    quoted |= {quote(form, safe="") for form in quoted}
    quoted |= {re.sub(r"%[0-9A-F]{2}", lambda escape: escape[0].lower(), form) for form in quoted}
    in_json = json.dumps(value)[1:-1]
    return quoted | {in_json, json.dumps(in_json)[1:-1], html.escape(value), repr(value)[1:-1]}


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace secrets with `***` and control characters with spaces."""
    secrets = Secrets(secrets)
    if secrets:
        text = re.sub(secrets_pattern(secrets), "***", text)
        # The text may have been cut off in the middle of a secret.
        ends = (secret[:end] for secret in secrets for end in range(len(secret) - 1, _MIN_LENGTH - 1, -1))
        text = next((text.removesuffix(end) + "***" for end in ends if text.endswith(end)), text)
    return strip_control_characters(text)


def secrets_pattern(secrets: Iterable[str]) -> str:
    """Return the regular expression that matches any of the secrets, of which there is at least one."""
    return "|".join(map(_pattern, secrets))


def _pattern(secret: str) -> str:
    if secret.removeprefix("p-").isdigit():
        return rf"(?<![0-9]){secret}(?![0-9A-Za-z])"
    is_short = len(secret) < _MIN_LENGTH_INSIDE_WORDS
    return rf"(?<!\w){re.escape(secret)}(?!\w)" if is_short else re.escape(secret)


def strip_control_characters(text: str) -> str:
    """Replace line breaks, escape characters and direction marks, which terminals and logs interpret, with spaces."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def redact_urls(text: str) -> str:
    """Replace project ids, keys and other query values in the URLs of `text` with `***`."""
    text = re.sub(_REQUEST_QUERY, lambda query: re.sub(r"=[^&]*", "=***", query[0]), text)
    return re.sub(_PRIVATE_PART, r"\1***", text)
