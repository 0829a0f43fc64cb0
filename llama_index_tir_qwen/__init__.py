"""Qwen3-32B on E2E Networks' TIR as a LlamaIndex LLM: `TIRQwen`."""

try:
    import llama_index.core  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("llama_index", "llama_index.core"):
        raise
    raise ModuleNotFoundError(
        'llama_index_tir_qwen needs llama-index-core: pip install "tir-qwen[llama-index]"', name="llama_index"
    ) from None

from .base import TIRQwen

__all__ = ["TIRQwen"]
