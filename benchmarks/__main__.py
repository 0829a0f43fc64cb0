"""Measures how fast each layer is, compared with the frameworks alone and with other integrations (`make bench`).

python -m benchmarks [--only GROUP] [--runs 1] [--rounds 5] [--chunks 2000] [--out DIRECTORY]

Prints tables; a run of all groups also writes `bench.json`, and `bench.svg` for the docs. Ratios (x) are relative to
the raw engine in the same run, plus the framework's floor if there is one: the cost of the framework itself. The exit
status is 1 if one of our own clients failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .driver import Results, Workers
from .files import write
from .groups import GROUPS, OURS, Options
from .plot import draw
from .report import show, show_targets
from .server import running
from .subjects import ON_HTTPX

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def measure(groups: list[str], options: Options) -> Results:
    """Measure all groups once."""
    results = Results()
    with running() as base_url, Workers(base_url) as workers:
        for name in groups:
            began = time.monotonic()
            GROUPS[name](workers, results, options)
            print(f"measured {name} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return results


def main() -> int:
    """Measure, print the results and write the files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=GROUPS, action="append", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--runs", type=int, default=1, help="how often to measure; shows the spread of ratios")
    parser.add_argument("--rounds", type=int, default=Options.rounds)
    parser.add_argument("--chunks", type=int, default=Options.chunks)
    parser.add_argument("--out", type=Path, help="where to write the files, even with --only")
    asked = parser.parse_args()
    began, options, groups = time.monotonic(), Options(asked.rounds, asked.chunks), asked.only or [*GROUPS]
    runs = [measure(groups, options) for _ in range(asked.runs)]
    for name in groups:
        show(name, runs)
    show_targets(runs)
    seconds = time.monotonic() - began
    print(f"\n{seconds:.0f} seconds")
    if asked.out or not asked.only:
        directory = asked.out or RESULTS
        directory.mkdir(exist_ok=True)
        write(directory / "bench.json", runs, options, seconds)
        draw((asked.out or IMAGES) / "bench.svg", runs)
    failed = {key.subject.removesuffix(ON_HTTPX) for run in runs for key in run.failures}
    return int(not failed.isdisjoint(OURS))


if __name__ == "__main__":
    sys.exit(main())
