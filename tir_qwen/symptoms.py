"""What a token, or the bytes of an answer, tell of themselves (pure)."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime

from pydantic_core import from_json

from .errors import MalformedChunkError
from .sse import SSEDecoder
from .types import JSON


def expiry_of(token: str | None) -> datetime | None:
    """When a token stops working, if it is a JWT that says so."""
    parts = (token or "").split(".")
    if len(parts) != 3:
        return None
    try:
        claims = from_json(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        expires = claims["exp"]
        return None if isinstance(expires, bool) else datetime.fromtimestamp(expires, UTC)
    except (ValueError, TypeError, KeyError, OverflowError, OSError):
        return None


def frames_of(body: bytes) -> list[JSON]:
    """The JSON of each event of a stream, or of a whole answer."""
    try:
        payloads = [data for _, data in SSEDecoder().feed(body + b"\n\n")] or [body]
    except MalformedChunkError:
        return []
    frames = []
    for payload in payloads:
        try:
            frame = from_json(payload)
        except ValueError:
            continue
        if isinstance(frame, dict):
            frames.append(frame)
    return frames


def era_of(frames: list[JSON]) -> str | None:
    """Which versions of vLLM answer like this, by the fields that they have."""
    for frame in frames:
        if found := re.match(r"vllm-(\d+\.\d+\.\d+)", str(frame.get("system_fingerprint"))):
            return found[1]
    keys = {key for delta in deltas_of(frames) for key, value in delta.items() if value}
    if {"reasoning", "reasoning_content"} <= keys:
        return "0.11.1 to 0.15"
    if "reasoning" in keys:
        return "0.16 or newer"
    if "reasoning_content" in keys:
        newer = any("token_ids" in choice for choice in _choices_of(frames))
        return "0.10 or 0.11.0" if newer else "0.9"
    return None


def deltas_of(frames: list[JSON]) -> list[JSON]:
    """What each frame says, of all choices."""
    said = [choice.get("delta") or choice.get("message") for choice in _choices_of(frames)]
    return [delta for delta in said if isinstance(delta, dict)]


def _choices_of(frames: list[JSON]) -> list[JSON]:
    """The choices of all frames, without what is none."""
    lists = [choices for frame in frames if isinstance(choices := frame.get("choices"), list)]
    return [choice for choices in lists for choice in choices if isinstance(choice, dict)]
