"""Run the notebooks and store their outputs: `python -m notebooks [NAME ...]`."""

from __future__ import annotations

import os
import re
import sys
import time

from nbclient.exceptions import CellExecutionError

from .execute import execute, find, write
from .recorded import CREDENTIALS

_COLOURS = re.compile(r"\x1b\[[\d;]*m")


def main(names: list[str]) -> int:
    """Run all notebooks, or those named, in order; return the exit status."""
    live = any(os.environ.get(variable) for variable in CREDENTIALS)
    print(
        "Live, at the endpoint that the environment names." if live else "Recorded: no credentials in the environment."
    )
    failed = False
    for path in find(names):
        begun = time.monotonic()
        try:
            notebook = execute(path)
        except CellExecutionError as error:
            print(f"{path.stem:<32} FAILED\n{_COLOURS.sub('', str(error))}", flush=True)
            failed = True
        else:
            write(notebook, path)
            print(f"{path.stem:<32} {time.monotonic() - begun:6.1f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
