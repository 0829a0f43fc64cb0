"""Framework-free clients for Qwen3-32B on E2E Networks' TIR, or for any OpenAI-compatible vLLM server.

`Client` and `AsyncClient` return a `Completion`, a stream of `Delta`s, or `Embeddings`, and raise subclasses of
`TIRError`. The models of `langchain_tir_qwen` and `llama_index_tir_qwen` are built on them, and raise the same errors.
"""

from ._client.client import AsyncClient, Client
from .errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ContextOverflowError,
    InternalServerError,
    MalformedChunkError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerStreamError,
    StreamError,
    StreamInterruptedError,
    TIRError,
)
from .timeouts import Timeout
from .types import Choice, Completion, Delta, Embeddings, ToolCall, ToolCallDelta, Usage

__version__ = "0.1.0"

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AuthenticationError",
    "BadRequestError",
    "Choice",
    "Client",
    "Completion",
    "ConfigurationError",
    "ContextOverflowError",
    "Delta",
    "Embeddings",
    "InternalServerError",
    "MalformedChunkError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "ServerStreamError",
    "StreamError",
    "StreamInterruptedError",
    "TIRError",
    "Timeout",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
]
