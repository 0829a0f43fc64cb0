"""The questions of the demo, and the file with their recorded answers."""

from __future__ import annotations

from pathlib import Path

COMPARISON = "Which number is larger, 9.9 or 9.11?"
POEM = "Write a haiku about rain."

EXCHANGES = Path(__file__).parent / "exchanges.json"
