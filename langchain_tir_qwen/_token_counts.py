"""Local token counting, without the transformers library that LangChain's default requires."""

from __future__ import annotations

from math import ceil

BYTES_PER_TOKEN = 3.5
"""A conservative estimate for Qwen's tokenizer: English prose has 4.5 bytes per token, code and Hindi 3.5."""
TOKENS_PER_MESSAGE = 5
"""Tokens that the chat template adds to a message: `<|im_start|>role\\n` and `<|im_end|>\\n`."""


def estimate_tokens(text: str) -> int:
    """Estimate the number of tokens of `text`, erring on the high side."""
    return ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)
