"""Batch inference: run a chain over a data set and resume after a crash, or run it on a Ray cluster.

`answer_rows` yields each row as soon as its answer arrives. `AnswerFile` stores the answers, so that a program can
resume after a crash. `AnswerBatch` is `answer_rows` for Ray Data's `map_batches`. LangChain's `abatch_as_completed` and
Ray do the work.

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

_ROWS_AT_ONCE = 10_000
"""Rows for which tasks are created at once, which takes 100 MB. The next rows start after the slowest answer."""
_LANGCHAIN_ADVICE = "\nFor troubleshooting, visit: "
"""What LangChain appends to the text of its errors."""
_AFFECTS_ALL_ROWS = (AuthenticationError, PermissionDeniedError, NotFoundError)


def answer_rows(
    chain: Runnable[Any, Any],
    rows: Iterable[Row],
    *,
    max_concurrency: int = 32,
    keep: Callable[[Row], object] | None = None,
) -> AsyncGenerator[Row]:
    """Run a chain on each row, and yield the rows with their answers as they arrive.

    Args:
        chain: Takes a row (a prompt template uses the columns that it names; a bare model needs
            `itemgetter("prompt") | model`) and returns a message, a text, an object, or the output of
            `with_structured_output(..., include_raw=True)`. Set callbacks and tags with its `with_config`.
        rows: The data set; an iterator is read 10,000 rows at a time.
        max_concurrency: Maximum number of rows in progress at a time.
        keep: Called with each row as soon as its answer arrives, even if this iterator is read slowly; for example
            `AnswerFile.add`.

    Yields:
        The row, and the columns `response` (text, or the object as JSON values; a message with tool calls is an object
            with `text` and `tool_calls`), `reasoning`, `finish_reason` (`length`: truncated by max_tokens),
            `input_tokens`, `output_tokens` (None if the chain does not return a message), and `error` (None, or why
            there is no answer even after the model's own retries). If the answer is not the requested object, the row
            has both an `error` and the text as its `response`.

    Raises:
        AuthenticationError: The token is wrong, which affects every row. `PermissionDeniedError`, `NotFoundError` and
            any error of the chain or of `keep` that is neither a `TIRError` nor an `OutputParserException` also stop
            the batch: no further rows are started, and running ones are kept.
        ValueError: A row already has one of these columns.

    Leaving the loop cancels running calls. (If the iterator is bound to a name, use `contextlib.aclosing`: Python does
    not close it while the name exists.)
    """
    return _answers(chain, rows, _new_semaphore(max_concurrency), keep)


def _new_semaphore(max_concurrency: int) -> asyncio.Semaphore:
    if max_concurrency < 1:
        raise ValueError(f"max_concurrency must be 1 or more, not {max_concurrency}.")
    return asyncio.Semaphore(max_concurrency)


async def _answers(
    chain: Runnable[Any, Any], rows: Iterable[Row], semaphore: asyncio.Semaphore, keep: Callable[[Row], object] | None
) -> AsyncGenerator[Row]:
    tasks: set[asyncio.Task[Any] | None] = set()
    failures: list[Exception] = []
    is_closing = False
    part: deque[Row]

    async def ask(_: None) -> Row | None:
        if is_closing:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        tasks.add(task)
        try:
            # Not LangChain's max_concurrency: cancelling calls that wait there warns of coroutines never awaited.
            async with semaphore:
                if failures:
                    return None
                # asyncio starts tasks in any order, but rows in order may share prefixes, which servers cache.
                answered = await _answered(chain, part.popleft())
                if keep and isawaitable(kept := keep(answered)):
                    await kept
                return answered
        except Exception as error:  # noqa: BLE001 - raised below, when the next row is requested
            failures.append(error)
            return None
        finally:
            tasks.discard(task)

    runnable = RunnableLambda(ask, name="answer_row")
    remaining = iter(rows)
    try:
        while part := deque(islice(remaining, _ROWS_AT_ONCE)):
            async with aclosing(runnable.abatch_as_completed([None] * len(part))) as results:  # type: ignore[type-var]
                async for _, row in results:
                    if failures:
                        raise failures[0]
                    if row is not None:
                        yield row
    finally:
        is_closing = True
        running = [task for task in tasks if task]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _answered(chain: Runnable[Any, Any], row: Row) -> Row:
    if taken := [name for name in COLUMNS if name in row]:
        raise ValueError(f"the rows have columns that answers have too: {', '.join(taken)}; rename them.")
    columns: Row = dict.fromkeys(COLUMNS)
    try:
        columns.update(_columns(await chain.ainvoke(dict(row))))
    except (TIRError, OutputParserException) as error:
        if isinstance(error, _AFFECTS_ALL_ROWS):
            raise
        columns["response"] = getattr(error, "llm_output", None)
        columns["error"] = _describe(error)
    return {**row, **columns}


def _columns(output: Any) -> Row:
    """Return the columns of a chain's output."""
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
            return {**columns, "error": _describe(output["parsing_error"])}
        return {**columns, "response": to_jsonable_python(output["parsed"])}
    return {"response": to_jsonable_python(output)}


def _response(message: AIMessage) -> Any:
    calls = [
        {"name": call["name"], "args": call["args"]} for call in (*message.tool_calls, *message.invalid_tool_calls)
    ]
    return {"text": str(message.text), "tool_calls": calls} if calls else str(message.text)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(_LANGCHAIN_ADVICE)[0]}"


class AnswerBatch:
    """`answer_rows` for Ray Data's `map_batches`. The chain is pickled for the workers, with its settings and token.

    ```
    answered = ray.data.read_json("prompts.jsonl").map_batches(
        AnswerBatch,
        fn_constructor_args=(chain,),
        batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=4),
    )
    ```

    Chains should return texts or objects of a single class, since Ray columns have a single type. Rate limiters cannot
    be pickled; use `max_concurrency` and the number of workers as limits. If a worker dies, its block is requested
    again.

    Args:
        chain: As for `answer_rows`.
        max_concurrency: Maximum number of rows in progress at a time in each worker.
    """

    def __init__(self, chain: Runnable[Any, Any], *, max_concurrency: int = 32) -> None:
        self._chain = chain
        self._semaphore = _new_semaphore(max_concurrency)  # shared by all batches, since Ray runs several at once

    async def __call__(self, batch: Any) -> AsyncIterator[dict[str, list[Any]]]:
        """Answer a batch in any of Ray's formats; yield its columns and those of the answers."""
        if hasattr(batch, "to_pylist"):  # pyarrow's
            rows = batch.to_pylist()
        else:
            columns = {name: batch[name].tolist() for name in batch}
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        answered = [row async for row in _answers(self._chain, rows, self._semaphore, keep=None)]
        if answered:
            yield {name: [row[name] for row in answered] for name in answered[0]}
