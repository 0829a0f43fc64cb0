"""Local token counting, without the transformers library that LangChain's default requires."""

from __future__ import annotations

from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

from tir_qwen import ConfigurationError

BYTES_PER_TOKEN = 3.5
"""A conservative estimate for Qwen's tokenizer: English prose has 4.5 bytes per token, code and Hindi 3.5."""
TOKENS_PER_MESSAGE = 5
"""Tokens that the chat template adds to a message: `<|im_start|>role\\n` and `<|im_end|>\\n`."""


def estimate_tokens(text: str) -> int:
    """Estimate the number of tokens of `text`, erring on the high side."""
    return ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)


@cache
def load_tokenizer(path: Path) -> Any:
    """Load a `tokenizer.json`, such as that of Qwen3-32B's repository, using the optional library `tokenizers`."""
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - optional
    except ModuleNotFoundError:
        raise ConfigurationError("tokenizer_file needs the library tokenizers: pip install tokenizers") from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exceptions
        raise ConfigurationError(f"tokenizer_file cannot be read: {error}") from None
