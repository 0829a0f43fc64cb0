"""Re-record notebooks' exchanges: `python -m notebooks.record NAME ...`, at the endpoint given by the environment.

`--from TEXT` describes the endpoint, if it is not the one named in the last recording.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from nbclient.exceptions import CellExecutionError

from tir_qwen import testing

from .execute import execute, find, recording_of


def record(path: Path, source: str | None) -> int:
    """Run a notebook against the endpoint and save its exchanges; return their number."""
    kept = recording_of(path)
    with testing.record(kept, source=source or testing.Recording.load(kept).source) as endpoint:
        execute(path, {**os.environ, **endpoint.environment})
    return len(testing.Recording.load(kept).exchanges)


def main() -> None:
    """Record the notebooks that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--from", dest="source", metavar="TEXT", help="description of the endpoint: vLLM 0.9.2, say")
    arguments = parser.parse_args()
    for path in find(arguments.names):
        try:
            print(f"{path.stem}: {record(path, arguments.source)} exchanges", flush=True)
        except CellExecutionError as error:
            sys.exit(f"{path.stem}: FAILED\n{error}")


if __name__ == "__main__":
    main()
