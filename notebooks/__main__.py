"""Run the notebooks and store their outputs: `python -m notebooks [NAME ...]`."""

from __future__ import annotations

import re
import sys
import time

from nbclient.exceptions import CellExecutionError

from .execute import environment_for, execute, find, is_live, write

_COLOURS = re.compile(r"\x1b\[[\d;]*m")


def main(names: list[str]) -> int:
    """Run all notebooks, or those named, in order; return the exit status."""
    recorded = "Recorded: no credentials in the environment, so recorded answers are replayed."
    print("Live, at the endpoint that the environment names." if is_live() else recorded)
    failed = False
    for path in find(names):
        begun = time.monotonic()
        try:
            with environment_for(path) as environment:
                notebook = execute(path, environment)
        except (CellExecutionError, AssertionError) as error:
            said = "\n".join([str(error), *getattr(error, "__notes__", ())])
            print(f"{path.stem:<32} FAILED\n{_COLOURS.sub('', said)}", flush=True)
            failed = True
        else:
            write(notebook, path)
            print(f"{path.stem:<32} {time.monotonic() - begun:6.1f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
