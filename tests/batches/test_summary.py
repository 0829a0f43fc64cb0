"""What a run shows while it goes on, and at its end."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path

import pytest
from tqdm.auto import tqdm

from tests.batches.test_answer_file import Row, rows_of
from tir_qwen import APITimeoutError, BadRequestError, Completion, StreamInterruptedError
from tir_qwen.batches import AnswerFile, Summary, answer_rows
from tir_qwen.types import Choice


async def answer(row: Row) -> Completion:
    """Answer all rows but two."""
    if row["id"] in (3, 5):
        raise ValueError("no")
    return Completion([Choice(content="Hi")], usage={"prompt_tokens": 1_000, "completion_tokens": 50})


async def test_the_account_of_a_run() -> None:
    """The summary counts rows and tokens while the run goes on, and what they cost if prices are given."""
    answers = answer_rows(answer, rows_of(10), prices=(10.0, 40.0), max_concurrency=1)
    assert (
        str(answers.summary)
        == "This run: 0 rows answered, 0 failed in 0.0 s; 0 tokens of input, 0 of output, cost 0.0000"
    )
    async with aclosing(answers):
        async for _ in answers:
            pass
    summary = answers.summary
    assert (summary.rows, summary.answered, summary.failed, summary.refused) == (10, 8, 2, 0)
    assert (summary.input_tokens, summary.output_tokens) == (8_000, 400)
    assert summary.cost == pytest.approx(0.096)
    assert 0 < summary.seconds < 10
    tokens = "8,000 tokens of input, 400 of output, cost 0.0960"
    assert str(summary) == f"This run: 8 rows answered, 2 failed in {summary.seconds:.1f} s; {tokens}"
    assert str(Summary(1_234, 1_234, seconds=987.6)) == (
        "This run: 1,234 rows answered, 0 failed in 988 s; 0 tokens of input, 0 of output"
    )
    assert Summary().cost is None
    assert str(Summary(1, 1, input_tokens=400_000, prices=(1_000.0, 0.0))).endswith("of output, cost 400.00")


async def test_tokens_that_are_unknown() -> None:
    """The summary says of how many answers it does not know the tokens, rather than counting them as none."""

    async def ask(row: Row) -> Completion | str:
        return "Hi" if row["id"] in unknown else await answer(row)

    unknown = {0, 1, 3}
    told = []
    for rows in (rows_of(2), rows_of(10)):
        answers = answer_rows(ask, rows, prices=(10.0, 40.0))
        assert len([row async for row in answers]) == len(rows)
        told.append((answers.summary.uncounted, str(answers.summary).partition("; ")[2]))
    assert told == [
        (2, "tokens unknown"),
        (3, "6,000 tokens of input, 300 of output, cost 0.0720, without 3 rows whose tokens are unknown"),
    ]


@pytest.mark.parametrize(
    ("error", "uncounted"),
    [
        (StreamInterruptedError("broken"), 1),
        (APITimeoutError("late"), 1),
        (BadRequestError("no", status_code=400), 0),
        (ValueError("no"), 0),
    ],
    ids=["interrupted", "late", "rejected", "another error"],
)
async def test_tokens_of_a_failed_call(error: Exception, uncounted: int) -> None:
    """A call that failed after the model had begun may be billed; the part of its answer is kept."""

    async def ask(row: Row) -> Completion:
        raise error

    if isinstance(error, StreamInterruptedError):
        error.partial = Completion([Choice(content="It is ", reasoning="Hm.")])
    answers = answer_rows(ask, rows_of(1))
    (row,) = [row async for row in answers]
    kept = ("It is ", "Hm.") if isinstance(error, StreamInterruptedError) else (None, None)
    assert (row["response"], row["reasoning"], answers.summary.uncounted) == (*kept, uncounted)


@pytest.mark.parametrize("left", [False, True], ids=["to the end", "left"])
async def test_a_progress_bar(left: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar shows rows, rate, tokens and errors, and below it stands the summary, also if the loop is left."""
    with AnswerFile(tmp_path / "answers.jsonl") as file:
        file.add(
            {**rows_of(1)[0], **dict.fromkeys(["reasoning", "finish_reason"]), "response": "a"}
            | dict.fromkeys(["input_tokens", "output_tokens", "error"])
        )
        answers = answer_rows(answer, file.missing(rows_of(10)), progress=True, keep=file.add)
        async with aclosing(answers):
            async for row in answers:
                if left and row["id"] == 6:
                    break
    shown = capsys.readouterr()
    assert shown.out == ""
    bar, _, summary = shown.err.strip().rpartition("\n")
    assert "/9 [" in bar
    assert "rows/s" in bar or "s/ rows" in bar
    if not left:
        assert "9/9" in bar
        assert "7,350 tokens, 2 errors" in bar
    assert summary == str(answers.summary)
    assert summary.startswith("This run: 7 rows answered, 2 failed in 0.")


async def test_a_bar_without_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody knows the number of rows, the bar counts them."""

    async def source() -> AsyncIterator[Row]:
        for row in rows_of(3):
            yield row

    assert len([row async for row in answer_rows(answer, source(), progress=True)]) == 3
    assert "3 rows [" in capsys.readouterr().err


async def test_without_tqdm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without tqdm there is a warning instead of a bar."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert len([row async for row in answer_rows(answer, rows_of(3), progress=True)]) == 3
    assert caplog.messages == ["A progress bar needs tqdm: pip install tqdm"]
    assert capsys.readouterr().err == ""


async def test_a_bar_that_is_switched_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar that tqdm's own switch turns off shows nothing."""
    monkeypatch.setattr("tqdm.auto.tqdm", partial(tqdm, disable=True))
    assert len([row async for row in answer_rows(answer, rows_of(3), progress=True)]) == 3
    assert capsys.readouterr().err == ""
