"""Bulk inference with LangChain: run a chain over a data set and resume after a crash, or run it on a Ray cluster.

`answer_rows` and `AnswerFile` are those of `tir_qwen.batches`, for chains. `AnswerBatch` is `answer_rows` for Ray
Data's `map_batches`.

```python
import asyncio

from langchain_core.prompts import ChatPromptTemplate
from langchain_tir_qwen import ChatTIRQwen
from langchain_tir_qwen.batches import AnswerFile, answer_rows

rows = [{"id": 1, "country": "France"}, {"id": 2, "country": "Peru"}]
chain = ChatPromptTemplate.from_template("Name the capital of {country}.") | ChatTIRQwen()


async def main() -> None:
    with AnswerFile("answers.jsonl") as file:
        async for row in answer_rows(chain, file.missing(rows), keep=file.add):
            print(row["id"], row["error"] or row["response"])


asyncio.run(main())  # in a notebook: await main()
```
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Unpack

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import Runnable, RunnableSequence, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable, RunnableConfigurableAlternatives
from pydantic_core import to_jsonable_python

from tir_qwen.batches import AnsweredRows, AnswerFile, BatchOptions
from tir_qwen.batches._engine import MissingColumnError, Rows, describe, run
from tir_qwen.batches._lines import Row

__all__ = ["AnswerBatch", "AnswerFile", "answer_rows"]

_INNER: dict[Any, str] = {
    RunnableSequence: "first",
    RunnableBindingBase: "bound",
    RunnableWithFallbacks: "runnable",
    DynamicRunnable: "default",
}
"""The attribute of a runnable that contains the runnable that takes its input."""
_WITH_ALTERNATIVES = (RunnableWithFallbacks, RunnableConfigurableAlternatives)
"""Runnables whose input another one may take instead."""
_LANGCHAIN_ADVICE = "\nFor troubleshooting, visit: "
"""What LangChain appends to the text of its errors."""


def answer_rows(chain: Runnable[Any, Any], rows: Rows, **options: Unpack[BatchOptions]) -> AnsweredRows:
    """Run a chain on each row, and yield the rows with their answers as they arrive.

    Errors, retries and the end of a run are handled as in `tir_qwen.batches.answer_rows`.

    Args:
        chain: Takes a row: a prompt template uses the columns that it names, and a model without a template uses
            `messages` if there is such a column, otherwise `prompt`. The chain returns a message, a string, an object,
            or the output of `with_structured_output(..., include_raw=True)`. Set callbacks and tags with its
            `with_config`.
        rows: The data set; an iterator is read as needed.
        **options: The options in `tir_qwen.batches.BatchOptions`, such as `max_concurrency` and `keep`.

    Yields:
        The row, and the columns `response`, `reasoning`, `finish_reason`, `input_tokens`, `output_tokens` and `error`.
            The tokens are the sum over all model calls for the row; the reasoning and the finish reason are those of
            the last call. If the chain fails after a model has answered, for example because the answer is not the
            requested object, the row has both an `error` and the model's text as its `response`.

    Raises:
        TypeError: `chain` is not a runnable of LangChain.
        ValueError: (when iterated) The first two rows lack a column that the template or the model uses.
    """
    if not isinstance(chain, Runnable):
        kind = f"the class {chain.__name__}" if isinstance(chain, type) else f"a {type(chain).__name__}"
        raise TypeError(f"answer_rows takes a chain or a model, not {kind}.")
    return run(_asker(chain), rows, options, _describe)


def _asker(chain: Runnable[Any, Any]) -> Callable[[Row], Awaitable[Row]]:
    first, has_alternatives = _first(chain)

    async def ask(row: Row) -> Row:
        answers, given = _Answers(), _input(first, row, has_alternatives)
        try:
            output = await chain.ainvoke(given, {"callbacks": [answers]})
        except Exception as error:  # noqa: BLE001 - the row keeps its token counts
            return {**_columns_of_messages(answers.messages), "error": error}
        message = output["raw"] if _has_raw_answer(output) else output
        messages = answers.messages or ([message] if isinstance(message, AIMessage) else [])
        return {**_columns_of_messages(messages), **_columns(output)}

    return ask


class _Answers(BaseCallbackHandler):
    """Collects the messages of all models that a chain calls for one row."""

    run_inline = True

    def __init__(self) -> None:
        self.messages: list[AIMessage] = []

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        """Add the first answer to each prompt."""
        for generation, *_more in response.generations:
            if isinstance(generation, ChatGeneration) and isinstance(generation.message, AIMessage):
                self.messages.append(generation.message)


def _first(chain: Runnable[Any, Any], has_alternatives: bool = False) -> tuple[Runnable[Any, Any], bool]:
    """Return the part of a chain that takes its input, and whether another one may take it instead."""
    for kind, name in _INNER.items():
        if isinstance(chain, kind):
            return _first(getattr(chain, name), has_alternatives or isinstance(chain, _WITH_ALTERNATIVES))
    return chain, has_alternatives


def _input(first: Runnable[Any, Any], row: Row, has_alternatives: bool) -> Any:
    """Return the part of a row that a chain takes.

    Raises:
        MissingColumnError: The row lacks it.
    """
    if isinstance(first, BaseLanguageModel):
        if not row.keys() & {"messages", "prompt"}:
            raise MissingColumnError(row, ["prompt"], "A prompt template before the model can use other columns.")
        return row["messages"] if "messages" in row else row["prompt"]
    needed = set(first.input_variables) if isinstance(first, BasePromptTemplate) and not has_alternatives else set()
    if missing := needed - row.keys():
        raise MissingColumnError(row, sorted(missing))
    return row


def _columns(output: Any) -> Row:
    """Return the columns of a chain's output."""
    if isinstance(output, AIMessage):
        return {"response": _response(output)}
    if _has_raw_answer(output):
        if output["parsing_error"]:
            return {**_columns(output["raw"]), "error": output["parsing_error"]}
        output = output["parsed"]
    return {"response": to_jsonable_python(output)}


def _has_raw_answer(output: Any) -> bool:
    """Whether it is the output of `with_structured_output(..., include_raw=True)`."""
    return isinstance(output, Mapping) and set(output) == {"raw", "parsed", "parsing_error"}


def _columns_of_messages(messages: Sequence[AIMessage]) -> Row:
    """Return the columns of the answers of all models that a chain has called."""
    if not messages:
        return {}
    usages: list[Any] = [usage for message in messages if (usage := message.usage_metadata)]
    paid = [usage for usage in usages if usage.get("total_cost") != 0]  # LangChain's mark of an answer from its cache
    return {
        "response": _response(messages[-1]),
        "reasoning": messages[-1].additional_kwargs.get("reasoning_content", ""),
        "finish_reason": messages[-1].response_metadata.get("finish_reason"),
        "input_tokens": sum(usage["input_tokens"] for usage in paid) if usages else None,
        "output_tokens": sum(usage["output_tokens"] for usage in paid) if usages else None,
    }


def _response(message: AIMessage) -> Any:
    calls = [
        {"name": call["name"], "args": call["args"]} for call in (*message.tool_calls, *message.invalid_tool_calls)
    ]
    return {"text": str(message.text), "tool_calls": calls} if calls else str(message.text)


def _describe(error: BaseException) -> str:
    return describe(error).partition(_LANGCHAIN_ADVICE)[0]


def _plain(value: Any) -> Any:
    """Return lists instead of numpy's arrays, and Python's numbers, at any depth."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


class AnswerBatch:
    """`answer_rows` for Ray Data's `map_batches`.

    ```
    def make_chain():  # called by each worker
        return ChatTIRQwen()  # takes the column `prompt`


    answered = ray.data.read_json("prompts.jsonl").map_batches(
        AnswerBatch,
        fn_constructor_args=(make_chain,),
        batch_size=256,
        compute=ray.data.ActorPoolStrategy(size=4),
    )
    ```

    A row that fails is returned with its `error`, and the job continues. The job fails if the token is wrong, or if the
    endpoint answers nothing for an hour. If a worker dies, Ray runs its block of rows again.

    A chain is pickled for the workers, with its settings and its token. If you pass a function that makes the chain
    instead, the model reads the token from the worker's environment.

    Chains should return strings, or objects of a single class, since a Ray column has a single type. Rate limiters
    cannot be pickled. The concurrency of the job is `max_concurrency` times the number of workers.

    Args:
        chain: As for `answer_rows`, or a function without arguments that returns one. Ray pickles the function with
            the global variables that it uses, so it should create the model itself.
        max_concurrency: Maximum number of rows in progress in each worker.
    """

    def __init__(
        self, chain: Runnable[Any, Any] | Callable[[], Runnable[Any, Any]], *, max_concurrency: int = 32
    ) -> None:
        ask = _asker(chain if isinstance(chain, Runnable) else chain())
        self._options = BatchOptions(max_concurrency=max_concurrency, max_errors_in_a_row=None)
        run(ask, [], self._options)  # validates them
        at_work = asyncio.Semaphore(max_concurrency)  # shared by all batches: Ray runs several concurrently

        async def ask_in_turn(row: Row) -> Row:
            async with at_work:
                try:
                    return await ask(row)
                except MissingColumnError as error:
                    return {"error": ValueError(str(error))}  # does not end the job: a batch is only a part of the data

        self._ask = ask_in_turn

    async def __call__(self, batch: Any) -> AsyncIterator[dict[str, list[Any]]]:
        """Answer a batch in any of Ray's formats; yield its columns and those of the answers."""
        if hasattr(batch, "to_pylist"):  # pyarrow's
            rows = batch.to_pylist()
        else:
            columns = {name: _plain(batch[name]) for name in batch}
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        answered = [row async for row in run(self._ask, rows, self._options, _describe)]
        if answered:
            yield {name: [row[name] for row in answered] for name in answered[0]}
