"""Writes the results to a JSON file, with the machine and all package versions."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from typing import Any

from .driver import Results
from .groups import Options
from .targets import ratio, targets


def write(path: Path, runs: list[Results], options: Options, seconds: float) -> None:
    """Write one figure per line, so that two files can be diffed."""
    parts: dict[str, Any] = {
        "machine": machine(),
        "options": {**asdict(options), "runs": len(runs)},
        "seconds": round(seconds),
        "versions": versions(),
        "targets": [*_targets(runs)],
        "figures": [*_figures(runs)],
        "failures": [[*key, error] for key, error in {k: e for run in runs for k, e in run.failures.items()}.items()],
    }
    texts = []
    for name, value in parts.items():
        lines = ",\n".join(f"  {json.dumps(line)}" for line in value) if isinstance(value, list) else ""
        texts.append(f'"{name}": [\n{lines}\n]' if lines else f'"{name}": {json.dumps(value)}')
    path.write_text("{\n" + ",\n".join(texts) + "\n}\n")


def machine() -> dict[str, Any]:
    """Describe the machine, without its name."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {"cpu": _cpu(), "cores": os.cpu_count(), "python": python, "system": platform.system()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions() -> dict[str, str]:
    """Return the versions of all installed packages."""
    return dict(sorted((found.metadata["Name"].lower(), found.version) for found in distributions()))


def _targets(runs: list[Results]) -> Iterator[dict[str, Any]]:
    for target in targets():
        if figures := target.figures(runs):
            limit = {"at_most" if target.at_most else "at_least": target.limit}
            yield {"name": target.name, **limit, **_statistics(figures), "met": target.met(figures)}


def _figures(runs: list[Results]) -> Iterator[dict[str, Any]]:
    for key in dict.fromkeys(key for run in runs for key in run.figures):
        values = [value for run in runs for value in run.figures.get(key, ())]
        medians = [run.median(*key) for run in runs if key in run.figures]
        ratios = [found for run in runs if (found := ratio(run, key)) is not None]
        figure = {**key._asdict(), **_statistics(values), "median": _rounded(median(medians)), "count": len(values)}
        yield figure | ({"ratio": _statistics(ratios)} if ratios else {})


def _statistics(values: list[float]) -> dict[str, float]:
    return {"median": _rounded(median(values)), "min": _rounded(min(values)), "max": _rounded(max(values))}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
