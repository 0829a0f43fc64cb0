"""`python -m tir_qwen`: tools for an endpoint of TIR's GenAI API."""

import sys

from ._doctor.cli import main

if __name__ == "__main__":
    sys.exit(main())
