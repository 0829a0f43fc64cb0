"""Plots the most important figures."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from .driver import Key, Results
from .files import machine
from .groups import ASYNC, CPU, PACED_SECONDS, RATE, SECONDS, SYNC
from .subjects import (
    CLIENT,
    LANGCHAIN,
    LANGCHAIN_FLOOR,
    LIKE,
    LLAMA_INDEX,
    LLAMA_INDEX_FLOOR,
    MISTRAL,
    OPENAI,
    RAW,
    RAW_HTTPX,
)

_COLOURS = {RAW: "#9aa5b1", RAW_HTTPX: "#9aa5b1", LANGCHAIN_FLOOR: "#9aa5b1", LLAMA_INDEX_FLOOR: "#9aa5b1"}
_COLOURS |= dict.fromkeys((CLIENT, LANGCHAIN, LLAMA_INDEX), "#1668b8")
_OTHER = "#d1772b"
_LABELS = {LANGCHAIN: f"{LANGCHAIN} (LangChain)", LLAMA_INDEX: f"{LLAMA_INDEX} (LlamaIndex)"}
_LABELS |= {OPENAI: f"{OPENAI} (LangChain)", MISTRAL: f"{MISTRAL} (LangChain)", LIKE: f"{LIKE} (LlamaIndex)"}
_GAP = "\u00a0"
"""A space that SVG does not strip at the ends of a text."""
_PANELS = (
    (
        "CPU per streamed chunk, µs (dark: sync, light: async)",
        ("stream", "text", (SYNC, ASYNC)),
        (RAW, CLIENT, LANGCHAIN_FLOOR, LANGCHAIN, MISTRAL, OPENAI, LLAMA_INDEX_FLOOR, LLAMA_INDEX, LIKE),
    ),
    (
        "Calls per second, 64 at once (longer is better)",
        ("flight", "64 at once", (RATE,)),
        (RAW, RAW_HTTPX, CLIENT, LANGCHAIN, OPENAI, LLAMA_INDEX, LIKE),
    ),
    (
        "CPU per token of 256 streams, each of 40 tokens/s, µs",
        ("paced", "256 streams", (CPU,)),
        (RAW, CLIENT, LANGCHAIN, MISTRAL, OPENAI, LLAMA_INDEX, LIKE),
    ),
)


def draw(path: Path, runs: list[Results]) -> None:
    """Write the plot if matplotlib is installed."""
    try:
        mpl = import_module("matplotlib")  # optional: the tables do not need it
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    settings = {"svg.fonttype": "none", "svg.hashsalt": "tir-qwen", "font.family": "sans-serif", "font.size": 9}
    with mpl.rc_context(settings):
        heights = [len(subjects) for _, _, subjects in _PANELS]
        size = (8, 0.26 * sum(heights) + 2.4)
        figure = import_module("matplotlib.figure").Figure(size, facecolor="white", layout="constrained")
        axes = figure.subplots(len(_PANELS), 1, height_ratios=heights)
        for axis, (title, what, subjects) in zip(axes, _PANELS, strict=True):
            _panel(axis, title, _bars(runs, *what, subjects))
            if what[0] == "paced":
                _tell_late(axis, dict(_bars(runs, "paced", what[1], (SECONDS,), subjects)))
        facts = machine()
        where = f"{facts['cpu']}, {facts['cores']} cores, {facts['python']}"
        figure.supxlabel(where, fontsize=8, color="#555555")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _bars(
    runs: list[Results], group: str, case: str, columns: tuple[str, ...], subjects: tuple[str, ...]
) -> list[tuple[str, list[float]]]:
    bars = []
    for subject in subjects:
        found = [
            [run.median(*key) for run in runs if (key := Key(group, case, subject, column)) in run.figures]
            for column in columns
        ]
        if all(found):
            bars.append((subject, [median(values) for values in found]))
    return bars


def _panel(axis: Any, title: str, bars: list[tuple[str, list[float]]]) -> None:
    for place, (subject, values) in enumerate(bars):
        height = 0.8 / len(values)
        for number, value in enumerate(values):
            at = place + (number - (len(values) - 1) / 2) * height
            colour = _COLOURS.get(subject, _OTHER)
            axis.barh(at, value, height, color=colour, alpha=0.6 if number else 1, linewidth=0)
            axis.text(value, at, f"{_GAP}{value:.0f}", va="center", fontsize=7 if len(values) > 1 else 8)
    axis.set_yticks(range(len(bars)), [_LABELS.get(subject, subject) for subject, _ in bars])
    axis.invert_yaxis()
    axis.set_title(title, loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.08)


def _tell_late(axis: Any, seconds: dict[str, list[float]]) -> None:
    """Mark subjects that could not keep up: their CPU time per token is lower, since they read many tokens at once."""
    for place, (took,) in enumerate(seconds.values()):
        if took > 1.2 * PACED_SECONDS:
            text = f"{took:.0f} s instead of {PACED_SECONDS}{_GAP}"
            axis.text(axis.patches[place].get_width(), place, text, va="center", ha="right", fontsize=8, color="white")
