"""How fast each layer is: tables, and files in `benchmarks/results`.

python -m benchmarks [--only GROUP] [--runs 1] [--rounds 7] [--chunks 2000]
"""

from __future__ import annotations

import argparse

from .speed.driver import Results, Workers
from .speed.groups import GROUPS, Options
from .speed.report import show
from .speed.server import running


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=GROUPS, action="append")
    parser.add_argument("--rounds", type=int, default=Options.rounds)
    parser.add_argument("--chunks", type=int, default=Options.chunks)
    asked = parser.parse_args()
    results, options = Results(), Options(asked.rounds, asked.chunks)
    for name in asked.only or GROUPS:
        with running() as base_url, Workers(base_url) as workers:
            GROUPS[name](workers, results, options)
        show(name, results)


if __name__ == "__main__":
    main()
