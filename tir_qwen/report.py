"""What doctor has to say of an endpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from .types import JSON

Status = Literal["ok", "limited", "failed", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One line of the report; `advice` is empty where there is nothing to do."""

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass
class Report:
    """All findings, and what they took."""

    endpoint: str
    findings: list[Finding] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def usable(self) -> bool:
        """Whether the endpoint answers."""
        return all(finding.status != "failed" for finding in self.findings)

    def as_json(self) -> JSON:
        """For programs."""
        return {**asdict(self), "usable": self.usable}
