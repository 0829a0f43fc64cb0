"""Fixtures for all tests: no test reads the machine's credentials, or leaves this machine."""

from __future__ import annotations

import gc
import signal

import pytest
from hypothesis import settings

pytest_plugins = ["tests.support.record_option", "tests.support.cassette_fixtures"]

VARIABLES = (
    "E2E_TIR_ACCESS_TOKEN",
    "E2E_TIR_API_KEY",
    "E2E_TIR_BASE_URL",
    "E2E_TIR_PROJECT_ID",
    "MODEL_API_CLIENT_HOST",
)


def pytest_configure() -> None:
    """Prepare the process: property tests have no time limit, and Ctrl-C interrupts.

    A shell that runs the tests in the background makes them ignore Ctrl-C.
    """
    settings.register_profile("tests", deadline=None)
    settings.load_profile("tests")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave frameworks and collected tests out of garbage collections, which would take most of many tests' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
