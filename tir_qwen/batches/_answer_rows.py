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

    A fixed number of rows is at work at a time; as soon as one is answered, the next one is read and started, in the
    order of the data set. Memory does not grow with the number of rows.

    Nothing that was paid for is lost. If a row fails, the others go on. If something stops the run, the rows at work
    are first answered, kept and yielded. Only leaving the loop (and Ctrl-C) cancels them.

    A row that the endpoint refuses (429, 503, 529) even after the client's own retries, or cannot be sent because the
    endpoint is out of reach (no connection, 502, 504), is asked again after a pause of all rows, for as long as that
    takes. An endpoint that answers nothing at all for as long as `patience` stops the run.

    Args:
        answer: Takes a row; returns a `tir_qwen.Completion`, a text, or any object that can be written as JSON.
        rows: The data set: dicts from an iterable or an async iterable, which is read as far as needed.
        **options: Those of `BatchOptions`, such as `max_concurrency`, `keep` and `progress`.

    Yields:
        The row, and the columns `response` (the text, or the object as JSON values; of tool calls, an object with
            `text` and `tool_calls`), `reasoning`, `finish_reason` (`length`: truncated by max_tokens), `input_tokens`,
            `output_tokens` (None unless `answer` returns a `Completion`), and `error` (None, or why the row failed).

    Raises:
        AuthenticationError: The token is wrong, which affects every row. `PermissionDeniedError`, `NotFoundError`, any
            error of `rows` or `keep`, and the error of a row that exceeds a limit above also stop the run. A row that
            stopped it without a limit is not recorded as failed.
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
