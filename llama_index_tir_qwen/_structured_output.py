"""Structured prediction: the object is an answer constrained by a grammar, or the arguments of a forced tool call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import closing
from inspect import cleandoc
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.llm import LLMStructuredPredictEndEvent, LLMStructuredPredictStartEvent
from llama_index.core.program.utils import create_flexible_model, get_program_for_llm
from llama_index.core.prompts.base import BasePromptTemplate
from llama_index.core.types import BasePydanticProgram, PydanticProgramMode
from pydantic import AliasChoices, BaseModel, RootModel
from pydantic.fields import FieldInfo

from tir_qwen._integrations import aclosing_unhooked
from tir_qwen._integrations.output_schema import OutputSchema

from ._function_calling import FunctionCalling

dispatcher = get_dispatcher(__name__)
_DROPPED_ARGUMENTS = ("tool_required", "tool_choice", "allow_parallel_tool_calls")
"""Arguments of a call that core's own programs ignore too."""
_TOLD_BY_THE_TOOL = ("title", "description")


class StructuredPrediction(FunctionCalling):
    """`structured_predict` and its variants, with a program of our own.

    Core's programs use a tool even if the answer itself could be the object, do not force the model to call it in
    streams, and start streams with objects full of None.
    """

    @dispatcher.span
    def structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        """Predict an object of `output_cls`.

        ```python
        from llama_index.core.prompts import PromptTemplate
        from llama_index_tir_qwen import TIRQwen
        from pydantic import BaseModel


        class Capital(BaseModel):
            city: str
            country: str


        prompt = PromptTemplate("What is the capital of {country}?")
        print(TIRQwen().structured_predict(Capital, prompt, country="France").city)
        ```

        With the `pydantic_program_mode` `DEFAULT`, the server enforces the schema on the whole answer. With `FUNCTION`,
        the model calls a tool with the object as its arguments. With `LLM`, only the prompt asks for the object.

        The answer is validated as JSON, by the class itself. If it is not valid, the model is asked once to correct it.

        Args:
            output_cls: A pydantic class.
            prompt: The prompt template.
            llm_kwargs: Parameters of this call, as for `chat`.
            **prompt_args: Values for the prompt template.

        Raises:
            ValueError: The answer is not such an object; the message says if max_tokens truncated it.
        """
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        output = self._program(output_cls, prompt)(llm_kwargs=llm_kwargs, **prompt_args)
        dispatcher.event(LLMStructuredPredictEndEvent(output=output))
        return output

    @dispatcher.span
    async def astructured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        """Predict an object asynchronously; see `structured_predict`."""
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        output = await self._program(output_cls, prompt).acall(llm_kwargs=llm_kwargs, **prompt_args)
        dispatcher.event(LLMStructuredPredictEndEvent(output=output))
        return output

    def _structured_stream_call(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        return self._program(output_cls, prompt).stream_call(llm_kwargs=llm_kwargs, **prompt_args)

    async def _structured_astream_call(
        self, output_cls: Any, prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Any:
        return await self._program(output_cls, prompt).astream_call(llm_kwargs=llm_kwargs, **prompt_args)

    def _program(self, output_cls: Any, prompt: Any) -> BasePydanticProgram[Any]:
        mode = self.pydantic_program_mode
        if mode in (PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION, PydanticProgramMode.LLM):
            return ObjectProgram(output_cls, prompt, self, mode)
        return get_program_for_llm(output_cls, prompt, self, pydantic_program_mode=mode)


class ObjectProgram(BasePydanticProgram[Any]):
    """Requests one object of a pydantic class.

    The object is the whole answer (`DEFAULT`, and `LLM` without enforcement), or the arguments of a tool (`FUNCTION`).
    """

    def __init__(
        self, output_cls: type[BaseModel], prompt: BasePromptTemplate, llm: FunctionCalling, mode: PydanticProgramMode
    ) -> None:
        self._output_cls = output_cls
        self._prompt = prompt
        self._llm = llm
        self._uses_tool = mode is PydanticProgramMode.FUNCTION
        self._is_enforced = mode is PydanticProgramMode.DEFAULT
        schema = OutputSchema(
            output_cls.__name__,
            output_cls.model_json_schema(),
            output_cls.model_validate_json,
            description=cleandoc(output_cls.__doc__ or ""),
        )
        self.schema = schema.wrapped() if self._uses_tool else schema

    @property
    def output_cls(self) -> type[BaseModel]:
        """The pydantic class."""
        return self._output_cls

    def __call__(self, *args: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any) -> Any:
        """Return the object."""
        return self._build(self._llm.chat(**self._request(llm_kwargs, prompt_args)))

    async def acall(self, *args: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any) -> Any:
        """Return the object asynchronously."""
        return self._build(await self._llm.achat(**self._request(llm_kwargs, prompt_args)))

    def stream_call(
        self, *args: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Generator[Any, None, None]:
        """Yield the object as it grows; the last one is complete."""
        request = self._request(llm_kwargs, prompt_args)
        growing = _GrowingObject(self)
        with closing(self._llm.stream_chat(**request)) as responses:
            for response in responses:
                yield from growing.add(response)
        yield from growing.end()

    async def astream_call(
        self, *args: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> AsyncGenerator[Any, None]:
        """Yield the object as it grows, asynchronously."""
        request = self._request(llm_kwargs, prompt_args)

        async def objects() -> AsyncGenerator[Any, None]:
            growing = _GrowingObject(self)
            async with aclosing_unhooked(await self._llm.astream_chat(**request)) as responses:
                async for response in responses:
                    for one in growing.add(response):
                        yield one
            for one in growing.end():
                yield one

        return objects()

    def _request(self, llm_kwargs: dict[str, Any] | None, prompt_args: dict[str, Any]) -> dict[str, Any]:
        messages = list(self._llm._extend_messages(self._prompt.format_messages(llm=self._llm, **prompt_args)))
        kwargs = {name: value for name, value in (llm_kwargs or {}).items() if name not in _DROPPED_ARGUMENTS}
        if not self._uses_tool:
            return {
                "messages": messages,
                "response_format": self.schema.as_response_format(),
                "schema_in": "both" if self._is_enforced else "messages",
                "validate": self.schema.validator,
                **kwargs,
            }
        tool = self.schema.as_tool(kwargs.pop("strict", None))
        parameters = tool["function"]["parameters"]
        tool["function"]["parameters"] = {key: parameters[key] for key in parameters if key not in _TOLD_BY_THE_TOOL}
        return {
            "messages": messages,
            "tools": [tool],
            "tool_choice": self.schema.as_tool_choice(),
            "parallel_tool_calls": False,
            "validate": self.schema.validator,
            **kwargs,
        }

    def _build(self, response: ChatResponse) -> Any:
        text, call_error = _json_text(response)
        finish_reason = response.raw["choices"][0]["finish_reason"] if response.raw else None
        try:
            value = self.schema.parse(text, finish_reason)
        except ValueError as error:
            raise ValueError(f"There is no {self._output_cls.__name__}: {error}") from error.__cause__
        if call_error:
            raise ValueError(f"There is no {self._output_cls.__name__}: its call is not valid: {call_error}")
        return value


class _GrowingObject:
    """An object that streams in; yields each new state once, and finally the complete object."""

    def __init__(self, program: ObjectProgram) -> None:
        self._program = program
        self._is_root = issubclass(program.output_cls, RootModel)
        self._flexible = create_flexible_model(program.output_cls)
        self._field_names = {
            key: name for name, field in program.output_cls.model_fields.items() for key in _json_keys(name, field)
        }
        self._partial_json = program.schema.partial_json()
        self._value: Any = None
        self._last: Any = None
        self._response = ChatResponse(message=ChatMessage(""))

    def add(self, response: ChatResponse) -> Iterator[Any]:
        self._response = response
        value = self._partial_json.read(_json_text(response)[0])
        if value is not self._value:
            self._value = value
            yield from self._if_changed(self._build_partial(value))

    def end(self) -> Iterator[Any]:
        yield from self._if_changed(self._program._build(self._response))

    def _build_partial(self, value: Any) -> Any:
        if self._is_root:
            return self._program.schema.build_partial(value)
        if not isinstance(value, dict) or all(field is None for field in value.values()):
            return None
        named = {self._field_names.get(key, key): field for key, field in value.items()}
        # A default must not replace a value that is still to come.
        is_whole = named.keys() >= self._program.output_cls.model_fields.keys()
        complete = self._program.schema.build_partial(value) if is_whole else None
        return self._flexible.model_validate(named) if complete is None else complete

    def _if_changed(self, value: Any) -> Iterator[Any]:
        if value is not None and value != self._last:
            self._last = value
            yield value


def _json_keys(name: str, field: FieldInfo) -> list[str]:
    """Return the keys that a field may have in JSON."""
    alias = field.validation_alias or field.alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [name, *(choice for choice in choices if isinstance(choice, str))]


def _json_text(response: ChatResponse) -> tuple[str, str | None]:
    """Return the JSON text of an answer, and the error of the call that contains it.

    Some servers return the arguments of a forced tool call as text. An invalid call may be followed by another one.
    """
    calls = response.message.additional_kwargs.get("tool_calls")
    if not calls:
        return response.message.content or "", None
    call = next((call for call in calls if not call.get("error")), calls[-1])
    return call["function"]["arguments"], call.get("error")
