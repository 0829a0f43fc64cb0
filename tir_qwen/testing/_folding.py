"""How a recording stores bodies: every byte, but compact and readable.

Events of a stream that differ only in their text form one entry: the event with HERE in place of the text, and the
texts, separated by BETWEEN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from .._redaction import secrets_pattern

HERE = "…HERE…"
BETWEEN = "¦"
_LINE = 100
_TEXT = re.compile(r'(?<="delta":)(\{.*"(?:reasoning_content|reasoning|content|arguments)":")((?:[^"\\]|\\.)+)"')
_ANY_TEXT = re.compile(r'"(?:reasoning_content|reasoning|content|arguments)": *"((?:[^"\\]|\\.)*)"')


def fold(body: str, secrets: Sequence[str] = ()) -> dict[str, Any]:
    """Return a response's body as stored: as `json` or `events`, or as `text` if these would not keep every byte.

    Args:
        body: The body.
        secrets: What to replace with `***`.

    Raises:
        ValueError: A secret is spread over several events.
    """
    with suppress(ValueError):
        content = json.loads(body)
        if isinstance(content, dict) and (compact(content) == body or _has_secret(body, secrets)):
            return {"json": replace_secrets(content, secrets)}
    if not body.startswith("data:") or not body.endswith("\n\n"):
        return {"text": replace_secrets(body, secrets)}
    *events, _ = body.split("\n\n")
    events = [_clean(event, secrets) for event in events]
    _check_texts(events, secrets)
    entries: list[Any] = []
    for event in events:
        found = _TEXT.search(event)
        text = json.loads(f'"{found[2]}"') if found else ""
        if not found or BETWEEN in text or HERE in event or compact(text)[1:-1] != found[2]:
            entries.append(event)
            continue
        same = event[: found.start(2)] + HERE + event[found.end(2) :]
        if not entries or not isinstance(entries[-1], dict) or entries[-1]["event"] != same:
            entries.append({"event": same, "texts": [text]})
        elif len(entries[-1]["texts"][-1]) + len(text) < _LINE:
            entries[-1]["texts"][-1] += BETWEEN + text
        else:
            entries[-1]["texts"].append(text)
    return {"events": entries}


def unfold(entries: list[Any]) -> Iterator[tuple[str, bool]]:
    """Yield a stream's events, and whether each contains text."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry, False
            continue
        before, after = entry["event"].split(HERE)
        for line in entry["texts"]:
            for text in line.split(BETWEEN):
                yield before + compact(text)[1:-1] + after, True


def compact(value: Any) -> str:
    """Return JSON without spaces, as vLLM writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def replace_secrets(value: Any, secrets: Sequence[str]) -> Any:
    """Return a JSON value with `***` in place of secrets in its strings.

    Numbers and base64 vectors that contain the same characters are kept.
    """
    if isinstance(value, str):
        return re.sub(secrets_pattern(secrets), "***", value) if secrets else value
    if isinstance(value, list):
        return [replace_secrets(each, secrets) for each in value]
    if isinstance(value, dict):
        kept = "embedding" if value.get("object") == "embedding" else None
        return {name: each if name == kept else replace_secrets(each, secrets) for name, each in value.items()}
    return value


def _clean(event: str, secrets: Sequence[str]) -> str:
    if not _has_secret(event, secrets):
        return event
    with suppress(ValueError):
        return f"data: {compact(replace_secrets(json.loads(event.removeprefix('data:')), secrets))}"
    return str(replace_secrets(event, secrets))


def _has_secret(text: str, secrets: Sequence[str]) -> bool:
    return bool(secrets and re.search(secrets_pattern(secrets), text))


def _check_texts(events: list[str], secrets: Sequence[str]) -> None:
    texts = (json.loads(f'"{text}"') for event in events for text in _ANY_TEXT.findall(event))
    if secrets and _has_secret("".join(texts), secrets):
        raise ValueError("A secret is spread over several events of a stream: the exchange cannot be stored.")
