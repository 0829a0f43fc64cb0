"""Models on E2E Networks' TIR for LlamaIndex: the LLM `TIRQwen`, and the embedding model `TIREmbedding`."""

from typing import TYPE_CHECKING

try:
    import llama_index.core  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("llama_index", "llama_index.core"):
        raise
    raise ModuleNotFoundError(
        "llama_index_tir_qwen needs llama-index-core: pip install llama-index-core", name="llama_index"
    ) from None

from .base import TIRQwen

if TYPE_CHECKING:
    from .embeddings import TIREmbedding

__all__ = ["TIREmbedding", "TIRQwen"]


def __getattr__(name: str) -> object:
    """Import `TIREmbedding` when it is used, so that programs that only chat start faster."""
    if name != "TIREmbedding":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .embeddings import TIREmbedding  # noqa: PLC0415

    globals()[name] = TIREmbedding
    return TIREmbedding
