"""`answer_rows` for any function of a row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Unpack

from pydantic_core import from_json, to_jsonable_python

from ..types import Completion
from ._engine import AnsweredRows, BatchOptions, Rows, run
from ._lines import Row


def answer_rows(answer: Callable[[Row], Awaitable[Any]], rows: Rows, **options: Unpack[BatchOptions]) -> AnsweredRows:
    """Run an async function on each row, and yield the rows with their answers as they arrive.

    Up to `max_concurrency` rows are in progress at a time. As soon as one is answered, the next one is read and
    started, in the order of the data set. Memory does not grow with the number of rows.

    If a row fails, the others continue. If an error stops the run, the rows in progress are first answered, stored and
    yielded, so no paid answer is lost. Only closing the iterator (see `AnsweredRows`) and Ctrl-C cancel them.

    If the endpoint is overloaded (429, 503, 529) or unreachable (no connection, 502, 504), even after the client's own
    retries, all rows pause, and the row is sent again. If it answers nothing for `patience` seconds, the run stops.

    Args:
        answer: Takes a row; returns a `tir_qwen.Completion`, a string, or any object that can be written as JSON.
        rows: The data set: dicts from an iterable or an async iterable, which is read as needed.
        **options: The options in `BatchOptions`, such as `max_concurrency`, `keep` and `progress`.

    Yields:
        The row, and the columns `response` (the text, or the object as JSON values; for tool calls, an object with
            `text` and `tool_calls`), `reasoning`, `finish_reason` (`length`: truncated by max_tokens), `input_tokens`,
            `output_tokens` (None unless `answer` returns a `Completion`), and `error` (None, or why the row failed).

    Raises:
        AuthenticationError: The token is wrong, so every row would fail. `PermissionDeniedError`, `NotFoundError`, any
            error of `rows` or `keep`, and the error of the row that reaches a limit such as `max_errors` also stop the
            run. Unless it reached a limit, the row that stopped the run is not recorded as failed.
        TypeError: A row is not a dict.
        ValueError: An option is invalid; or a row already has one of these columns, or `attempts`.
    """

    async def ask(row: Row) -> Row:
        return _columns(await answer(row))

    return run(ask, rows, options)


def _columns(output: Any) -> Row:
    """Return the columns of what a function returns."""
    if not isinstance(output, Completion):
        return {"response": to_jsonable_python(output)}
    usage = output.usage or {}
    calls = [
        {"name": call.name, "args": call.arguments if call.error else from_json(call.arguments)}
        for call in output.tool_calls
    ]
    return {
        "response": {"text": output.content, "tool_calls": calls} if calls else output.content,
        "reasoning": output.reasoning,
        "finish_reason": output.finish_reason,
        "input_tokens": usage.get("prompt_tokens"),
        "output_tokens": usage.get("completion_tokens"),
    }
