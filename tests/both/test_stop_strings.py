"""With servers that cut up reasoning tags, the user's stop strings tell what is missing from an answer."""

from __future__ import annotations

import pytest

from tests.support.captures import CAPTURES, Capture
from tests.support.entry_points import CHATS, Answer, Way
from tests.support.server import Loopback, in_turn

ANSWER, THOUGHT = "17 \u00d7 23 = **391**", "17 * 20 = 340 and 17 * 3 = 51, so it is 391."
LEFT = {
    "stop_of_2": THOUGHT,
    "stop_of_8": THOUGHT.removesuffix("s 391."),
    "stop_of_12": "17 * 20 = 340 and 17 * 3 = 51, so 1.",
}
"""The streamed reasoning that the server leaves intact, by the length of the stop string."""


def captured(name: str) -> Capture:
    """Return a captured exchange with vLLM 0.9.2."""
    return next(one for one in CAPTURES if one.id == f"vllm-0.9.2/{name}")


@pytest.mark.parametrize("given", ["settings", "call"])
@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("way", CHATS, ids=str)
async def test_no_piece_of_a_tag(way: Way, name: str, given: str) -> None:
    """Wherever the stop string is set, the answer is complete, and neither it nor the reasoning has parts of a tag."""
    streamed = way.cassette == "stream"
    capture = captured(f"stream_{name}" if streamed else name)
    stop = (capture.request or {})["stop"]
    with Loopback(in_turn(capture.raw)) as server:
        settings = {"base_url": server.base_url, **({"stop": stop} if given == "settings" else {})}
        answer = await way(settings, [("user", "What is 17 times 23?")], **({"stop": stop} if given == "call" else {}))

    assert answer == Answer(ANSWER, LEFT[name] if streamed else THOUGHT, "stop", (18, 51, 69))
    assert [request.json()["stop"] for request in server.requests] == [stop]
