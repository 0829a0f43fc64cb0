"""Both clients against every row of the fault table: no call hangs, and no error is swallowed."""

from __future__ import annotations

import pytest

from tests.support.faults.callers import AsyncCaller, SyncCaller, outcome_of
from tests.support.faults.outcomes import Fault
from tests.support.faults.table_before_answer import TABLE
from tests.support.server import record_waits


@pytest.mark.parametrize("fault", TABLE, ids=str)
@pytest.mark.parametrize("caller", [SyncCaller, AsyncCaller], ids=["sync", "async"])
def test_each_fault_has_the_outcome_in_the_table(
    monkeypatch: pytest.MonkeyPatch, caller: type[SyncCaller | AsyncCaller], fault: Fault
) -> None:
    """A fault has the outcome given in the table: error, partial answer, number of requests, waits and duration."""
    outcome, seconds = outcome_of(fault, caller, record_waits(monkeypatch))
    assert outcome == fault.leads_to
    assert outcome.says.startswith(fault.leads_to.says)
    assert len(outcome.says) < 700
    assert seconds < fault.within


def test_every_row_has_a_name_of_its_own() -> None:
    """Every row has a unique name, so that a failure identifies it."""
    assert len({str(fault) for fault in TABLE}) == len(TABLE) > 200
