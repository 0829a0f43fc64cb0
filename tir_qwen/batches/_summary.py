"""The state of a run so far, and the progress bar that shows it."""

from __future__ import annotations

import logging
import operator
import time
from dataclasses import dataclass, field
from typing import Any

from ._lines import Row, counted

_logger = logging.getLogger("tir_qwen")


@dataclass
class Summary:
    """The state of one run so far, without earlier runs of the same file; `str()` describes it in a sentence.

    Attributes:
        rows: Number of rows that have been answered or have failed.
        answered: Number of rows with an answer.
        failed: Number of rows with an `error`.
        refused: How often a row was postponed because the endpoint was overloaded or unreachable.
        input_tokens: Tokens of the prompts, as far as the answers report them.
        output_tokens: Tokens of the answers, with their reasoning.
        uncounted: Number of rows whose tokens are unknown although the model answered, or had begun to.
        seconds: Duration of the run until the last row.
        prices: Prices of 1,000,000 input and 1,000,000 output tokens, in any currency, if given.
    """

    rows: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    uncounted: int = 0
    seconds: float = 0.0
    prices: tuple[float, float] | None = None
    _began: float = field(default_factory=time.monotonic, repr=False, compare=False)

    @property
    def cost(self) -> float | None:
        """The cost of the tokens; None without `prices`."""
        if self.prices is None:
            return None
        return (self.input_tokens * self.prices[0] + self.output_tokens * self.prices[1]) / 1_000_000

    def __str__(self) -> str:
        duration = f"{self.seconds:,.1f}" if self.seconds < 10 else f"{self.seconds:,.0f}"
        text = f"This run: {counted(self.answered)} answered, {self.failed:,} failed in {duration} s"
        if self.uncounted and not self.input_tokens:
            return f"{text}; tokens unknown"
        text += f"; {self.input_tokens:,} tokens of input, {self.output_tokens:,} of output"
        if self.cost is not None:
            text += f", cost {self.cost:,.{2 if self.cost >= 1 else 4}f}"
        return f"{text}, without {counted(self.uncounted)} whose tokens are unknown" if self.uncounted else text

    def _add(self, row: Row) -> None:
        self.rows += 1
        self.answered += row["error"] is None
        self.failed += row["error"] is not None
        self.input_tokens += row["input_tokens"] or 0
        self.output_tokens += row["output_tokens"] or 0
        self.uncounted += row["error"] is None and row["input_tokens"] is None
        self.seconds = time.monotonic() - self._began


class Progress:
    """A progress bar of tqdm, in terminals and notebooks.

    Args:
        rows: The data set, which may know its length.
        summary: What the bar shows.
    """

    def __init__(self, rows: Any, summary: Summary) -> None:
        self._summary = summary
        self._bar = None
        try:
            from tqdm.auto import tqdm  # noqa: PLC0415 - optional
        except ModuleNotFoundError:
            _logger.warning("A progress bar needs tqdm: pip install tqdm")
        else:
            self._bar = tqdm(total=operator.length_hint(rows) or None, unit=" rows")

    def update(self) -> None:
        """Show one more row."""
        if self._bar is not None:
            tokens = self._summary.input_tokens + self._summary.output_tokens
            self._bar.set_postfix_str(f"{tokens:,} tokens, {self._summary.failed:,} errors", refresh=False)
            self._bar.update()

    def close(self) -> None:
        """Leave the bar as it is, and print the summary below it."""
        if self._bar is not None:
            is_shown = not self._bar.disable  # as by TQDM_DISABLE
            self._bar.close()
            if is_shown:
                self._bar.write(str(self._summary), file=self._bar.fp)
