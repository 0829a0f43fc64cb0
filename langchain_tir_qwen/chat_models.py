"""`ChatTIRQwen`: Qwen3-32B on E2E Networks' TIR as a LangChain chat model."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import AliasChoices, ConfigDict, Field, model_validator
from pydantic_core import to_json

from tir_qwen import __version__
from tir_qwen._integrations import (
    CallParameters,
    ExtraBody,
    ModelSettings,
    aclosing_unhooked,
    add_usage,
    construct,
    read_token_ids,
)

from ._content_blocks import PROVIDER
from ._error_conversion import raises_langchain_errors
from ._messages import chunk_from_delta, messages_to_wire, result_from_completion, tool_choice_to_wire
from ._profile import model_profile
from ._retry_callbacks import async_retry_reporter, retry_reporter
from ._token import Token, plain_token, secret_from_env
from ._token_counts import TOKENS_PER_MESSAGE, estimate_tokens
from ._tool_calls import ToolCallChunks

if TYPE_CHECKING:  # not loaded by programs without tools
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import BaseTool

    class LangChainCallParameters(CallParameters, total=False):
        """The parameters of a call."""

        stream_usage: bool
        """Whether to request token counts for this stream."""

else:
    BaseTool = Any  # LangChain's fallbacks evaluate the annotations of `bind_tools`


class ChatTIRQwen(BaseChatModel, ModelSettings):
    """Qwen3-32B on E2E Networks' TIR, or any model on an OpenAI-compatible vLLM.

    An answer's `content` never contains the reasoning; it is in `additional_kwargs["reasoning_content"]` and, as a
    `reasoning` block, in `content_blocks`. One instance can be shared by any number of threads, tasks and event loops.

    ```python
    from langchain_tir_qwen import ChatTIRQwen

    model = ChatTIRQwen(project_id=6530, access_token="...", max_tokens=4096)

    message = model.invoke("What is the capital of France?")
    print(message.content)
    print(message.additional_kwargs["reasoning_content"])
    print(message.usage_metadata["output_tokens"])
    print(message.response_metadata["finish_reason"])

    for chunk in model.stream("What is the capital of France?", temperature=0.2):
        print(chunk.content, end="")
    ```

    Unset parameters are not sent, so the server's defaults apply. `model`, the sampling parameters, `enable_thinking`,
    `tool_calling`, `timeout` and `max_retries` can also be passed to a call, as above, or to `bind`; these take
    precedence over the constructor's. Calls also accept the other fields of vLLM's and OpenAI's requests by name; any
    further fields go through `extra_body`. An unknown name is an error.

    Raises:
        ConfigurationError: An argument is unknown, missing or malformed; nothing was sent.
        TIRError: (when called) See `tir_qwen.TIRError`. Each is also an exception of `langchain_core.exceptions`: a
            `tir_qwen.RateLimitError` is a `ModelRateLimitError`, for example.
    """

    access_token: Token | None = Field(
        default_factory=lambda: secret_from_env("E2E_TIR_ACCESS_TOKEN"),
        validation_alias=AliasChoices("access_token", "api_key", "tir_access_token"),
        exclude=True,
    )
    """Auth Token of the project, also as `api_key`; environment `E2E_TIR_ACCESS_TOKEN`. Not needed with a complete base
    URL on this machine."""
    base_url: str | None = Field(
        default_factory=lambda: os.environ.get("E2E_TIR_BASE_URL"),
        validation_alias=AliasChoices("base_url", "api_base"),
        repr=False,
        exclude=True,
    )
    """A complete base URL, including the path (a dedicated endpoint, a local vLLM), or only a host; also as `api_base`;
    environment `E2E_TIR_BASE_URL`, or `MODEL_API_CLIENT_HOST` for a host. Default: `https://infer.e2enetworks.net`."""
    streaming: bool = False
    """Whether `invoke` streams too, so that callbacks receive tokens; unset: LangChain decides."""
    stream_usage: bool = True
    """Whether to request token counts for streams; they are in the last chunk's `usage_metadata`."""
    retry_tool_calls: bool = True
    """Whether to send a second request if all tool calls of an answer are invalid, since LangChain's agents would end
    there. It tells the model what is wrong with the calls, or repeats the request without streaming if the stream may
    have lost a part of a call."""
    extra_body: ExtraBody = None
    """Further fields of the request body, such as `{"min_tokens": 5}`; they take precedence over all others."""
    tokenizer_file: str | None = None
    """Path of Qwen3-32B's `tokenizer.json`, for exact token counts; requires the optional library `tokenizers`."""
    http_client: Any = Field(default=None, repr=False, exclude=True)
    """A client of httpx or httpx2 for synchronous calls, with its own connection pool; never closed or pickled."""
    http_async_client: Any = Field(default=None, repr=False, exclude=True)
    """An `AsyncClient` of httpx or httpx2 for asynchronous calls."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True, defer_build=False)

    if not TYPE_CHECKING:  # type checkers derive the signature from the fields

        def __init__(self, **kwargs: Any) -> None:
            construct(self, super().__init__, kwargs)

    __repr_args__ = ModelSettings.__repr_args__  # core's leaves out the model's name if it is the default

    @model_validator(mode="after")
    def _set_tir_qwen_version(self) -> Self:
        self._add_version("tir-qwen", __version__)
        return self

    def _client_settings(self) -> dict[str, Any]:
        token = plain_token(self.access_token)
        return {**super()._client_settings(), "access_token": token, "base_url": self.base_url}

    def _own_http_clients(self) -> tuple[Any, Any]:
        return self.http_client, self.http_async_client

    @property
    def _llm_type(self) -> str:
        return "tir-qwen"

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The arguments that are serialized as names of environment variables."""
        return {"access_token": "E2E_TIR_ACCESS_TOKEN"}

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """The settings that influence an answer, without secrets; used as a cache key and shown in traces."""
        params = {"endpoint": self._client.endpoint, **self._default_call_params()}
        for name in ("timeout", "max_retries"):
            params.pop(name, None)
        if "stop" in params:  # LangChain uses this name for the argument of a call
            params["stop_by_default"] = params.pop("stop")
        return {**params, "extra_body": self.extra_body} if self.extra_body else params

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
        """Return the token counts of all prompts together; streams and cached answers have none here."""
        outputs = [output for output in llm_outputs if output]
        if not outputs:
            return {}
        usage = reduce(add_usage, (output["token_usage"] for output in outputs))
        return {"token_usage": usage, "model_name": outputs[0]["model_name"]}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = PROVIDER
        if not stop and self.stop:
            params["ls_stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        return params

    if TYPE_CHECKING:  # core's signatures, with the parameters of a call instead of Any

        def invoke(  # type: ignore[override]
            self,
            input: LanguageModelInput,  # noqa: A002 - core's name
            config: RunnableConfig | None = None,
            **kwargs: Unpack[LangChainCallParameters],
        ) -> AIMessage:
            """Answer a conversation."""

        async def ainvoke(  # type: ignore[override]
            self,
            input: LanguageModelInput,  # noqa: A002 - core's name
            config: RunnableConfig | None = None,
            **kwargs: Unpack[LangChainCallParameters],
        ) -> AIMessage:
            """Answer a conversation, asynchronously."""

        def stream(  # type: ignore[override]
            self,
            input: LanguageModelInput,  # noqa: A002 - core's name
            config: RunnableConfig | None = None,
            **kwargs: Unpack[LangChainCallParameters],
        ) -> Iterator[AIMessageChunk]:
            """Stream the answer to a conversation."""

        def astream(  # type: ignore[override]
            self,
            input: LanguageModelInput,  # noqa: A002 - core's name
            config: RunnableConfig | None = None,
            **kwargs: Unpack[LangChainCallParameters],
        ) -> AsyncIterator[AIMessageChunk]:
            """Stream the answer to a conversation, asynchronously."""

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with raises_langchain_errors():
            params = self._params(stop, kwargs, on_retry=run_manager and retry_reporter(run_manager))
            return result_from_completion(self._client.complete(messages_to_wire(messages), **params))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with raises_langchain_errors():
            params = self._params(stop, kwargs, on_retry=run_manager and async_retry_reporter(run_manager))
            return result_from_completion(await self._async_client.complete(messages_to_wire(messages), **params))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with raises_langchain_errors():
            params = self._params(stop, kwargs, on_retry=run_manager and retry_reporter(run_manager), stream=True)
            tool_calls = ToolCallChunks()
            with closing(self._client.stream(messages_to_wire(messages), **params)) as deltas:
                for delta in deltas:
                    chunk = chunk_from_delta(delta, tool_calls)
                    if run_manager:
                        run_manager.on_llm_new_token(delta.content, chunk=chunk)
                    yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with raises_langchain_errors():
            params = self._params(stop, kwargs, on_retry=run_manager and async_retry_reporter(run_manager), stream=True)
            tool_calls = ToolCallChunks()
            async with aclosing_unhooked(self._async_client.stream(messages_to_wire(messages), **params)) as deltas:
                async for delta in deltas:
                    chunk = chunk_from_delta(delta, tool_calls)
                    if run_manager:
                        await run_manager.on_llm_new_token(delta.content, chunk=chunk)
                    yield chunk

    def _params(
        self, stop: list[str] | None, kwargs: Mapping[str, Any], *, on_retry: Any, stream: bool = False
    ) -> dict[str, Any]:
        """Return the parameters of a call; its own take precedence over the constructor's."""
        if stop is not None:
            kwargs = {**kwargs, "stop": stop}
        params = self._merge_call_params(kwargs, self.extra_body, stream=stream)
        params.setdefault("on_retry", on_retry)
        params.setdefault("retry_tool_calls", self.retry_tool_calls)
        params.pop("stream", None)  # LangChain has already chosen the method by it
        if not params.pop("stream_usage", self.stream_usage):
            params["stream_options"] = None
        return params

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model; its calls are in the answer's `tool_calls`.

        ```python
        from langchain_tir_qwen import ChatTIRQwen


        def get_weather(city: str) -> str:
            "Get the current weather of a city."
            return "Sunny, 22 °C"


        message = ChatTIRQwen().bind_tools([get_weather]).invoke("What is the weather in Paris?")
        print(message.tool_calls[0]["name"], message.tool_calls[0]["args"])
        ```

        Invalid calls are in `invalid_tool_calls`: their arguments are truncated or not a JSON object, or there is no
        such tool. If all calls are invalid, the model is asked once more, which `retry_tool_calls=False` turns off.
        LangChain's `create_agent` binds tools itself.

        Args:
            tools: Pydantic classes, functions, LangChain tools or JSON schemas.
            tool_choice: `auto`, `none`, `any` or `required` (or True), the name of a tool, or a dict in wire format.
            strict: Whether arguments must follow the schema; sent with each tool.
            **kwargs: Further parameters of the call, such as `parallel_tool_calls=False`.

        Raises:
            ConfigurationError: `tool_choice` is not the name of one of the tools.
        """
        if tools:
            kwargs["tools"] = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
            if tool_choice is not None and tool_choice is not False:
                kwargs["tool_choice"] = tool_choice_to_wire(tool_choice, kwargs["tools"])
        return self.bind(**kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a runnable that outputs an object instead of a message.

        ```python
        from langchain_tir_qwen import ChatTIRQwen
        from pydantic import BaseModel


        class Capital(BaseModel):
            city: str
            country: str


        capital = ChatTIRQwen().with_structured_output(Capital).invoke("What is the capital of France?")
        print(capital.city)
        ```

        Args:
            schema: A pydantic class, a dataclass or any other type that pydantic supports, such as `list[int]` (the
                answer is an instance of it), or a TypedDict or a JSON schema (the answer is a dict, or whatever JSON
                the schema describes). Optional with `json_mode`.
            method: `json_schema`: the server enforces the schema. `function_calling`: the model calls a tool with the
                object as its arguments. `json_mode`: the server enforces JSON only; the prompt must describe the
                object.
            include_raw: Return `{"raw": message, "parsed": object or None, "parsing_error": error or None}`.
            strict: Sent with the schema.
            **kwargs: Further parameters of the call.

        The answer is validated as JSON, by the class itself. If it is not valid, the model is asked once to correct it.
        A stream yields the object as it grows; if it turns out not to be valid, a corrected object follows it.

        Raises:
            ValueError: `schema` is missing, or `method` is unknown.
            OutputParserException: (when called) The answer is not the object; the message says if it was truncated by
                max_tokens.
        """
        # Imported on demand: not every program needs it, and it takes a tenth of the import time.
        from ._structured_output import (  # noqa: PLC0415
            StructuredOutputParser,
            any_object,
            read_schema,
            traced_schema,
            with_raw,
        )

        if schema is None and method != "json_mode":
            raise ValueError(f"schema is required with method={method!r}.")
        wanted = any_object() if schema is None else read_schema(schema)
        kwargs["ls_structured_output_format"] = {
            "kwargs": {"method": method, "strict": strict},
            "schema": traced_schema(schema, wanted, strict),
        }
        if method == "function_calling":
            wanted = wanted.wrapped()
        kwargs = {"validate": wanted.validator, **kwargs}
        if method == "function_calling":
            kwargs = {"parallel_tool_calls": False, **kwargs}
            llm = self.bind_tools([wanted.as_tool(strict)], tool_choice=wanted.as_tool_choice(), **kwargs)
        elif method == "json_schema":
            llm = self.bind(response_format=wanted.as_response_format(strict), **kwargs)
        elif method == "json_mode":
            llm = self.bind(response_format=wanted.as_json_mode(), **kwargs)
        else:
            raise ValueError(f"method must be json_schema, function_calling or json_mode, not {method!r}.")
        return with_raw(llm, wanted) if include_raw else llm | StructuredOutputParser(answer_schema=wanted)

    def get_token_ids(self, text: str) -> list[int]:
        """Return the token ids of `text`.

        Raises:
            ConfigurationError: `tokenizer_file` is unset or unreadable, or the library `tokenizers` is not installed.
        """
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return read_token_ids(self.tokenizer_file, text)

    def get_num_tokens(self, text: str) -> int:
        """Count the tokens of `text`, exactly with `tokenizer_file`, otherwise as a conservative estimate."""
        if self.custom_get_token_ids is None and self.tokenizer_file is None:
            return estimate_tokens(text)
        return len(self.get_token_ids(text))

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Count the tokens of a conversation and its tools, approximately; see `get_num_tokens`.

        Reasoning that led to tool calls after the last human message counts too, since it is sent back to the model.

        Args:
            messages: The conversation.
            tools: The tools, as for `bind_tools`.
        """
        texts = [to_json(convert_to_openai_tool(tool)).decode() for tool in tools or []]
        for message in messages_to_wire(messages):
            reasoning, calls = message.get("reasoning_content"), message.get("tool_calls")
            thought = f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""  # as the chat template writes it
            texts.append(thought + message["content"] + (to_json(calls).decode() if calls else ""))
        return sum(self.get_num_tokens(text) + TOKENS_PER_MESSAGE for text in texts)

    def _resolve_model_profile(self) -> ModelProfile | None:
        return model_profile(self.model)
