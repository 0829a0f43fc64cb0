"""The command line: `python -m tir_qwen doctor`."""

import sys

from ._doctor.cli import main

if __name__ == "__main__":
    sys.exit(main())
