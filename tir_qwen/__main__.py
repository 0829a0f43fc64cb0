"""`python -m tir_qwen doctor`: what an endpoint can do, as a table that a person can act on."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

from pydantic_core import to_json

from . import __version__
from .client import Client
from .doctor import COST, Doctor
from .errors import ConfigurationError
from .report import Finding

_MARKS = {"ok": "ok", "limited": "limited", "failed": "FAILED", "unknown": "?"}
_HELP = """\
{problem}

What to set, and where it is found:

  E2E_TIR_ACCESS_TOKEN   the Auth Token of an access token of your project: TIR dashboard, API Tokens, Create Token
  E2E_TIR_PROJECT_ID     the project's number, as in the dashboard's address: 6530 or p-6530
  E2E_TIR_BASE_URL       only for a dedicated endpoint or a vLLM of your own: its base URL, up to /v1

For example:

  export E2E_TIR_ACCESS_TOKEN=eyJ...
  export E2E_TIR_PROJECT_ID=6530
  python -m tir_qwen doctor
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0 if the endpoint answers, 1 if not, 2 if a setting is missing."""
    options = _parser().parse_args(arguments)
    try:
        client = Client(
            options.project_id, model=options.model, base_url=options.base_url, timeout=options.timeout, max_retries=0
        )
        client._exchange([{"role": "user", "content": "Hello"}], {}, stream=True)  # complains of the model's name
    except ConfigurationError as error:
        print(_HELP.format(problem=error), file=sys.stderr)
        return 2
    logging.getLogger("tir_qwen").setLevel(logging.CRITICAL)  # the findings say it all
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="replace")
    try:
        return _examine(client, options)
    except KeyboardInterrupt:
        return 130


def _examine(client: Client, options: argparse.Namespace) -> int:
    with client:
        doctor = Doctor(client, os.environ.get("E2E_TIR_ACCESS_TOKEN"))
        if options.json:
            list(doctor.examine())
            print(to_json(doctor.report.as_json(), indent=2).decode())
        else:
            show(doctor)
    return 0 if doctor.report.usable else 1


def show(doctor: Doctor) -> None:
    """Examine the endpoint, and print the findings as they come."""
    print(f"{doctor.report.endpoint}\n{COST}\n")
    for finding in doctor.examine():
        print(_line(finding), flush=True)
    taken = f"{doctor.report.prompt_tokens} + {doctor.report.completion_tokens}"
    print(f"\nIt took {taken} tokens (prompts + answers).")
    unknown = [finding.name for finding in doctor.report.findings if finding.status == "unknown"]
    if unknown:
        print(f"Not found out: {', '.join(unknown)}.")


def _line(finding: Finding) -> str:
    advice = f"\n{'':30}-> {finding.advice}" if finding.advice else ""
    return f"{finding.name:20}{_MARKS[finding.status]:10}{finding.found}{advice}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tir_qwen", description="Tools for an endpoint of TIR's GenAI API.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    doctor = commands.add_parser(
        "doctor",
        help="find out what the endpoint can do",
        description=f"Find out what the endpoint can do. {COST} The token is read from E2E_TIR_ACCESS_TOKEN.",
    )
    doctor.add_argument("--project-id", help="default: E2E_TIR_PROJECT_ID")
    doctor.add_argument("--base-url", help="default: E2E_TIR_BASE_URL, or TIR's own host")
    doctor.add_argument("--model", default="qwen3_32b", help="default: qwen3_32b")
    doctor.add_argument("--timeout", type=float, default=60.0, help="seconds without progress; default: 60")
    doctor.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
