"""The model profile of Qwen3-32B, which tells agents and middleware what it supports."""

from __future__ import annotations

from langchain_core.language_models.model_profile import ModelProfile

from tir_qwen._integrations import CONTEXT_WINDOW, MAX_OUTPUT_TOKENS

_PROFILE: ModelProfile = {
    "name": "Qwen3 32B",
    "release_date": "2025-04-28",
    "open_weights": True,
    "max_input_tokens": CONTEXT_WINDOW,
    "max_output_tokens": MAX_OUTPUT_TOKENS,
    "text_inputs": True,
    "image_inputs": False,
    "audio_inputs": False,
    "video_inputs": False,
    "pdf_inputs": False,
    "text_outputs": True,
    "image_outputs": False,
    "audio_outputs": False,
    "video_outputs": False,
    "reasoning_output": True,
    "tool_calling": True,
    "tool_choice": True,
    "tool_call_streaming": True,
    "structured_output": True,
    "attachment": False,
    "temperature": True,
}


def model_profile(model: str) -> ModelProfile | None:
    """Return the profile of `model`; None unless it is Qwen3-32B."""
    name = model.lower().replace("-", "_")
    return _PROFILE.copy() if "qwen3_32b" in name else None
