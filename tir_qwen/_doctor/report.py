"""The report of `tir-qwen doctor`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from ..types import JSON

Status = Literal["ok", "limited", "failed", "unknown"]


@dataclass(frozen=True)
class CheckResult:
    """One line of the report; `advice` is empty if there is nothing to do."""

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass
class Report:
    """All results, and the number of tokens used."""

    endpoint: str
    results: list[CheckResult] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def usable(self) -> bool:
        """Whether the endpoint answers: no check has failed."""
        return all(result.status != "failed" for result in self.results)

    def as_json(self) -> JSON:
        """Return the report for `--json`."""
        return {**asdict(self), "usable": self.usable}
