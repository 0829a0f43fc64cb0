"""A pytest plugin: the option `--record`, which records cassettes anew (see cassettes/README.md)."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--record`, here and not in `faces/conftest.py`, which pytest reads too late when the whole suite is run."""
    parser.getgroup("cassettes").addoption(
        "--record",
        action="append",
        default=[],
        metavar="SET=URL",
        help="record the cassettes of this set from the server at this URL; `--record tir`: from the live endpoint,"
        " with E2E_TIR_ACCESS_TOKEN and E2E_TIR_PROJECT_ID. May be repeated; only these sets are then tested.",
    )
