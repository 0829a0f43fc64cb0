"""Settings for notebooks: those of the live endpoint, or of a local server that plays recorded exchanges.

    given = recorded.settings("01_langchain_quickstart")
    model = ChatTIRQwen(**given)

Recorded answers are found by the complete body of a request, so a changed notebook fails until it is re-recorded.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tir_qwen.testing import Recording, play

CREDENTIALS = ("E2E_TIR_ACCESS_TOKEN", "E2E_TIR_PROJECT_ID", "E2E_TIR_BASE_URL")
PACE = "TIR_NOTEBOOKS_PACE"
"""Name of the variable with the tokens per second of played answers; tests set it high."""

_running = ExitStack()


def exchanges(name: str) -> Path:
    """Return the file with a notebook's recording."""
    return Path(__file__).parent / "exchanges" / f"{name}.json"


def settings(name: str) -> dict[str, Any]:
    """Print which endpoint is used, and return the settings of a notebook's models.

    Args:
        name: The notebook's name, without suffix.
    """
    if any(os.environ.get(variable) for variable in CREDENTIALS):
        print("Live: asking the endpoint that the environment names.")
        return {}
    with suppress(AssertionError):  # about requests without an answer, which the notebook has shown as errors
        _running.close()  # this cell has run before: start over
    path = exchanges(name)
    pace = float(os.environ.get(PACE, "40"))
    print(
        f"Recorded: no credentials in the environment, so a local server replays answers recorded from\n"
        f"{Recording.load(path).source}, at {pace:g} tokens a second.\n"
        f"Set {' and '.join(CREDENTIALS[:2])} to ask the live endpoint."
    )
    endpoint = _running.enter_context(play(path, tokens_per_second=pace))
    os.environ["NO_PROXY"] = endpoint.environment["NO_PROXY"]
    return endpoint.settings
