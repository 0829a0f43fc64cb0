"""Models on E2E Networks' TIR for LangChain: the chat model `ChatTIRQwen`, and `TIREmbeddings`."""

from typing import TYPE_CHECKING

try:
    import langchain_core  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "langchain_core":
        raise
    raise ModuleNotFoundError(
        "langchain_tir_qwen needs langchain-core: pip install langchain-core", name="langchain_core"
    ) from None

from .chat_models import ChatTIRQwen

if TYPE_CHECKING:
    from .embeddings import TIREmbeddings

__all__ = ["ChatTIRQwen", "TIREmbeddings"]


def __getattr__(name: str) -> object:
    """Import `TIREmbeddings` when it is used, so that programs that only chat start faster."""
    if name != "TIREmbeddings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .embeddings import TIREmbeddings  # noqa: PLC0415

    globals()[name] = TIREmbeddings
    return TIREmbeddings
