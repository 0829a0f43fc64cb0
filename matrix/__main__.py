"""Install the package into clean environments and try it there; keep what came of it in results.md.

    python -m matrix                                     all rows, about half an hour
    python -m matrix --only lowest                       the rows that have this in their first four columns
    python -m matrix --with langchain-core==1.7.1        all tests with this version, on the Python that runs this

Needs Python 3.11 or newer, pip and a package registry, and nothing else.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from .environments import Environment, FailedError, Outcome, Row, build_wheel, python_of

RESULTS = Path(__file__).parent / "results.md"
PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = ((), ("langchain",), ("llama-index",), ("langchain", "llama-index"), ("ray",))
COLUMNS = ("Python", "extras", "versions", "run", "result", "seconds", "on", "with")
HEAD = f"""\
# What was installed where, and whether it worked

Written by `make matrix`, row by row. Each row is an environment of its own with the wheel and these extras in it, as a
user's pip would make it; *newest* is whatever the registry had on that day, *lowest* the lower bounds of
pyproject.toml (what is not bounded there is the newest).

*smoke* is [smoke.py](smoke.py): `pip check`, the version, `tir-qwen` and its doctor, both clients, and each installed
face with streams, tools and objects, against a local server; a face without its extra says what to install. *tests*
is the whole test suite; with the lowest versions all of it but the files whose own libraries (langchain, langgraph,
BM25, ...) want higher versions, on httpx2 and again on httpx.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
"""


def rows() -> list[Row]:
    """All rows: the short checks first."""
    lowest = [extras for extras in EXTRAS if len(extras) < 2]
    smoke = [
        *(Row(python, extras, "newest", "smoke") for python in PYTHONS for extras in EXTRAS),
        *(Row(python, extras, "lowest", "smoke") for python in PYTHONS for extras in lowest),
    ]
    tests = [Row(python, ("test",), "newest", "tests") for python in PYTHONS]
    return [*smoke, Row(PYTHONS[0], ("langchain", "llama-index"), "lowest", "tests"), *tests]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows that are asked for; return 1 if one has failed."""
    options = _parser().parse_args(arguments)
    if options.requirements:
        own = f"{sys.version_info[0]}.{sys.version_info[1]}"
        chosen = [Row(own, ("test",), " ".join(options.requirements), "tests")]
        pythons: dict[str, str | None] = {own: sys.executable}
    else:
        chosen = [row for row in rows() if options.only in " ".join(row.cells)]
        pythons = {name: python_of(name) for name in PYTHONS}
        for given in options.python:
            name, _, path = given.partition("=")
            pythons[name] = python_of(path or name)
    for name, found in pythons.items():
        if found is None:
            print(f"Python {name} is not on this machine: its rows are left out (--python {name}=PATH).", flush=True)
    chosen = [row for row in chosen if pythons[row.python]]
    try:
        wheel = build_wheel()
    except FailedError as error:
        print(f"The wheel cannot be built: {error}")
        return 1

    def outcome(row: Row) -> Outcome:
        return Environment(row, pythons[row.python] or "").outcome(wheel)

    failed = 0
    smoke, tests = ([row for row in chosen if row.check == check] for check in ("smoke", "tests"))
    with ThreadPoolExecutor(2) as pool:
        # Two at a time, as long as they mostly wait for the network; the test suite takes all cores.
        for row, result in zip(smoke + tests, chain(pool.map(outcome, smoke), map(outcome, tests)), strict=True):
            failed += result.result != "ok"
            print(_line(row, result), flush=True)
            if not options.requirements:
                _keep(row, result)
    print(f"{len(chosen) - failed} of {len(chosen)} rows are ok.")
    return 1 if failed or not chosen else 0


def _line(row: Row, outcome: Outcome) -> str:
    cells = (*row.cells, outcome.result, f"{outcome.seconds:.0f}", time.strftime("%Y-%m-%d"), outcome.versions)
    return f"| {' | '.join(cells)} |"


def _keep(row: Row, outcome: Outcome) -> None:
    """Write a row into the table, in the place of its predecessor, in the order of `rows`."""
    kept = {}
    if RESULTS.exists():
        for line in RESULTS.read_text("utf-8").splitlines():
            cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
            if len(cells) == len(COLUMNS):
                kept[cells[:4]] = line
    kept[row.cells] = _line(row, outcome)
    lines = [kept[each.cells] for each in rows() if each.cells in kept]
    where = f"\nRun on {platform.system()} {platform.machine()}.\n"
    RESULTS.write_text(HEAD + "\n".join(lines) + "\n" + where, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m matrix", description="Try the package in clean environments.")
    parser.add_argument("--only", default="", metavar="WORD", help="only rows with this in their first four columns")
    parser.add_argument("--with", nargs="+", dest="requirements", metavar="REQUIREMENT", help="the tests with these")
    parser.add_argument(
        "--python", action="append", default=[], metavar="VERSION=PATH", help="where this version of Python is"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
