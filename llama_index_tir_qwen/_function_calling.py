"""Function calling: the methods through which llama-index-core sends tools and extracts tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.program.function_program import get_function_tool
from llama_index.core.tools.types import BaseTool

from tir_qwen._integrations import aclosing_unhooked
from tir_qwen._integrations.partial_json import PartialJSON

from ._messages import is_complete, tool_choice_to_wire, with_first_call
from ._stream import CallingResponse

if TYPE_CHECKING:
    from llama_index.core.chat_engine.types import AgentChatResponse
else:
    AgentChatResponse = Any  # annotations can be evaluated


class FunctionCalling(FunctionCallingLLM):
    """The parts of core's `FunctionCallingLLM` that need no endpoint."""

    def _prepare_chat_with_tools(  # noqa: PLR0917 - core's signature
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the arguments for a chat with `tools`; `strict`, as in OpenAI's LLM, is sent with each tool."""
        messages = list(chat_history or [])
        if user_msg is not None:
            messages.append(ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg)
        offered = [_tool_to_wire(tool, strict) for tool in tools]
        if offered:
            kwargs["tools"] = offered
            kwargs["tool_choice"] = tool_choice_to_wire(tool_choice, offered, required=tool_required)
            kwargs["parallel_tool_calls"] = allow_parallel_tool_calls
        return {"messages": messages, **kwargs}

    def _validate_chat_with_tools_response(
        self, response: ChatResponse, tools: Sequence[BaseTool], allow_parallel_tool_calls: bool = False, **kwargs: Any
    ) -> ChatResponse:
        """Keep only the first tool call if parallel calls are not allowed."""
        return response if allow_parallel_tool_calls else with_first_call(response)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the tool calls of an answer; in a stream, with the arguments that have arrived so far.

        ```python
        from llama_index.core.tools import FunctionTool
        from llama_index_tir_qwen import TIRQwen


        def get_weather(city: str) -> str:
            "Get the current weather of a city."
            return "Sunny, 22 °C"


        llm = TIRQwen()
        tools = [FunctionTool.from_defaults(get_weather)]
        response = llm.chat_with_tools(tools, "What is the weather in Paris?")
        for call in llm.get_tool_calls_from_response(response, error_on_no_tool_call=False):
            print(call.tool_name, call.tool_kwargs)
        ```

        Args:
            response: A response of `chat_with_tools` or of a stream.
            error_on_no_tool_call: Whether to raise an error if there is no call, instead of returning an empty list.
            **kwargs: Not used.

        Raises:
            ValueError: With `error_on_no_tool_call`: there is no call, or an invalid one, because its arguments are
                truncated or not a JSON object, or there is no such tool. Without it, the name of an invalid call
                contains the reason: there is no tool of that name, so an agent reports the reason to the model.
        """
        blocks = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        if not blocks and error_on_no_tool_call:
            raise ValueError("Expected at least one tool call, but got 0.")
        selections = []
        for number, block in enumerate(blocks):
            name, arguments = block.tool_name, block.tool_kwargs
            if isinstance(arguments, str) and is_complete(response):
                problem = response.message.additional_kwargs["tool_calls"][number]["error"]
                if error_on_no_tool_call:
                    raise ValueError(f"The call of {name!r} cannot be run: {problem}.")
                name, arguments = f"{name} (not run: {problem})", {}
            elif isinstance(arguments, str):
                arguments = _parse_partial_arguments(response, number, arguments)
            selections.append(ToolSelection(tool_id=block.tool_call_id or "", tool_name=name, tool_kwargs=arguments))
        return selections

    # In streams, core's programs do not force the model to call the tool whose arguments are the object, and would
    # treat an invalid call as an object without fields.

    def stream_chat_with_tools(self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any) -> ChatResponseGen:
        """Stream the answer to a conversation, with tools; takes the arguments of `chat_with_tools`."""
        if not _is_program_tool(tools):
            return super().stream_chat_with_tools(tools, *args, **kwargs)
        return self._checked(super().stream_chat_with_tools(tools, *args, **{**kwargs, "tool_required": True}))

    async def astream_chat_with_tools(
        self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Stream the answer to a conversation, with tools, asynchronously."""
        if not _is_program_tool(tools):
            return await super().astream_chat_with_tools(tools, *args, **kwargs)
        responses = await super().astream_chat_with_tools(tools, *args, **{**kwargs, "tool_required": True})
        return self._achecked(responses)

    def _checked(self, responses: ChatResponseGen) -> ChatResponseGen:
        with closing(responses):
            for response in responses:
                self._check_calls(response)
                yield response

    async def _achecked(self, responses: ChatResponseAsyncGen) -> ChatResponseAsyncGen:
        async with aclosing_unhooked(responses) as nested_responses:
            async for response in nested_responses:
                self._check_calls(response)
                yield response

    def _check_calls(self, response: ChatResponse) -> None:
        if is_complete(response):
            self.get_tool_calls_from_response(response)

    # Core's FunctionCallingProgram adds the system prompt in `__call__` but not in `acall`. Here both methods add it,
    # unless the history already begins with it.

    def predict_and_call(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> AgentChatResponse:
        """Let the model choose a tool, and run it; the system prompt precedes the history.

        Args:
            tools: The tools.
            user_msg: The last message, after the history.
            chat_history: The messages before it.
            *args: Core's `verbose` and `allow_parallel_tool_calls`.
            **kwargs: Further arguments of core, such as `error_on_no_tool_call`, and parameters of the call.
        """
        return super().predict_and_call(tools, user_msg, self._with_system_prompt(chat_history), *args, **kwargs)

    async def apredict_and_call(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> AgentChatResponse:
        """Let the model choose a tool, and run it, asynchronously; see `predict_and_call`."""
        return await super().apredict_and_call(tools, user_msg, self._with_system_prompt(chat_history), *args, **kwargs)

    def _with_system_prompt(self, chat_history: list[ChatMessage] | None) -> list[ChatMessage]:
        history = chat_history or []
        system = ChatMessage(self.system_prompt, role=MessageRole.SYSTEM)
        return history if history[:1] == [system] else list(self._extend_messages(history))


def _tool_to_wire(tool: BaseTool, strict: bool | None) -> dict[str, Any]:
    """Return the tool in wire format; restore the root `$ref` of a recursive schema, which core drops."""
    offered = tool.metadata.to_openai_tool(skip_length_check=True)
    parameters = offered["function"]["parameters"]
    if "$defs" in parameters and "type" not in parameters and tool.metadata.fn_schema is not None:
        parameters = {**tool.metadata.fn_schema.model_json_schema(), **parameters}
        offered["function"]["parameters"] = parameters
    if strict is not None:
        offered["function"]["strict"] = strict
    return offered


def _is_program_tool(tools: Sequence[BaseTool]) -> bool:
    """Whether the only tool is one of core's programs', whose arguments are the requested object."""
    fn = getattr(tools[0], "real_fn", None) if len(tools) == 1 else None
    return getattr(fn, "__qualname__", "").startswith(f"{get_function_tool.__name__}.")


def _parse_partial_arguments(response: ChatResponse, number: int, text: str) -> dict[str, Any]:
    if isinstance(response, CallingResponse):
        return response.arguments(number, text)
    return PartialJSON().read(text) or {}
