"""The command `tir-qwen doctor`: reports what an endpoint supports."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic_core import to_json

from .. import __version__
from .._client.client import Client
from ..errors import ConfigurationError
from .examination import COST, Examination
from .report import CheckResult

_STATUS_MARKS = {"ok": "ok", "limited": "limited", "failed": "FAILED", "unknown": "?"}
_SETTINGS_HELP = """\
{problem}

What to set, and where to find it:

  E2E_TIR_ACCESS_TOKEN   your project's Auth Token: TIR's dashboard, API Tokens > Create Token
  E2E_TIR_PROJECT_ID     the number of the project, as in the dashboard's URL: 6530 or p-6530
  E2E_TIR_BASE_URL       only for a dedicated endpoint or your own vLLM: its base URL, up to /v1

For example:

  export E2E_TIR_ACCESS_TOKEN=eyJ...
  export E2E_TIR_PROJECT_ID=6530
  {program} doctor
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 if the endpoint answers, 1 if it does not, 2 if a setting is missing or malformed.
    """
    options = _parser().parse_args(arguments)
    try:
        client = Client(
            options.project_id, model=options.model, base_url=options.base_url, timeout=options.timeout, max_retries=0
        )
    except ConfigurationError as error:
        print(_SETTINGS_HELP.format(problem=error, program=_program()), file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logger = logging.getLogger("tir_qwen")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # the report contains the same
    try:
        return _examine(client, options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the report, such as `head`, has exited
        with suppress(OSError):  # not a file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at exit
        return 1
    finally:
        logger.setLevel(level)


def print_report(examination: Examination) -> None:
    """Examine the endpoint and print each result as soon as it is known."""
    report = examination.report
    print(f"{report.endpoint}\n{COST}\n")
    for result in examination.run():
        print(_format(result), flush=True)
    if not report.usable:
        print("\nThe other checks were not run: they need an endpoint that answers.")
        return
    print(f"\nIt used {report.prompt_tokens} + {report.completion_tokens} tokens (prompts + answers).")
    unknown = [result.name for result in report.results if result.status == "unknown"]
    if unknown:
        print(f"Could not determine: {', '.join(unknown)}.")


def _examine(client: Client, options: argparse.Namespace) -> int:
    examination = Examination(client, os.environ.get("E2E_TIR_ACCESS_TOKEN"), options.embedding_model)
    with client:
        if options.json:
            list(examination.run())
            print(to_json(examination.report.as_json(), indent=2).decode())
        else:
            print_report(examination)
    if sys.stdout:
        sys.stdout.flush()
    return 0 if examination.report.usable else 1


def _format(result: CheckResult) -> str:
    advice = f"\n{'':30}-> {result.advice}" if result.advice else ""
    return f"{result.name:20}{_STATUS_MARKS[result.status]:10}{result.found}{advice}"


def _program() -> str:
    """Return the command as the user typed it."""
    return "python -m tir_qwen" if Path(sys.argv[0]).name == "__main__.py" else "tir-qwen"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_program(), description="Tools for an endpoint of TIR's GenAI API.")
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
    doctor.add_argument("--embedding-model", help="try this embedding model, too")
    doctor.add_argument("--timeout", type=float, default=60.0, help="seconds without progress; default: 60")
    doctor.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser
