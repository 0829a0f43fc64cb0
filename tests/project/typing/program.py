"""A program that uses the package, in which type checkers must find the expected types.

Never run; `tests/project/test_packaging.py` has mypy and pyright read it, both strict, next to the installed wheel.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing
from typing import Any, assert_type

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from llama_index.core.llms import LLM, ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, SecretStr

from langchain_tir_qwen import ChatTIRQwen, TIREmbeddings
from llama_index_tir_qwen import TIREmbedding, TIRQwen
from tir_qwen import (
    APITimeoutError,
    AsyncClient,
    Client,
    Completion,
    Delta,
    Embeddings,
    RateLimitError,
    StreamError,
    Timeout,
    TIRError,
    ToolCall,
    Usage,
)


class City(BaseModel):
    """A city and its country."""

    name: str
    country: str


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def langchain() -> None:
    """LangChain: a model, a chain, tools, objects."""
    model = ChatTIRQwen(project_id=6530, access_token=SecretStr("token"), temperature=0.6, max_tokens=500, stop=["x"])
    assert_type(model.temperature, float | None)
    assert_type(model.timeout, float | Timeout | None)
    assert_type(model.access_token, SecretStr | str | None)
    ChatTIRQwen(project_id=6530, access_token="token")
    ChatTIRQwen(api_key="token", api_base="http://localhost:8000/v1")

    answer = model.invoke("Hello", enable_thinking=False, stop=["END"], extra_body={"a_new_field": 1})
    assert_type(answer, AIMessage)
    assert_type(model.stream("Hello", temperature=0.2, stream_usage=False), Iterator[AIMessageChunk])
    assert_type(model.batch(["Hello", "Goodbye"]), list[AIMessage])
    assert_type(model.get_num_tokens("Hello"), int)

    chain = ChatPromptTemplate.from_template("Name the capital of {country}.") | model | StrOutputParser()
    assert_type(chain.invoke({"country": "France"}), str)

    with_tools = model.bind_tools([weather, City, {"type": "function"}], tool_choice="any")
    assert_type(with_tools, Runnable[LanguageModelInput, AIMessage])
    for call in with_tools.invoke("Is it sunny?").tool_calls:
        assert_type(call["args"], dict[str, Any])

    structured = model.with_structured_output(City, method="function_calling")
    assert_type(structured, Runnable[LanguageModelInput, Any])

    ChatTIRQwen(timeout=Timeout(connect=5, total=900), tool_calling="prompted", base_url="http://localhost:8000/v1")


async def langchain_async() -> None:
    """LangChain, asynchronously."""
    model = ChatTIRQwen()
    assert_type(await model.ainvoke("Hello"), AIMessage)
    stream = model.astream("Hello")
    assert_type(stream, AsyncIterator[AIMessageChunk])
    async for chunk in stream:
        assert_type(chunk, AIMessageChunk)


def llama_index() -> None:
    """LlamaIndex: chats, completions, tools, objects."""
    llm = TIRQwen(project_id="p-6530", api_key="token", temperature=0.6, context_window=8192)
    assert_type(llm.api_key, str | None)
    assert_type(llm.metadata, LLMMetadata)
    whichever: LLM = llm
    assert_type(whichever.metadata, LLMMetadata)
    answers_of(llm)

    called = llm.chat_with_tools([FunctionTool.from_defaults(fn=sunny)], user_msg="Is it sunny?", tool_required=True)
    assert_type(called, ChatResponse)
    for selection in llm.get_tool_calls_from_response(called, error_on_no_tool_call=False):
        assert_type(selection.tool_kwargs, dict[str, Any])

    TIRQwen(timeout=30, max_retries=0, additional_kwargs={"best_of": 2})
    TIRQwen(access_token="token", base_url="http://localhost:8000/v1")


def answers_of(llm: TIRQwen) -> None:
    """Check the types of answers."""
    assert_type(llm.complete("Hello", temperature=0.2, timeout=Timeout(total=60)), CompletionResponse)
    assert_type(llm.stream_complete("Hello"), Generator[CompletionResponse, None, None])
    messages = [ChatMessage("Hello")]
    assert_type(llm.chat(messages), ChatResponse)
    for response in llm.stream_chat(messages):
        assert_type(response, ChatResponse)
        assert_type(response.delta, str | None)


def sunny(city: str) -> bool:
    """Whether it is sunny in a city."""
    return bool(city)


async def llama_index_async(llm: TIRQwen) -> None:
    """LlamaIndex, asynchronously."""
    assert_type(await llm.acomplete("Hello"), CompletionResponse)
    assert_type(await llm.achat([ChatMessage("Hello")]), ChatResponse)
    async for response in await llm.astream_chat([ChatMessage("Hello")]):
        assert_type(response, ChatResponse)


def transport() -> str:
    """Without a framework."""
    messages = [{"role": "user", "content": "Hello"}]
    with Client(6530, "token", timeout=Timeout(first_delta=60)) as client:
        assert_type(client, Client)
        completion = client.complete(messages, max_tokens=500, timeout={"total": 60}, on_retry=print)
        assert_type(completion, Completion)
        assert_type(completion.usage, Usage | None)
        assert_type(completion.tool_calls, list[ToolCall])
        deltas = client.stream(messages)
        assert_type(deltas, Generator[Delta])
        with closing(deltas):
            for delta in deltas:
                assert_type(delta, Delta)
                assert_type(delta.reasoning, str)
    try:
        return client.complete(messages).content
    except RateLimitError as error:
        assert_type(error.status_code, int)
        assert_type(error.retry_after, float | None)
        return ""
    except (APITimeoutError, StreamError) as error:
        assert_type(error.partial, Completion | None)
        return error.partial.content if error.partial else ""
    except TIRError as error:
        assert_type(error.attempts, int)
        return str(error)


async def transport_async() -> None:
    """Without a framework, asynchronously."""
    async with AsyncClient(base_url="http://localhost:8000/v1") as client:
        assert_type(await client.complete([{"role": "user", "content": "Hello"}]), Completion)
        deltas = client.stream([{"role": "user", "content": "Hello"}])
        assert_type(deltas, AsyncGenerator[Delta])
        async with aclosing(deltas):
            async for delta in deltas:
                assert_type(delta.content, str)


async def embeddings() -> None:
    """Embedding models, and both clients."""
    model = TIREmbeddings(project_id=6530, access_token="token", dimensions=256, on_usage=print)
    assert_type(model.embed_query("x"), list[float])
    assert_type(await model.aembed_documents(["x"]), list[list[float]])
    assert_type(TIREmbedding(model_name="m", api_key="token", batch_size=8).model_name, str)
    TIREmbedding(access_token="token", base_url="http://localhost:8000/v1")
    assert_type(Client().embed(["x"], model="m", dimensions=256), Embeddings)
    assert_type((await AsyncClient().embed(["x"], model="m")).vectors, list[list[float]])
