"""Qwen3-32B on E2E Networks' TIR as a LangChain chat model: `ChatTIRQwen`."""

try:
    import langchain_core  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "langchain_core":
        raise
    raise ModuleNotFoundError(
        'langchain_tir_qwen needs langchain-core: pip install "tir-qwen[langchain]"', name="langchain_core"
    ) from None

from .chat_models import ChatTIRQwen

__all__ = ["ChatTIRQwen"]
