"""The model's own tokenizer, without the transformers library."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError


def read_token_ids(tokenizer_file: str | None, text: str) -> list[int]:
    """Return the token ids of `text`, using a `tokenizer.json` such as that of Qwen3-32B's repository.

    Raises:
        ConfigurationError: The file is not set or unreadable, or the library `tokenizers` is not installed.
    """
    if tokenizer_file is None:
        raise ConfigurationError("token ids need a tokenizer: pass tokenizer_file=... (Qwen3-32B's tokenizer.json).")
    ids: list[int] = _load(Path(tokenizer_file)).encode(text, add_special_tokens=False).ids
    return ids


@cache
def _load(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - optional
    except ModuleNotFoundError:
        raise ConfigurationError("tokenizer_file needs the library tokenizers: pip install tokenizers") from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exceptions
        raise ConfigurationError(f"tokenizer_file cannot be read: {error}") from None
