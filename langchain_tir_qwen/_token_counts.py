"""Token counts without a request, and without transformers (which LangChain's own default wants)."""

from __future__ import annotations

from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

from tir_qwen import ConfigurationError

BYTES_PER_TOKEN = 3.5
"""A cautious estimate for Qwen's tokenizer: English prose has some 4.5 bytes a token, code and Hindi some 3.5."""
TOKENS_PER_MESSAGE = 5
"""What the chat template puts around a message: `<|im_start|>role\\n` and `<|im_end|>\\n`."""


def estimate(text: str) -> int:
    """About how many tokens `text` has, rather too many than too few."""
    return ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)


@cache
def load(path: Path) -> Any:
    """The tokenizer of a `tokenizer.json` (of Qwen3-32B's repository, say), by the optional library `tokenizers`."""
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - optional
    except ModuleNotFoundError:
        raise ConfigurationError("tokenizer_file needs the library tokenizers: pip install tokenizers") from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exceptions
        raise ConfigurationError(f"tokenizer_file cannot be read: {error}") from None
