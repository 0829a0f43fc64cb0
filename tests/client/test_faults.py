"""The table of faults, row by row, on both clients: nothing hangs, and nothing is lost in silence."""

from __future__ import annotations

import pytest

from tests.support.faults.callers import AsyncCaller, SyncCaller, outcome_of
from tests.support.faults.outcomes import Fault
from tests.support.faults.table_before_answer import TABLE
from tests.support.server import record_waits


@pytest.mark.parametrize("fault", TABLE, ids=str)
@pytest.mark.parametrize("caller", [SyncCaller, AsyncCaller], ids=["sync", "async"])
def test_faults(monkeypatch: pytest.MonkeyPatch, caller: type[SyncCaller | AsyncCaller], fault: Fault) -> None:
    """A fault leads to what the table says: in time, with all that had arrived, after so many requests and waits."""
    outcome, seconds = outcome_of(fault, caller, record_waits(monkeypatch))
    assert outcome == fault.leads_to
    assert outcome.says.startswith(fault.leads_to.says)
    assert len(outcome.says) < 700
    assert seconds < fault.within


def test_every_row_has_a_name_of_its_own() -> None:
    """No row hides another one: what failed can be told from its name."""
    assert len({str(fault) for fault in TABLE}) == len(TABLE) > 200
