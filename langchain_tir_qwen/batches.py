"""A data set of prompts through a chain: with a file that survives crashes, or on a Ray cluster.

`answer_rows` asks and yields each row with its answer as it comes; `AnswerFile` keeps them, so that a program that died
goes on where it was; `AnswerBatch` is `answer_rows` for Ray Data's `map_batches`. LangChain's `abatch_as_completed`
and Ray do the work.

```python
import asyncio

from langchain_core.prompts import ChatPromptTemplate
from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen.batches import AnswerFile, answer_rows

rows = [{"id": 1, "country": "France"}, {"id": 2, "country": "Peru"}]
chain = ChatPromptTemplate.from_template("Name the capital of {country}.") | ChatTIRQwen(max_retries=8)


async def main() -> None:
    with AnswerFile("answers.jsonl") as file:
        async for row in answer_rows(chain, file.missing(rows), keep=file.add):
            print(row["id"], row["response"])


asyncio.run(main())
```
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from itertools import islice
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic_core import to_jsonable_python

from tir_qwen import AuthenticationError, NotFoundError, PermissionDeniedError, TIRError

from .answer_file import COLUMNS, AnswerFile, Row

__all__ = ["AnswerBatch", "AnswerFile", "answer_rows"]

_AT_A_TIME = 10_000
"""Rows for which a task is made at once: some 100 MB. Between two such parts the slowest answer is waited for."""
_SAME_FOR_ALL = (AuthenticationError, PermissionDeniedError, NotFoundError)


async def answer_rows(
    chain: Runnable[Any, Any],
    rows: Iterable[Row],
    *,
    max_concurrency: int = 32,
    keep: Callable[[Row], object] | None = None,
) -> AsyncIterator[Row]:
    """Ask a chain about each row, and yield the rows with their answers in the order in which these come.

    Args:
        chain: Takes a row (a prompt template picks the columns that it names; for a bare model:
            `itemgetter("prompt") | model`) and returns a message, a text, an object, or what
            `with_structured_output(..., include_raw=True)` returns.
        rows: The data set; an iterator is read 10,000 rows at a time.
        max_concurrency: How many rows are asked about at once.
        keep: Called with each row the moment that its answer is there, however slow the reader of this iterator is
            (`AnswerFile.add`).

    Yields:
        The row, and the columns `response` (text, or the object as JSON values), `reasoning`, `finish_reason`,
        `input_tokens`, `output_tokens` (None where the chain returns no message), and `error`: None, or why there is no
        answer, after the model's own retries.

    Raises:
        AuthenticationError: The token is wrong; every row would fail alike. So with `PermissionDeniedError` and
            `NotFoundError`, and with any error that is neither a `TIRError` nor an `OutputParserException`.
        ValueError: A row already has one of these columns.

    Leaving the loop ends the calls that are at work.
    """
    tasks: set[asyncio.Task[Any] | None] = set()
    # Not LangChain's own: what waits for its turn there complains, a line a row, that it was never awaited.
    turns = asyncio.Semaphore(max_concurrency)
    left = False
    part: deque[Row]

    async def ask(_: Row) -> Row:
        if left:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        tasks.add(task)
        try:
            async with turns:
                # asyncio begins its tasks in any order; but neighbours may share a prefix, which servers cache.
                answered = await _answered(chain, part.popleft())
        finally:
            tasks.discard(task)
        if keep:
            keep(answered)
        return answered

    runnable = RunnableLambda(ask, name="answer_row")
    remaining = iter(rows)
    try:
        while part := deque(islice(remaining, _AT_A_TIME)):
            async with aclosing(runnable.abatch_as_completed(list(part), return_exceptions=True)) as results:  # type: ignore[type-var]
                async for _, result in results:
                    if isinstance(result, BaseException):
                        raise result
                    yield result
    finally:
        left = True
        ending = [task for task in tasks if task]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


async def _answered(chain: Runnable[Any, Any], row: Row) -> Row:
    if taken := [name for name in COLUMNS if name in row]:
        raise ValueError(f"the rows have columns of the names that answers have: {', '.join(taken)}; rename them.")
    columns: Row = dict.fromkeys(COLUMNS)
    try:
        columns.update(_columns(await chain.ainvoke(row)))
    except (TIRError, OutputParserException) as error:
        if isinstance(error, _SAME_FOR_ALL):
            raise
        columns["error"] = _told(error)
    return {**row, **columns}


def _columns(output: Any) -> Row:
    """What a chain's output says."""
    if isinstance(output, AIMessage):
        usage = output.usage_metadata
        return {
            "response": output.text,
            "reasoning": output.additional_kwargs.get("reasoning_content", ""),
            "finish_reason": output.response_metadata.get("finish_reason"),
            "input_tokens": usage and usage["input_tokens"],
            "output_tokens": usage and usage["output_tokens"],
        }
    if isinstance(output, Mapping) and set(output) == {"raw", "parsed", "parsing_error"}:
        error = output["parsing_error"]
        parsed = to_jsonable_python(output["parsed"])
        return {**_columns(output["raw"]), "response": parsed, "error": error and _told(error)}
    return {"response": to_jsonable_python(output)}


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


class AnswerBatch:
    """`answer_rows` for `map_batches` of Ray Data: every worker gets the chain by pickle, settings and token with it.

    ```
    answered = ray.data.read_json("prompts.jsonl").map_batches(
        AnswerBatch,
        fn_constructor_args=(chain,),
        batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=4),
    )
    ```

    Args:
        chain: As of `answer_rows`.
        max_concurrency: How many rows of a batch are asked about at once.
    """

    def __init__(self, chain: Runnable[Any, Any], *, max_concurrency: int = 32) -> None:
        self._chain = chain
        self._max_concurrency = max_concurrency

    async def __call__(self, batch: Mapping[str, Any]) -> AsyncIterator[dict[str, list[Any]]]:
        """Answer a batch (arrays or pandas' series, by column); yield it with the columns of the answers."""
        columns = {name: batch[name].tolist() for name in batch}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        results = answer_rows(self._chain, rows, max_concurrency=self._max_concurrency)
        answered = [row async for row in results]
        if answered:
            yield {name: [row[name] for row in answered] for name in answered[0]}
