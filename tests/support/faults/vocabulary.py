"""The building blocks of the table of faults: phases, ways of asking, limits, and bytes."""

from __future__ import annotations

import json
from typing import Any

from tests.support.faults.outcomes import TEXT, Fault, Outcome
from tests.support.faults.player import Script, here
from tests.support.server import DONE, END, STREAM_HEAD, chunk, completion, event, response, said

CONNECTING = "while connecting"
BEFORE = "before the headers"
HEADERS = "in the headers"
REFUSAL = "in a refusal"
BODY = "in the body"
FIRST = "before the first delta"
BETWEEN = "between deltas"
FRAME = "within a frame"
AT_END = "at the end"
AFTER = "after [DONE]"

WHOLE, STREAMED, EITHER = (False,), (True,), (False, True)

PATIENT = 10.0
NEVER = 0.07
"""Seconds; the limit where nothing comes in time anyway."""
BEGUN = 0.25
"""Seconds; the limit where the headers do come in time."""
GOING_ON = {"first_delta": PATIENT, "between_deltas": 0.15}
"""The limits where the answer begins, and then does not go on in time."""
HANGING = 5.0
"""Seconds after which a call hangs, unless the row says otherwise."""


class When:
    """When something goes wrong, for which ways of asking, and the expected outcome."""

    def __init__(self, phase: str, ways: tuple[bool, ...], leads_to: Outcome, **more: Any) -> None:
        timeout: Any = PATIENT
        if leads_to.error == "APITimeoutError":
            timeout = NEVER if leads_to.kept is None else GOING_ON if leads_to.kept else BEGUN
        usual = {"timeout": timeout, "retries": max(leads_to.requests - 1, 1), "within": HANGING, "place": here}
        self._ways = ways
        self._rest = {"phase": phase, "leads_to": leads_to, **usual, **more}

    def rows(self, name: str, scripts: Script | tuple[Script, ...]) -> list[Fault]:
        """Return the rows of a fault: one script for all requests, or one for each in turn."""
        if not isinstance(scripts, tuple):
            scripts = (scripts,)
        return [Fault(name=name, scripts=scripts, streamed=way, **self._rest) for way in self._ways]


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
BEGINNING = "In its "
FINISH = event("", "stop")
EVENTS = said(BEGINNING) + said("cage.") + said("", "stop") + b"data: [DONE]\n\n"
BEGIN = STREAM_HEAD + event(BEGINNING)
REST = event("cage.") + FINISH + DONE
WHOLE_ANSWER = completion(TEXT)
WHOLE_BODY = WHOLE_ANSWER.partition(b"\r\n\r\n")[2]
PAGE = b"<!DOCTYPE html>\n<html><head><title>%s</title></head><body>" + b"<p>Sorry.</p>" * 500 + b"</body></html>"


def frame(data: Any) -> bytes:
    """Return an event of a stream as a chunk of its body."""
    return chunk(b"data: %b\n\n" % (data if isinstance(data, bytes) else json.dumps(data).encode()))


def told(events: bytes) -> bytes:
    """Return a response with this event stream."""
    return STREAM_HEAD + chunk(events) + END


def sized(length: int, body: bytes) -> bytes:
    """Return a response with a Content-Length, right or wrong."""
    return HEAD + b"content-length: %d\r\n\r\n" % length + body


def refusal(status: int, body: Any = b"", **headers: str) -> Script:
    """Return an error response."""
    return [response(body, f"{status} x", **headers)]


def limited(**headers: str) -> Script:
    """Return an error response with `Retry-After`."""
    return refusal(429, {"error": {"message": "slow down"}}, **headers)
