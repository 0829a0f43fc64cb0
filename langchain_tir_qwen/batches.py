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
            print(row["id"], row["error"] or row["response"])


asyncio.run(main())
```
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from inspect import isawaitable
from itertools import islice
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic_core import to_jsonable_python

from tir_qwen import AuthenticationError, NotFoundError, PermissionDeniedError, TIRError

from ._answer_file import COLUMNS, AnswerFile, Row

__all__ = ["AnswerBatch", "AnswerFile", "answer_rows"]

_AT_A_TIME = 10_000
"""Rows for which a task is made at once: some 100 MB. Between two such parts the slowest answer is waited for."""
_ADVICE = "\nFor troubleshooting, visit: "
"""What LangChain adds to its errors."""
_SAME_FOR_ALL = (AuthenticationError, PermissionDeniedError, NotFoundError)


def answer_rows(
    chain: Runnable[Any, Any],
    rows: Iterable[Row],
    *,
    max_concurrency: int = 32,
    keep: Callable[[Row], object] | None = None,
) -> AsyncGenerator[Row]:
    """Ask a chain about each row, and yield the rows with their answers in the order in which these come.

    Args:
        chain: Takes a row (a prompt template picks the columns that it names; for a bare model:
            `itemgetter("prompt") | model`) and returns a message, a text, an object, or what
            `with_structured_output(..., include_raw=True)` returns. Callbacks and tags are its own, by `with_config`.
        rows: The data set; an iterator is read 10,000 rows at a time.
        max_concurrency: How many rows are asked about at once.
        keep: Called with each row the moment that its answer is there, however slow the reader of this iterator is
            (`AnswerFile.add`).

    Yields:
        The row, and the columns `response` (text, or the object as JSON values; a message with tool calls is an object
            with `text` and `tool_calls`), `reasoning`, `finish_reason` (`length`: max_tokens has cut it),
            `input_tokens`, `output_tokens` (None where the chain returns no message), and `error`: None, or why there
            is no answer, after the model's own retries. A text that was to be an object and is none is the `response`
            beside its `error`.

    Raises:
        AuthenticationError: The token is wrong; every row would fail alike. So with `PermissionDeniedError` and
            `NotFoundError`, and with any error of the chain or of `keep` that is neither a `TIRError` nor an
            `OutputParserException`. No row is asked about from then on; those at work are kept.
        ValueError: A row already has one of these columns.

    Leaving the loop ends the calls that are at work. (Where the iterator has a name, put it into `contextlib.aclosing`:
    Python closes it no sooner than the name is gone.)
    """
    return _answers(chain, rows, _turns(max_concurrency), keep)


def _turns(max_concurrency: int) -> asyncio.Semaphore:
    if max_concurrency < 1:
        raise ValueError(f"max_concurrency must be 1 or more, not {max_concurrency}.")
    return asyncio.Semaphore(max_concurrency)


async def _answers(
    chain: Runnable[Any, Any], rows: Iterable[Row], turns: asyncio.Semaphore, keep: Callable[[Row], object] | None
) -> AsyncGenerator[Row]:
    tasks: set[asyncio.Task[Any] | None] = set()
    failures: list[Exception] = []
    left = False
    part: deque[Row]

    async def ask(_: None) -> Row | None:
        if left:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        tasks.add(task)
        try:
            # Not LangChain's max_concurrency: what waits there for its turn complains that it was never awaited.
            async with turns:
                if failures:
                    return None
                # asyncio begins its tasks in any order; but neighbours may share a prefix, which servers cache.
                answered = await _answered(chain, part.popleft())
                if keep and isawaitable(kept := keep(answered)):
                    await kept
                return answered
        except Exception as error:  # noqa: BLE001 - raised below, as soon as the reader asks for more
            failures.append(error)
            return None
        finally:
            tasks.discard(task)

    runnable = RunnableLambda(ask, name="answer_row")
    remaining = iter(rows)
    try:
        while part := deque(islice(remaining, _AT_A_TIME)):
            async with aclosing(runnable.abatch_as_completed([None] * len(part))) as results:  # type: ignore[type-var]
                async for _, row in results:
                    if failures:
                        raise failures[0]
                    if row is not None:
                        yield row
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
        columns.update(_columns(await chain.ainvoke(dict(row))))
    except (TIRError, OutputParserException) as error:
        if isinstance(error, _SAME_FOR_ALL):
            raise
        columns["response"] = getattr(error, "llm_output", None)
        columns["error"] = _told(error)
    return {**row, **columns}


def _columns(output: Any) -> Row:
    """What a chain's output says."""
    if isinstance(output, AIMessage):
        usage = output.usage_metadata
        return {
            "response": _response(output),
            "reasoning": output.additional_kwargs.get("reasoning_content", ""),
            "finish_reason": output.response_metadata.get("finish_reason"),
            "input_tokens": usage and usage["input_tokens"],
            "output_tokens": usage and usage["output_tokens"],
        }
    if isinstance(output, Mapping) and set(output) == {"raw", "parsed", "parsing_error"}:
        columns = _columns(output["raw"])
        if output["parsing_error"]:
            return {**columns, "error": _told(output["parsing_error"])}
        return {**columns, "response": to_jsonable_python(output["parsed"])}
    return {"response": to_jsonable_python(output)}


def _response(message: AIMessage) -> Any:
    calls = [
        {"name": call["name"], "args": call["args"]} for call in (*message.tool_calls, *message.invalid_tool_calls)
    ]
    return {"text": str(message.text), "tool_calls": calls} if calls else str(message.text)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(_ADVICE)[0]}"


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

    Chains should end in texts, or in objects of one class: Ray's columns have one type. A rate limiter cannot be
    pickled; `max_concurrency` and the number of workers are the limit there. A worker that dies has its block asked
    again.

    Args:
        chain: As of `answer_rows`.
        max_concurrency: How many rows each worker asks about at once.
    """

    def __init__(self, chain: Runnable[Any, Any], *, max_concurrency: int = 32) -> None:
        self._chain = chain
        self._turns = _turns(max_concurrency)  # of all batches: Ray hands out several at once

    async def __call__(self, batch: Any) -> AsyncIterator[dict[str, list[Any]]]:
        """Answer a batch of any of Ray's formats; yield it by columns, with those of the answers."""
        if hasattr(batch, "to_pylist"):  # pyarrow's
            rows = batch.to_pylist()
        else:
            columns = {name: batch[name].tolist() for name in batch}
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        answered = [row async for row in _answers(self._chain, rows, self._turns, keep=None)]
        if answered:
            yield {name: [row[name] for row in answered] for name in answered[0]}
