"""Both clients against slow servers; `test_faults.py` covers servers that stop."""

from __future__ import annotations

import time
from collections.abc import Iterator

from demo.replay import Received
from tests.support.server import Driver, Loopback, ask, both_clients, completion, stream, whole_and_streamed


@whole_and_streamed
@both_clients
def test_an_answer_that_comes_slowly(driver: Driver, streamed: bool) -> None:
    """An answer may take longer than `timeout`, which limits only the time without progress."""
    raw = stream(*"In its cage.") if streamed else completion("In its cage.")
    size = len(raw) // 9

    def answer(_: Received) -> Iterator[bytes]:
        for at in range(0, len(raw), size):
            yield raw[at : at + size]
            time.sleep(0.1)

    with Loopback(answer) as server:
        assert ask(driver, driver.make(base_url=server.base_url, timeout=0.5), streamed) == "In its cage."
