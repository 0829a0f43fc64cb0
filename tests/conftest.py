"""Fixtures for all tests: no test reads the machine's credentials, or leaves this machine."""

from __future__ import annotations

import pytest

pytest_plugins = ["tests.cassette_plugin"]

VARIABLES = (
    "E2E_TIR_ACCESS_TOKEN",
    "E2E_TIR_API_KEY",
    "E2E_TIR_BASE_URL",
    "E2E_TIR_PROJECT_ID",
    "MODEL_API_CLIENT_HOST",
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
