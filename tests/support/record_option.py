"""A pytest plugin: the option `--record`, which records cassettes anew (see tests/data/cassettes/README.md)."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--record`."""
    parser.getgroup("cassettes").addoption(
        "--record",
        action="append",
        default=[],
        metavar="SET=URL",
        help="record the cassettes of this set from the server at this URL; `--record tir`: from the live endpoint,"
        " with E2E_TIR_ACCESS_TOKEN and E2E_TIR_PROJECT_ID. May be repeated; only these sets are then tested.",
    )
