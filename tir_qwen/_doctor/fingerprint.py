"""What the server's answers reveal about its version, and the access token about its expiry."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime

from pydantic_core import from_json

from .._response.sse import SSEDecoder
from ..errors import MalformedChunkError
from ..types import JSON


def token_expiry(token: str | None) -> datetime | None:
    """Return when the token expires; None unless it is a JWT with an expiry date."""
    parts = (token or "").split(".")
    if len(parts) != 3:
        return None
    try:
        claims = from_json(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        expires = claims["exp"]
        return None if isinstance(expires, bool) else datetime.fromtimestamp(expires, UTC)
    except (ValueError, TypeError, KeyError, OverflowError, OSError):
        return None


def parse_frames(body: bytes) -> list[JSON]:
    """Return the JSON objects of a stream's events, or of a non-streaming response."""
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


def guess_vllm_version(frames: list[JSON]) -> str | None:
    """Guess the version of vLLM from the fields of its answer; None if they are not those of vLLM.

    Every choice of vLLM's streams has `logprobs`, even if it is null. Those of llama.cpp, LiteLLM and transformers have
    not, whose reasoning comes in the same fields.
    """
    for frame in frames:
        if found := re.match(r"vllm-(\d+\.\d+\.\d+)", str(frame.get("system_fingerprint"))):
            return found[1]
    if not any("logprobs" in choice for choice in _extract_choices(frames)):
        return None
    keys = {key for delta in extract_deltas(frames) for key, value in delta.items() if value}
    if {"reasoning", "reasoning_content"} <= keys:
        return "0.11.1 to 0.15"
    if "reasoning" in keys:
        return "0.16 or newer"
    if "reasoning_content" in keys:
        newer = any("token_ids" in choice for choice in _extract_choices(frames))
        return "0.10 or 0.11.0" if newer else "0.9"
    return None


def extract_deltas(frames: list[JSON]) -> list[JSON]:
    """Return the deltas or messages of all choices."""
    deltas = [choice.get("delta") or choice.get("message") for choice in _extract_choices(frames)]
    return [delta for delta in deltas if isinstance(delta, dict)]


def _extract_choices(frames: list[JSON]) -> list[JSON]:
    """Return the choices of all frames, skipping what is malformed."""
    lists = [choices for frame in frames if isinstance(choices := frame.get("choices"), list)]
    return [choice for choices in lists for choice in choices if isinstance(choice, dict)]
