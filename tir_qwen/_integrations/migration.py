"""Hints for constructor arguments of other integrations: those of OpenAI, OpenAILike and ChatQwen."""

from __future__ import annotations

from collections.abc import Container

from .._client.parameters import CallParameters, OptionParameters

_USE = {
    "azure_endpoint": "base_url",
    "dashscope_api_key": "api_key",
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "model_name": "model",
    "openai_api_base": "base_url",
    "openai_api_key": "api_key",
    "request_timeout": "timeout",
    "stop_sequences": "stop",
    "stream_chunk_timeout": "timeout=tir_qwen.Timeout(between_deltas=...)",
    "text_instruction": "document_instruction",
    "thinking": "enable_thinking=True, or thinking_budget=...",
    "tiktoken_model_name": "tokenizer_file",
    "token": "access_token",
    "tokenizer": "tokenizer_file",
}
_BODY_FIELDS = CallParameters.__annotations__.keys() - OptionParameters.__annotations__.keys()
_OF_A_CALL = frozenset({"parallel_tool_calls", "response_format", "tool_choice", "tools"})
_EXTRA_BODY = _BODY_FIELDS | {"additional_kwargs", "model_kwargs"}
_PROXY = "set HTTPS_PROXY, or pass an HTTP client that has a proxy as http_client"
_VERIFY = "set SSL_CERT_FILE, or pass an HTTP client with a context of its own as http_client"
_DELETE = {
    "api_version": "the version is part of base_url",
    "audio_config": "Qwen3-32B accepts text only",
    "check_embedding_ctx_length": "text is sent as it is, never as token ids",
    "default_query": "add it to base_url, as in https://host/v1?key=value",
    "disabled_params": "parameters that are not set are not sent",
    "http_proxy": _PROXY,
    "http_socket_options": "pass an HTTP client that has them as http_client",
    "include": "it is part of OpenAI's Responses API",
    "include_response_headers": "the response's metadata are in each answer",
    "is_chat_model": "it is always True",
    "is_function_calling_model": "it is always True",
    "modalities": "Qwen3-32B accepts text only",
    "openai_organization": "TIR has projects: use project_id",
    "openai_proxy": _PROXY,
    "organization": "TIR has projects: use project_id",
    "proxies": _PROXY,
    "proxy": _PROXY,
    "reasoning": "use enable_thinking",
    "reasoning_effort": "use enable_thinking; with a model other than Qwen3, it is a further field of the request body",
    "reuse_client": "connections are always reused, safely",
    "service_tier": "TIR has none",
    "should_use_structured_outputs": "structured output is always used, if the server supports it",
    "store": "TIR stores no answers",
    "strict": "the server enforces schemas strictly",
    "truncation": "it is part of OpenAI's Responses API",
    "use_previous_response_id": "it is part of OpenAI's Responses API",
    "use_responses_api": "the chat completions API is always used",
    "verbosity": "Qwen3-32B has none",
    "verify": _VERIFY,
}


def migration_hint(name: str, known: Container[str]) -> str | None:
    """Return what to do about an argument of another integration; None if it is not known.

    Args:
        name: The argument.
        known: The names and aliases of the arguments that are accepted.
    """
    if name in _USE and _USE[name].partition("=")[0] in known:
        return f"use {_USE[name]}"
    if name in _DELETE:
        return f"delete it: {_DELETE[name]}"
    if name in _OF_A_CALL:
        return "it is an argument of a call"
    if name in _EXTRA_BODY and "temperature" in known:  # a chat model
        return f"use {'extra_body' if 'extra_body' in known else 'additional_kwargs'}"
    return None
