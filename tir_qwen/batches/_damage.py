"""Damaged lines of a file of answers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ._lines import without_padding

_NAMED = 5
"""Number of lines that a warning describes."""


class Line(NamedTuple):
    """A line of a file: its number from 1, its offset, and its length in bytes."""

    number: int
    at: int
    size: int


@dataclass
class Damage:
    """The damaged lines of a file.

    Attributes:
        mended: The repaired lines, by offset; empty if a line cannot be repaired.
        lost: The lines that cannot be repaired.
    """

    mended: dict[int, bytes] = field(default_factory=dict)
    lost: list[Line] = field(default_factory=list)

    def add(self, number: int, at: int, line: bytes, mended: bytes) -> None:
        """Add a line, and the part of it that could be repaired."""
        self.mended[at] = mended
        if not mended and without_padding(line):
            self.lost.append(Line(number, at, len(line)))

    def set_aside(self, path: Path, aside: Path) -> None:
        """Append the lost lines of a file to another."""
        if not self.lost:
            return
        with path.open("rb") as file, aside.open("ab") as others:
            for line in self.lost:
                file.seek(line.at)
                others.write(file.read(line.size).rstrip(b"\n") + b"\n")
            others.flush()
            os.fsync(others.fileno())

    def describe(self, aside: Path) -> str:
        """Describe what happens to the lines."""
        told = []
        if self.lost:
            named = [f"line {line.number:,} ({line.size:,} bytes)" for line in self.lost[:_NAMED]]
            named += [f"{len(self.lost) - _NAMED:,} more"] if len(self.lost) > _NAMED else []
            told.append(f"{', '.join(named)} moved to {aside.name}, so the rows are missing again")
        if others := len(self.mended) - len(self.lost):
            told.append(f"NULs, blanks or a byte order mark removed from {others:,} lines")
        return "; ".join(told)
