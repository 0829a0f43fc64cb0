"""Facts about Qwen3-32B.

Source: https://huggingface.co/Qwen/Qwen3-32B (context window and output length).
"""

from __future__ import annotations

CONTEXT_WINDOW = 32_768
"""Tokens of the prompt and the answer together; some deployments allow 40,960, or 131,072 with YaRN."""

MAX_OUTPUT_TOKENS = 32_768
"""Tokens of the reasoning and the answer, as recommended by the model's authors."""

DEFAULT_NUM_OUTPUT = 4_096
"""Tokens that a framework reserves for the answer when it plans a prompt and `max_tokens` is unset."""
