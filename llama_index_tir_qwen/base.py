"""`TIRQwen`: Qwen3-32B on E2E Networks' TIR as a LlamaIndex LLM."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms.custom import CustomLLM
from pydantic import AliasChoices, ConfigDict, Field

from tir_qwen._integrations import (
    CONTEXT_WINDOW,
    DEFAULT_NUM_OUTPUT,
    CallParameters,
    ExtraBody,
    ModelSettings,
    aclosing_unhooked,
    construct,
    read_token_ids,
)

from ._messages import (
    completion_from_response,
    messages_to_wire,
    response_from_completion,
)
from ._stream import ResponseStream
from ._structured_output import StructuredPrediction

if TYPE_CHECKING:  # core's decorators are untyped: mypy would treat decorated methods as Any
    Method = TypeVar("Method", bound=Callable[..., Any])

    def llm_chat_callback() -> Callable[[Method], Method]:
        """Core's decorator."""

    def llm_completion_callback() -> Callable[[Method], Method]:
        """Core's decorator."""
else:
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback


class TIRQwen(CustomLLM, StructuredPrediction, ModelSettings):
    """Qwen3-32B on E2E Networks' TIR, or any model on an OpenAI-compatible vLLM.

    An answer's text never contains the reasoning; it is a `ThinkingBlock` of the message, and streams as
    `response.additional_kwargs["thinking_delta"]`. One instance can be shared by any number of threads, tasks and event
    loops.

    ```python
    from llama_index.core.llms import ChatMessage
    from llama_index_tir_qwen import TIRQwen

    llm = TIRQwen(project_id=6530, api_key="...", max_tokens=4096)

    response = llm.chat([ChatMessage("What is the capital of France?")])
    print(response.message.content)
    print(response.additional_kwargs["completion_tokens"])

    for response in llm.stream_complete("What is the capital of France?", temperature=0.2):
        print(response.delta, end="")
    ```

    Unset parameters are not sent, so the server's defaults apply. `model`, the sampling parameters, `enable_thinking`,
    `tool_calling`, `timeout` and `max_retries` can also be passed to a call, as above; these take precedence over the
    constructor's. Calls also accept the other fields of vLLM's and OpenAI's requests by name; any further fields go
    through `extra_body`. An unknown name is an error.

    Raises:
        ConfigurationError: An argument is unknown, missing or malformed; nothing was sent.
        TIRError: (when called) See `tir_qwen.TIRError`.
    """

    # A plain string: core's `to_json` cannot serialize a SecretStr, and pickling one would lose the token.
    api_key: str | None = Field(
        default_factory=lambda: os.environ.get("E2E_TIR_ACCESS_TOKEN"),
        validation_alias=AliasChoices("api_key", "access_token"),
        repr=False,
        exclude=True,
    )
    """Auth Token of the project, also as `access_token`; environment `E2E_TIR_ACCESS_TOKEN`. Not needed with a complete
    base URL on this machine."""
    api_base: str | None = Field(
        default_factory=lambda: os.environ.get("E2E_TIR_BASE_URL"),
        validation_alias=AliasChoices("api_base", "base_url"),
        repr=False,
        exclude=True,
    )
    """A complete base URL, including the path (a dedicated endpoint, a local vLLM), or only a host; also as `base_url`;
    environment `E2E_TIR_BASE_URL`, or `MODEL_API_CLIENT_HOST` for a host. Default: `https://infer.e2enetworks.net`."""
    system_prompt: str | None = Field(default=None, repr=False)
    """Precedes prompts made by core (predictions, structured predictions, queries), but not chat messages."""
    context_window: int = Field(default=CONTEXT_WINDOW, gt=0)
    """Maximum number of tokens of the prompt and the answer together, to which core fits prompts. `tir-qwen doctor`
    reports the endpoint's."""
    additional_kwargs: ExtraBody = Field(default_factory=dict)
    """Further fields of the request body, such as `{"min_tokens": 5}`; they take precedence over all others."""
    tokenizer_file: str | None = None
    """Path of Qwen3-32B's `tokenizer.json`, for `get_token_ids`; requires the optional library `tokenizers`."""
    http_client: Any = Field(default=None, repr=False, exclude=True)
    """A client of httpx or httpx2 for synchronous calls, with its own connection pool; never closed or pickled."""
    async_http_client: Any = Field(default=None, repr=False, exclude=True)
    """An `AsyncClient` of httpx or httpx2 for asynchronous calls."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True, defer_build=False)

    if not TYPE_CHECKING:  # type checkers derive the signature from the fields

        def __init__(self, **kwargs: Any) -> None:
            kwargs.pop("class_name", None)  # core adds it to every dump
            for name in ("is_chat_model", "is_function_calling_model"):  # settings of OpenAILike
                if kwargs.get(name) is True:
                    del kwargs[name]
            construct(self, super().__init__, kwargs)

    def _client_settings(self) -> dict[str, Any]:
        return {**super()._client_settings(), "access_token": self.api_key, "base_url": self.api_base}

    def _own_http_clients(self) -> tuple[Any, Any]:
        return self.http_client, self.async_http_client

    @classmethod
    def class_name(cls) -> str:
        """The name under which core serializes the class."""
        return "TIRQwen"

    @property
    def metadata(self) -> LLMMetadata:
        """Facts that core uses for prompts and agents; `num_output` is `max_tokens`, or 4,096 if that is unset."""
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.max_tokens or DEFAULT_NUM_OUTPUT,
            is_chat_model=True,
            is_function_calling_model=True,
            model_name=self.model,
        )

    def get_token_ids(self, text: str) -> list[int]:
        """Return the token ids of `text`, using `tokenizer_file`.

        Core counts the tokens of every LLM with a global tokenizer, that of GPT-3.5. To replace it:
        `Settings.tokenizer = llm.get_token_ids`.

        Raises:
            ConfigurationError: `tokenizer_file` is unset or unreadable, or the library `tokenizers` is not installed.
        """
        return read_token_ids(self.tokenizer_file, text)

    @llm_chat_callback()
    def chat(  # type: ignore[override]
        self, messages: Sequence[ChatMessage], **kwargs: Unpack[CallParameters]
    ) -> ChatResponse:
        """Answer a conversation.

        The message has a `ThinkingBlock` if the model reasoned, a `TextBlock`, and a `ToolCallBlock` for each tool
        call. The response's `additional_kwargs` contain `prompt_tokens`, `completion_tokens` and `total_tokens`; its
        `raw` is the response in wire format, with all answers if `n` is more than 1.

        Args:
            messages: The conversation.
            **kwargs: Parameters of this call, named as in the constructor or in the API; further fields of the request
                body go through `extra_body`.

        Raises:
            TIRError: See `tir_qwen.TIRError`.
        """
        return self._chat(messages, kwargs)

    @llm_chat_callback()
    def stream_chat(  # type: ignore[override]
        self, messages: Sequence[ChatMessage], **kwargs: Unpack[CallParameters]
    ) -> ChatResponseGen:
        """Stream the answer to a conversation; each response contains the message so far.

        `delta` is the next part of the answer, and `additional_kwargs["thinking_delta"]` that of the reasoning. The
        last response has an empty `delta`, the token counts, and the complete `raw`, like that of `chat`.
        """
        return self._stream_chat(messages, kwargs)

    @llm_chat_callback()
    async def achat(  # type: ignore[override]
        self, messages: Sequence[ChatMessage], **kwargs: Unpack[CallParameters]
    ) -> ChatResponse:
        """Answer a conversation asynchronously; see `chat`."""
        return await self._achat(messages, kwargs)

    @llm_chat_callback()
    async def astream_chat(  # type: ignore[override]
        self, messages: Sequence[ChatMessage], **kwargs: Unpack[CallParameters]
    ) -> ChatResponseAsyncGen:
        """Stream the answer to a conversation, asynchronously; see `stream_chat`."""
        return self._astream_chat(messages, kwargs)

    # Completions and chats share private methods: calling `chat` would emit two events per call.

    @llm_completion_callback()
    def complete(  # type: ignore[override]
        self, prompt: str, formatted: bool = False, **kwargs: Unpack[CallParameters]
    ) -> CompletionResponse:
        """Answer a prompt, sent as a single user message; the reasoning is in `additional_kwargs["thinking"]`.

        Args:
            prompt: The text. If `completion_to_prompt` is set, it is applied to the text.
            formatted: Whether that has already been done.
            **kwargs: Parameters of this call, as for `chat`.
        """
        return completion_from_response(self._chat(self._as_chat(prompt, formatted), kwargs))

    @llm_completion_callback()
    def stream_complete(  # type: ignore[override]
        self, prompt: str, formatted: bool = False, **kwargs: Unpack[CallParameters]
    ) -> CompletionResponseGen:
        """Stream the answer to a prompt, like `stream_chat`; `text` is the answer so far."""
        responses = self._stream_chat(self._as_chat(prompt, formatted), kwargs)

        def completions() -> CompletionResponseGen:
            with closing(responses):
                for response in responses:
                    yield completion_from_response(response)

        return completions()

    @llm_completion_callback()
    async def acomplete(  # type: ignore[override]
        self, prompt: str, formatted: bool = False, **kwargs: Unpack[CallParameters]
    ) -> CompletionResponse:
        """Answer a prompt asynchronously; see `complete`."""
        return completion_from_response(await self._achat(self._as_chat(prompt, formatted), kwargs))

    @llm_completion_callback()
    async def astream_complete(  # type: ignore[override]
        self, prompt: str, formatted: bool = False, **kwargs: Unpack[CallParameters]
    ) -> CompletionResponseAsyncGen:
        """Stream the answer to a prompt, asynchronously; see `stream_complete`."""
        responses = self._astream_chat(self._as_chat(prompt, formatted), kwargs)

        async def completions() -> CompletionResponseAsyncGen:
            async with aclosing_unhooked(responses) as nested_responses:
                async for response in nested_responses:
                    yield completion_from_response(response)

        return completions()

    def _chat(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> ChatResponse:
        return response_from_completion(self._client.complete(messages_to_wire(messages), **self._params(kwargs)))

    async def _achat(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> ChatResponse:
        completion = await self._async_client.complete(messages_to_wire(messages), **self._params(kwargs))
        return response_from_completion(completion)

    def _stream_chat(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> ChatResponseGen:
        responses = ResponseStream()
        with closing(self._client.stream(messages_to_wire(messages), **self._params(kwargs, stream=True))) as deltas:
            for delta in deltas:
                yield responses.add(delta)

    async def _astream_chat(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> ChatResponseAsyncGen:
        responses = ResponseStream()
        params = self._params(kwargs, stream=True)
        async with aclosing_unhooked(self._async_client.stream(messages_to_wire(messages), **params)) as deltas:
            async for delta in deltas:
                yield responses.add(delta)

    def _as_chat(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        if not formatted and self.completion_to_prompt is not None:
            prompt = self.completion_to_prompt(prompt)
        return [ChatMessage(prompt)]

    def _params(self, kwargs: Mapping[str, Any], *, stream: bool = False) -> dict[str, Any]:
        """Return the parameters of a call; its own take precedence over the constructor's."""
        if _are_for_anthropic(kwargs.get("extra_headers")):
            kwargs = {name: value for name, value in kwargs.items() if name != "extra_headers"}
        return self._merge_call_params(kwargs, self.additional_kwargs, stream=stream)


def _are_for_anthropic(headers: Any) -> bool:
    """Whether these are the headers that core's `DocumentContextExtractor` passes to every LLM."""
    return (
        isinstance(headers, Mapping) and bool(headers) and all(str(name).startswith("anthropic-") for name in headers)
    )
