"""1,000,000 rows: the time and the memory that they take, without any server.

python -m stress.million [--number 1000000]

Each measurement has a process of its own; memory is the most that it held at any time (resident), with Python itself.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tir_qwen.batches import AnswerFile, answer_rows

PROMPT = "What is the capital of this country, and since when? " * 4
ANSWER = "The capital is Paris, since 987. " * 9


def rows_of(number: int) -> Iterator[dict[str, Any]]:
    """Return rows with prompts of 200 characters."""
    return ({"id": f"row-{at:08d}", "prompt": f"{at}: {PROMPT}"} for at in range(number))


async def answer(_: dict[str, Any]) -> str:
    """Answer at once, but let others begin first."""
    await asyncio.sleep(0)
    return ANSWER


async def _run(number: int, **options: Any) -> int:
    return sum([1 async for _ in answer_rows(answer, rows_of(number), **options)])


def through(number: int, _: Path) -> int:
    """Answer rows without keeping them."""
    return asyncio.run(_run(number))


def written(number: int, path: Path) -> int:
    """Answer rows and write them to a file."""
    with AnswerFile(path) as file:
        asyncio.run(_run(number, keep=file.add))
        return len(file)


def opened(_: int, path: Path) -> int:
    """Open a file of answers."""
    with AnswerFile(path) as file:
        return len(file)


def missing(number: int, path: Path) -> int:
    """Find the missing rows in an empty file."""
    with AnswerFile(path.with_name("empty.jsonl")) as file:
        return sum(1 for _ in file.missing(rows_of(number)))


def missing_in_the_file(number: int, path: Path) -> int:
    """Open a file of answers and find that no row is missing."""
    with AnswerFile(path) as file:
        return number - sum(1 for _ in file.missing(rows_of(number)))


WORK: dict[str, Callable[[int, Path], int]] = {
    each.__name__: each for each in (through, written, opened, missing, missing_in_the_file)
}


def main() -> int:
    """Measure everything, or one thing in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=1_000_000)
    parser.add_argument("--only", nargs=2, metavar=("NAME", "FILE"), help="measure this one here")
    options = parser.parse_args()
    if options.only:
        name, path = options.only
        began = time.perf_counter()
        done = WORK[name](options.number, Path(path))
        took = time.perf_counter() - began
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000
        print(f"{name.replace('_', ' '):22} {done:>9,} rows {took:6.1f} s {most:5.0f} MB")
        return done != options.number
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "stress.million", "--number", str(options.number), "--only"]
        return max(subprocess.call([*command, name, str(Path(folder, "answers.jsonl"))]) for name in WORK)


if __name__ == "__main__":
    sys.exit(main())
