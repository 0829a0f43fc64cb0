"""Facts about Qwen3-32B.

Source: https://huggingface.co/Qwen/Qwen3-32B (context, sampling, switches).
"""

from __future__ import annotations

CONTEXT_WINDOW = 32_768
"""Tokens of prompt and answer together, natively; some deployments allow 40,960, or 131,072 by YaRN."""

MAX_OUTPUT_TOKENS = 32_768
"""Tokens of reasoning and answer that the model's authors recommend to allow."""

DEFAULT_NUM_OUTPUT = 4_096
"""Tokens to set aside for the answer where a framework has to plan a prompt and `max_tokens` is unset."""
