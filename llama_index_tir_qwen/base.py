"""`TIRQwen`: Qwen3-32B on E2E Networks' TIR as a LlamaIndex LLM."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.program.utils import get_program_for_llm
from llama_index.core.tools.types import BaseTool
from llama_index.core.types import PydanticProgramMode
from pydantic import AliasChoices, ConfigDict, Field, PrivateAttr

from tir_qwen import AsyncClient, Client, ConfigurationError
from tir_qwen.parameters import Parameters, validated
from tir_qwen.profile import CONTEXT_WINDOW, DEFAULT_NUM_OUTPUT

from .messages import (
    ResponseStream,
    completion_from_response,
    is_whole,
    messages_to_wire,
    response_from_completion,
    tool_choice_to_wire,
    with_first_call,
)

if TYPE_CHECKING:
    from llama_index.core.chat_engine.types import AgentChatResponse


class TIRQwen(CustomLLM, FunctionCallingLLM, Parameters):
    """Qwen3-32B on E2E Networks' TIR, or any model on an OpenAI-compatible vLLM.

    The reasoning never is in an answer's text; it is a `ThinkingBlock` of the message, and streams as
    `response.additional_kwargs["thinking_delta"]`. One instance serves any number of threads, tasks and event loops.

        llm = TIRQwen(project_id=6530, api_key="...")
        for response in llm.stream_complete("What is the capital of France?"):
            print(response.delta, end="")

    Parameters that are unset are not sent; all of them may be given at call time too, where they win.

    Raises:
        ConfigurationError: An argument is unknown, missing or malformed; nothing was sent.
    """

    # A plain string: core's `to_json` cannot write a SecretStr, and a pickle of one would lose the token.
    api_key: str | None = Field(
        default_factory=lambda: os.environ.get("E2E_TIR_ACCESS_TOKEN"),
        validation_alias=AliasChoices("api_key", "access_token"),
        repr=False,
        exclude=True,
    )
    """Auth Token of the project; environment `E2E_TIR_ACCESS_TOKEN`."""
    api_base: str | None = Field(
        default_factory=lambda: os.environ.get("E2E_TIR_BASE_URL"),
        validation_alias=AliasChoices("api_base", "base_url"),
        repr=False,
        exclude=True,
    )
    """A complete base URL (a dedicated endpoint, a local vLLM), or a host; environment `E2E_TIR_BASE_URL`."""
    context_window: int = Field(default=CONTEXT_WINDOW, gt=0)
    """Tokens of prompt and answer together that the endpoint allows."""
    additional_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the body, over all others."""
    http_client: Any = Field(default=None, repr=False, exclude=True)
    """A client of httpx or httpx2 to use for synchronous calls."""
    async_http_client: Any = Field(default=None, repr=False, exclude=True)
    """A client of httpx or httpx2 to use for asynchronous calls."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    _client: Client = PrivateAttr()
    _async_client: AsyncClient = PrivateAttr()

    if not TYPE_CHECKING:  # type checkers read the signature off the fields

        def __init__(self, **kwargs: Any) -> None:
            validated(type(self), lambda: super(TIRQwen, self).__init__(**kwargs))
            settings = {**self.client_settings(), "access_token": self.api_key, "base_url": self.api_base}
            self._client = Client(**settings, http_client=self.http_client)
            self._async_client = AsyncClient(**settings, http_client=self.async_http_client)

    @classmethod
    def class_name(cls) -> str:
        """The name under which core serializes the class."""
        return "TIRQwen"

    @property
    def metadata(self) -> LLMMetadata:
        """What core plans prompts and agents by."""
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.max_tokens or DEFAULT_NUM_OUTPUT,
            is_chat_model=True,
            is_function_calling_model=True,
            model_name=self.model,
        )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation."""
        return self._chat(messages, kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation in pieces; each response holds the message as far as it has come."""
        return self._stream_chat(messages, kwargs)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """As `chat`."""
        return await self._achat(messages, kwargs)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """As `stream_chat`."""
        return self._astream_chat(messages, kwargs)

    # The completions share the private methods with the chats: by way of `chat` there would be two events per call.

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, as the one message of a user."""
        return completion_from_response(self._chat(self._as_chat(prompt, formatted), kwargs))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer a prompt in pieces."""
        responses = self._stream_chat(self._as_chat(prompt, formatted), kwargs)

        def completions() -> CompletionResponseGen:
            with closing(responses):
                for response in responses:
                    yield completion_from_response(response)

        return completions()

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """As `complete`."""
        return completion_from_response(await self._achat(self._as_chat(prompt, formatted), kwargs))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """As `stream_complete`."""
        responses = self._astream_chat(self._as_chat(prompt, formatted), kwargs)

        async def completions() -> CompletionResponseAsyncGen:
            async with aclosing(responses):
                async for response in responses:
                    yield completion_from_response(response)

        return completions()

    def _chat(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> ChatResponse:
        return response_from_completion(self._client.complete(messages_to_wire(messages), **self._params(kwargs)))

    async def _achat(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> ChatResponse:
        completion = await self._async_client.complete(messages_to_wire(messages), **self._params(kwargs))
        return response_from_completion(completion)

    def _stream_chat(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> ChatResponseGen:
        responses = ResponseStream()
        with closing(self._client.stream(messages_to_wire(messages), **self._stream_params(kwargs))) as deltas:
            for delta in deltas:
                yield responses.add(delta)

    async def _astream_chat(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> ChatResponseAsyncGen:
        responses = ResponseStream()
        params = self._stream_params(kwargs)
        async with aclosing(self._async_client.stream(messages_to_wire(messages), **params)) as deltas:
            async for delta in deltas:
                yield responses.add(delta)

    def _as_chat(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        if not formatted and self.completion_to_prompt is not None:
            prompt = self.completion_to_prompt(prompt)
        return [ChatMessage(prompt)]

    def _params(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of one call: what it says, then what the constructor said."""
        params = {**self.call_params(), **kwargs}
        if self.additional_kwargs:
            own = {name: value for name, value in self.additional_kwargs.items() if name not in kwargs}
            params["extra_body"] = {**own, **(kwargs.get("extra_body") or {})}
        if self.tool_calling == "prompted" and params.get("tools"):
            raise ConfigurationError('tool_calling="prompted" is not available in this version.')
        return params

    def _stream_params(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        params = self._params(kwargs)
        if (params.get("n") or 1) > 1:
            raise ConfigurationError("n must be 1 for a stream: a response holds one message.")
        return params

    def _prepare_chat_with_tools(  # noqa: PLR0917 - core's signature
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of a chat that offers `tools`."""
        messages = list(chat_history or [])
        if user_msg is not None:
            messages.append(ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg)
        offered = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
        if offered:
            kwargs["tools"] = offered
            kwargs["tool_choice"] = tool_choice_to_wire(tool_choice, required=tool_required)
            kwargs["parallel_tool_calls"] = allow_parallel_tool_calls
        return {"messages": messages, **kwargs}

    def _validate_chat_with_tools_response(
        self, response: ChatResponse, tools: Sequence[BaseTool], allow_parallel_tool_calls: bool = False, **kwargs: Any
    ) -> ChatResponse:
        """Keep the first call alone where parallel ones are not allowed: the server does not hold to it."""
        return response if allow_parallel_tool_calls else with_first_call(response)

    # Core asks for the object of a structured prediction by a tool. It forgets to require the tool in streams, and the
    # system prompt in `astructured_predict`.

    def _structured_stream_call(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        return self._program(output_cls, prompt).stream_call(llm_kwargs=llm_kwargs, **prompt_args)

    async def _structured_astream_call(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        return await self._program(output_cls, prompt).astream_call(llm_kwargs=llm_kwargs, **prompt_args)

    def _program(self, output_cls: Any, prompt: Any) -> Any:
        mode = self.pydantic_program_mode
        by_tool = mode in (PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION)
        required = {"tool_choice": "required"} if by_tool else {}
        return get_program_for_llm(output_cls, prompt, self, pydantic_program_mode=mode, **required)

    async def apredict_and_call(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> AgentChatResponse:
        """As core's, with the system prompt where the history does not begin with one."""
        if chat_history and chat_history[0].role != MessageRole.SYSTEM:
            chat_history = list(self._extend_messages(chat_history))
        return await super().apredict_and_call(tools, user_msg, chat_history, *args, **kwargs)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tool calls of an answer. While it streams, a call has no arguments until they are whole.

        Raises:
            ValueError: There is no call, and `error_on_no_tool_call` is set; or the answer is whole, and the arguments
                of a call are not a JSON object.
        """
        blocks = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        if not blocks and error_on_no_tool_call:
            raise ValueError(f"Expected at least one tool call, but got {len(blocks)}.")
        for block in blocks:
            if isinstance(block.tool_kwargs, str) and is_whole(response):
                raise ValueError(
                    f"The arguments of the call of {block.tool_name!r} are not a JSON object (cut by max_tokens?)."
                )
        return [
            ToolSelection(
                tool_id=block.tool_call_id or "",
                tool_name=block.tool_name,
                tool_kwargs=block.tool_kwargs if isinstance(block.tool_kwargs, dict) else {},
            )
            for block in blocks
        ]
