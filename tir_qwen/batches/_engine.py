"""Answers the rows of a data set, a limited number at a time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from decimal import Decimal
from difflib import get_close_matches
from inspect import isawaitable
from numbers import Integral, Real
from typing import Any, Literal, TypedDict, TypeGuard, get_args

from ..errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    TIRError,
)
from ._lines import COLUMNS, RESERVED, Row, check_row, to_line
from ._summary import Progress, Summary

_AFFECTS_ALL_ROWS = (AuthenticationError, PermissionDeniedError, NotFoundError)
_OVERLOADED = (429, 503, 529)
_GATEWAY = (502, 504)
"""Statuses of a gateway that cannot reach its server, perhaps because of this row."""
_OWN_FAULT = 3
"""How often the endpoint may be unreachable for a row while it answers others."""
_WAITING = 1_000
"""Number of answered rows that may wait to be read before no more rows are started."""
_FIRST_PAUSE = 1.0
_MAX_PAUSE = 60.0
_END = object()
"""Marks the end of a data set; None would hide a None in the data set, which is an error."""


Rows = Iterable[Row] | AsyncIterable[Row]
Ask = Callable[[Row], Awaitable[Row]]
OnError = Literal["record", "raise"]


class BatchOptions(TypedDict, total=False):
    """The options of `answer_rows`."""

    max_concurrency: int
    """Maximum number of rows in progress. Default: 32."""
    keep: Callable[[Row], object] | None
    """Called with each row as soon as it has been answered or has failed, even if the iterator is read slowly; for
    example `AnswerFile.add`. May be async. An error that it raises stops the run."""
    on_error: OnError
    """`record` (the default): a row that fails is yielded with its `error`. `raise`: it stops the run, and is not
    recorded."""
    max_errors: int | None
    """Stop the run when this many rows have failed. Default: None, no limit."""
    max_errors_in_a_row: int | None
    """Stop the run when this many consecutive rows have failed. Default: 100."""
    patience: float
    """Stop the run when the endpoint has answered nothing for this many seconds. Default: 3600. With 0, a row that the
    endpoint refuses counts as failed."""
    progress: bool
    """Whether to show a progress bar (with tqdm, if installed; in notebooks too), and the summary at the end. Default:
    False."""
    prices: tuple[float, float] | None
    """Prices of 1,000,000 input and 1,000,000 output tokens, for the `cost` in the summary. Default: None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options, with their defaults."""

    max_concurrency: int = 32
    keep: Callable[[Row], object] | None = None
    on_error: OnError = "record"
    max_errors: int | None = None
    max_errors_in_a_row: int | None = 100
    patience: float = 3600.0
    progress: bool = False
    prices: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        checks = {
            "max_concurrency": (_is_count(self.max_concurrency), "a whole number, 1 or more"),
            "keep": (self.keep is None or callable(self.keep), "a function"),
            "on_error": (self.on_error in get_args(OnError), "'record' or 'raise'"),
            "max_errors": (_is_limit(self.max_errors), "a whole number, 1 or more, or None"),
            "max_errors_in_a_row": (_is_limit(self.max_errors_in_a_row), "a whole number, 1 or more, or None"),
            "patience": (_is_amount(self.patience), "a number of seconds, 0 or more"),
            "prices": (_are_prices(self.prices), "the prices of 1,000,000 tokens of input and of output"),
        }
        for name, (is_valid, words) in checks.items():
            if not is_valid:
                raise ValueError(f"{name} must be {words}, not {getattr(self, name)!r}.")


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _is_limit(value: Any) -> bool:
    return value is None or _is_count(value)


def _is_amount(value: Any) -> bool:
    return isinstance(value, (Real, Decimal)) and not isinstance(value, bool) and float(value) >= 0


def _are_prices(value: Any) -> bool:
    return value is None or (isinstance(value, (tuple, list)) and [*map(_is_amount, value)] == [True, True])


def _read_options(options: BatchOptions) -> _Options:
    """Return the options with their defaults.

    Raises:
        TypeError: There is no such option.
        ValueError: The value of an option is invalid.
    """
    names = [field.name for field in fields(_Options)]
    if unknown := next((name for name in options if name not in names), None):
        nearest = get_close_matches(unknown, names, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(names)}"
        raise TypeError(f"answer_rows has no option {unknown!r} ({hint}).")
    return _Options(**options)


class MissingColumnError(ValueError):
    """A row lacks a column that the model or its prompt takes. If the first two rows do, they stop the run."""

    def __init__(self, row: Row, needed: Iterable[str], advice: str = "") -> None:
        missing, has = " and ".join(map(repr, needed)), ", ".join(map(repr, row))
        super().__init__(f"a row has no column {missing}; it has {has}." + (f" {advice}" if advice else ""))


class AnsweredRows(AsyncIterator[Row]):
    """The rows of a run with their answers, as they arrive.

    If the loop is left early, the calls in progress are cancelled when the iterator is closed: at once within
    `async with contextlib.aclosing(answers)`, otherwise when no variable refers to it any more.

    Attributes:
        summary: What the run has done so far.
    """

    def __init__(self, rows: AsyncGenerator[Row], summary: Summary) -> None:
        self._rows = rows
        self.summary = summary

    def __anext__(self) -> Awaitable[Row]:
        return self._rows.__anext__()

    async def aclose(self) -> None:
        """Cancel the calls in progress, and end."""
        await self._rows.aclose()


def describe(error: BaseException) -> str:
    """Return the text for the `error` of a row."""
    return f"{type(error).__name__}: {error}"


def run(
    ask: Ask, rows: Rows, options: BatchOptions, describe: Callable[[BaseException], str] = describe
) -> AnsweredRows:
    """Answer rows with a function that returns the columns of an answer; see `answer_rows`.

    An exception in the column `error` counts like one that the function raises, but the other columns are kept.
    """
    state = _Run(ask, rows, _read_options(options), describe)
    return AnsweredRows(state.answers(), state.summary)


class _Run:
    """The state of a run, shared by its workers."""

    def __init__(self, ask: Ask, rows: Rows, options: _Options, describe: Callable[[BaseException], str]) -> None:
        self.summary = Summary(prices=options.prices)
        self._ask = ask
        self._all_rows = rows
        self._rows = aiter(rows) if isinstance(rows, AsyncIterable) else iter(rows)
        self._describe = describe
        self._options = options
        self._reading = asyncio.Lock()
        self._answered: asyncio.Queue[Row | None] = asyncio.Queue(_WAITING)
        self._stopped = asyncio.Event()
        self._failure: BaseException | None = None
        self._begun = self._lacking = 0  # rows so far, and those of them that lack a column
        self._deferred: Row | object = _END  # the first row, if it lacks a column that others may have
        self._errors_in_a_row = 0
        self._pauses = 0
        self._refused_since = 0.0
        self._resume_at = 0.0

    async def answers(self) -> AsyncGenerator[Row]:
        """Yield the rows with their answers; then raise what has stopped the run."""
        bar = Progress(self._all_rows, self.summary) if self._options.progress else None
        workers = asyncio.create_task(self._work_all())
        try:
            while (row := await self._answered.get()) is not None:
                if bar:
                    bar.update()
                yield row
        finally:
            self._stopped.set()
            workers.cancel()
            await asyncio.wait([workers])
            if bar:
                bar.close()
        if self._failure:
            raise self._failure

    async def _work_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._options.max_concurrency):
                group.create_task(self._work())
        await self._answered.put(None)

    async def _work(self) -> None:
        """Answer one row after the other; an error here stops the run, but not the rows of other workers."""
        keep = self._options.keep
        try:
            while not self._stopped.is_set() and (row := await self._next()) is not _END:
                if (answered := await self._answer(row)) is None:
                    continue
                self.summary._add(answered)
                try:
                    if keep and isawaitable(kept := keep(answered)):
                        await kept
                except BaseException as error:  # noqa: BLE001 - raised when the other rows in progress are stored
                    self._stop(_own_error(error, "`keep`"))
                await self._answered.put(answered)
        except BaseException as error:  # noqa: BLE001 - likewise; some libraries panic with a class of their own
            self._stop(_own_error(error, "the data set"))

    async def _next(self) -> Any:
        """Return the next row of the data set, or its end; rows in order may share prefixes, which servers cache."""
        if isinstance(self._rows, AsyncIterator):
            async with self._reading:
                row = await anext(self._rows, _END)
        else:
            row = next(self._rows, _END)
        if row is _END:
            row, self._deferred = self._deferred, _END
        return row

    async def _answer(self, row: Row) -> Row | None:
        """Return the row with its answer or its error; None if it is deferred, or if the run stops."""
        check_row(row)
        if taken := [name for name in RESERVED if name in row]:
            raise ValueError(f"the rows have columns that answers have too: {', '.join(taken)}; rename them.")
        self._begun += 1
        unreachable = 0
        spent: Row = {}  # the columns of the attempt before, with the tokens of all attempts
        while True:
            await self._pause()
            if self._stopped.is_set():
                return None
            before = self.summary.answered
            columns, error = await self._asked(row)
            columns = _with_tokens_of(spent, columns)
            if isinstance(error, MissingColumnError) and self._is_lacking_at_first(row, error):
                return None
            if isinstance(error, _AFFECTS_ALL_ROWS):
                self._stop(error)
                return None
            unreachable += self.summary.answered != before and not _is_overload(error)
            if not (_is_refusal(error) and self._options.patience and unreachable < _OWN_FAULT):
                return self._recorded(row, columns, error)
            spent = columns
            self._refused(error)

    def _is_lacking_at_first(self, row: Row, error: MissingColumnError) -> bool:
        """Whether the first rows lack a column: the first one is deferred to the end, and the second stops the run."""
        self._lacking += 1
        if self._lacking == self._begun == 1:
            self._deferred = row
        elif self._lacking == self._begun and self._deferred is not _END:
            self._stop(error)
        else:
            return False
        return True

    async def _asked(self, row: Row) -> tuple[Row, Exception | None]:
        """Return the columns of an answer, and the error if there is one."""
        columns = dict.fromkeys(COLUMNS)
        error: Exception | None = None
        try:
            answer = await self._ask(dict(row))
            to_line({**answer, "error": None})  # if it cannot be written, only this row has failed
            columns |= answer
        except asyncio.CancelledError as raised:
            error = _own_error(raised, "the call")
        except Exception as raised:  # noqa: BLE001 - recorded or raised, according to `on_error`
            error = raised
        error = error or columns["error"]
        if isinstance(error, TIRError) and (partial := error.partial) and columns["response"] is None:
            columns |= {"response": partial.content, "reasoning": partial.reasoning}
        return columns, error

    def _recorded(self, row: Row, columns: Row, error: Exception | None) -> Row | None:
        self._pauses = 0
        self._errors_in_a_row = self._errors_in_a_row + 1 if error else 0
        if error is None:
            return {**row, **columns}
        self.summary.uncounted += columns["input_tokens"] is None and _may_have_cost(error)
        if self._options.on_error == "raise":
            self._stop(error)
            return None
        failed, in_a_row = self.summary.failed + 1, self._errors_in_a_row
        if _reaches(failed, self._options.max_errors) or _reaches(in_a_row, self._options.max_errors_in_a_row):
            self._stop(error, f"The run was stopped: {failed:,} rows have failed, {in_a_row:,} of them in a row.")
        return {**row, **columns, "error": self._describe(error).encode(errors="backslashreplace").decode()}

    def _refused(self, error: Exception) -> None:
        """Let all workers pause, unless they have done so for too long without any answer."""
        now = time.monotonic()
        if not self._pauses:
            self._refused_since = now
        elif now - self._refused_since > self._options.patience:
            self._stop(error, f"The endpoint has answered no row for {now - self._refused_since:,.0f} s (patience).")
        self.summary.refused += 1
        if now >= self._resume_at:  # otherwise the request had been sent before the pause began
            advice = getattr(error, "retry_after", None) or _FIRST_PAUSE * 2 ** min(self._pauses, 10)
            self._resume_at = now + min(advice, _MAX_PAUSE)
            self._pauses += 1

    async def _pause(self) -> None:
        """Wait for the end of a pause; a random delay keeps workers from resuming at the same moment."""
        while (left := self._resume_at - time.monotonic()) > 0 and not self._stopped.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), left * (1 + random.random() / 2))  # noqa: S311

    def _stop(self, error: BaseException, note: str | None = None) -> None:
        """Start no more rows; the first error is raised when the rows in progress are stored."""
        if self._failure is None:
            self._failure = error
            if note:
                error.add_note(note)
        self._stopped.set()


def _with_tokens_of(spent: Row, columns: Row) -> Row:
    """Add the tokens of an earlier attempt, in which calls were answered before one was refused."""
    tokens = {name: spent[name] for name in ("input_tokens", "output_tokens") if spent.get(name) is not None}
    return columns | {name: (columns[name] or 0) + number for name, number in tokens.items()}


def _may_have_cost(error: Exception) -> bool:
    """Whether the model had begun to answer, so that tokens may be billed although none were reported."""
    return isinstance(error, TIRError) and (error.partial is not None or isinstance(error, APITimeoutError))


def _own_error(error: BaseException, place: str) -> Any:
    """Return the error that stops a row or a run; if the run or the program itself is ending, raise it."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        raise error
    if not isinstance(error, asyncio.CancelledError):
        return error
    if (task := asyncio.current_task()) and task.cancelling():
        raise error
    return RuntimeError(f"{place} was cancelled from within")


def _reaches(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


def _is_overload(error: Exception | None) -> bool:
    """Whether the endpoint has refused a row that it may accept later."""
    return isinstance(error, APIStatusError) and error.status_code in _OVERLOADED


def _is_refusal(error: Exception | None) -> TypeGuard[APIStatusError | APIConnectionError]:
    """Whether the endpoint is overloaded or unreachable; an answer that exceeds a time limit only fails its row."""
    if isinstance(error, APIStatusError):
        return error.is_retryable and error.status_code in (*_OVERLOADED, *_GATEWAY)
    is_slow = isinstance(error, APITimeoutError) and not error.reason
    return isinstance(error, APIConnectionError) and error.is_retryable and not is_slow
