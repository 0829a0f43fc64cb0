"""Bulk inference with LlamaIndex: run an LLM, a program or a query engine over a data set, and resume after a crash.

`answer_rows` and `AnswerFile` are those of `tir_qwen.batches`, for LlamaIndex.

```python
import asyncio

from llama_index_tir_qwen import TIRQwen
from llama_index_tir_qwen.batches import AnswerFile, answer_rows

rows = [{"id": 1, "prompt": "Name the capital of France."}, {"id": 2, "prompt": "Name the capital of Peru."}]


async def main() -> None:
    with AnswerFile("answers.jsonl") as file:
        async for row in answer_rows(TIRQwen(), file.missing(rows), keep=file.add):
            print(row["id"], row["error"] or row["response"])


asyncio.run(main())  # in a notebook: await main()
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Unpack

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.llms import LLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import BasePydanticProgram
from pydantic_core import to_jsonable_python

from tir_qwen.batches import AnsweredRows, AnswerFile, BatchOptions
from tir_qwen.batches._engine import MissingColumnError, Rows, run
from tir_qwen.batches._lines import Row

from ._messages import completion_from_response

__all__ = ["AnswerFile", "answer_rows"]


def answer_rows(
    llm: LLM | BasePydanticProgram[Any] | BaseQueryEngine,
    rows: Rows,
    **options: Unpack[BatchOptions],
) -> AnsweredRows:
    """Run an LLM, a program or a query engine on each row, and yield the rows with their answers as they arrive.

    Errors, retries and the end of a run are handled as in `tir_qwen.batches.answer_rows`.

    Args:
        llm: An LLM takes the column `messages` (chat messages, or dicts with a `role` and a `content`) if there is
            one, otherwise the column `prompt`. A program takes the columns as the variables of its prompt. A query
            engine takes the column `query`.
        rows: The data set; an iterator is read as needed.
        **options: The options in `tir_qwen.batches.BatchOptions`, such as `max_concurrency` and `keep`.

    Yields:
        The row, and the columns `response` (a string, or a program's object as JSON values), `reasoning`,
            `finish_reason`, `input_tokens`, `output_tokens` (None unless `llm` is an LLM) and `error`.

    Raises:
        TypeError: `llm` is none of these.
        ValueError: (when iterated) The first two rows lack a column that is used.
    """
    return run(_asker(llm), rows, options)


def _asker(llm: LLM | BasePydanticProgram[Any] | BaseQueryEngine) -> Callable[[Row], Awaitable[Row]]:
    if isinstance(llm, LLM):
        return partial(_ask_llm, llm)
    if isinstance(llm, BasePydanticProgram):
        return partial(_ask_program, llm)
    if isinstance(llm, BaseQueryEngine):
        return partial(_ask_query_engine, llm)
    raise TypeError(f"answer_rows takes an LLM, a program or a query engine, not a {type(llm).__name__}.")


async def _ask_llm(llm: LLM, row: Row) -> Row:
    if "messages" in row:
        messages = [ChatMessage.model_validate(message) for message in row["messages"]]
        answer = completion_from_response(await llm.achat(messages))
    elif "prompt" in row:
        answer = await llm.acomplete(row["prompt"])
    else:
        raise MissingColumnError(row, ["prompt"])
    choices = answer.raw.get("choices") if isinstance(answer.raw, dict) else None
    return {
        "response": to_jsonable_python(answer.raw) if isinstance(llm, StructuredLLM) else answer.text,
        "reasoning": answer.additional_kwargs.get("thinking", ""),
        "finish_reason": choices[0].get("finish_reason") if choices else None,
        "input_tokens": answer.additional_kwargs.get("prompt_tokens"),
        "output_tokens": answer.additional_kwargs.get("completion_tokens"),
    }


async def _ask_program(program: BasePydanticProgram[Any], row: Row) -> Row:
    needed = _variables(getattr(program, "prompt", None))
    if missing := needed - row.keys():
        raise MissingColumnError(row, sorted(missing))
    return {"response": to_jsonable_python(await program.acall(**row))}


def _variables(prompt: Any) -> set[str]:
    """Return the variables that a prompt needs, unless it renames or computes some."""
    if not isinstance(prompt, BasePromptTemplate) or prompt.template_var_mappings or prompt.function_mappings:
        return set()
    return set(prompt.template_vars) - prompt.kwargs.keys()


async def _ask_query_engine(query_engine: BaseQueryEngine, row: Row) -> Row:
    if "query" not in row:
        raise MissingColumnError(row, ["query"])
    answer: Any = await query_engine.aquery(row["query"])
    if isinstance(answer, AsyncStreamingResponse):  # `str` of either type would block the event loop
        answer = await answer.get_response()
    elif isinstance(answer, StreamingResponse):
        answer = await asyncio.to_thread(answer.get_response)
    return {"response": answer.response or "" if isinstance(answer, Response) else str(answer)}
