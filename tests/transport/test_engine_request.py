"""The request as it is handed to the HTTP library: its URL and its time limits."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from tests.support.secrets import SETTINGS, hunted
from tests.support.server import (
    Driver,
    both_clients,
    failure,
    whole_and_streamed,
)
from tests.transport.test_engine import asynchronous, call, engines
from tir_qwen import (
    APIStatusError,
    ConfigurationError,
)


@engines
@asynchronous
def test_our_timeouts_reach_it(engine: ModuleType, asynchronous: bool) -> None:
    """Connecting gets at most 5 seconds of a long `timeout`, and all of a short one."""
    seen = []

    def answer(request: Any) -> Any:
        seen.append(request.extensions["timeout"])
        return engine.Response(401)

    for timeout in (None, 30.0, 2.0):
        with pytest.raises(APIStatusError):
            call(
                engine,
                asynchronous,
                False,
                {"transport": engine.MockTransport(answer), "timeout": 7.0},
                {"base_url": "http://[::1]/v1", "timeout": timeout},
            )
    assert seen == [
        {"connect": 7.0, "read": 7.0, "write": 7.0, "pool": 7.0},
        {"connect": 5.0, "read": 30.0, "write": 30.0, "pool": 30.0},
        {"connect": 2.0, "read": 2.0, "write": 2.0, "pool": 2.0},
    ]


@pytest.mark.parametrize(
    "address", ["https://1.2.3.999/v1", f"https://localhost/{'v' * 70_000}"], ids=["host", "length"]
)
@whole_and_streamed
@both_clients
def test_a_url_that_the_engine_refuses(driver: Driver, streamed: bool, address: str) -> None:
    """A URL that the HTTP library cannot use raises `ConfigurationError` without revealing the key."""
    error = failure(driver, driver.make(**{**SETTINGS, "base_url": address}), streamed)
    assert type(error) is ConfigurationError
    assert str(error) == "the HTTP engine cannot use the URL: check base_url and model."
    assert hunted(error) == []
