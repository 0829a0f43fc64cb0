"""Arbitrary error responses and error frames."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.request.test_build_fuzz import TEXT
from tests.support.decode import FIXED
from tir_qwen._response.retry_after import retry_after_seconds
from tir_qwen._response.server_errors import MAX_TEXT, error_from_frame, error_from_response
from tir_qwen.errors import APIStatusError, ServerStreamError

CANARY = "c4n4ry"


HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "x-request-id"]), TEXT | st.text(max_size=40)
)


DATES = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Mon", "", "x"]),
    *[st.integers(-1, 40), st.sampled_from(["Jan", "Dec", "Foo"]), st.integers(0, 10**5), st.integers(-1, 70)],
    *[st.integers(-1, 70), st.integers(-1, 70), st.sampled_from(["GMT", "-0000", "+9999", "-9999", "+99999999", ""])],
)


@settings(FIXED, max_examples=600)
@given(st.builds(dict, st.fixed_dictionaries({"retry-after": DATES})) | HEADERS)
@example({"retry-after": "9" * 5000})
@example({"retry-after": "1 Jan 1 0:0:0 " + "9" * 400})
@example({"retry-after-ms": "1e308", "retry-after": "-1"})
def test_any_retry_after_is_a_valid_delay_or_none(headers: Mapping[str, str]) -> None:
    """Any Retry-After header gives a non-negative finite delay, or None."""
    seconds = retry_after_seconds(headers)
    assert seconds is None or (0 <= seconds < math.inf)


SAID = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT.map(f"{CANARY} {{}}".format)
    | st.sampled_from(["is too large: 5", "<html>"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "code", "type", "loc", "msg"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


PIECES = [
    "<html",
    "<title",
    ">",
    "</title>",
    "'loc': (",
    "'body'",
    ")",
    ", 'msg': '",
    "\\'",
    "'",
    "function-wrap[",
    "  ",
]


WORDS = st.lists(st.sampled_from([*PIECES, " [type=x", ", input_value=", CANARY, "is too large: 5", "é"]), max_size=14)


def refused(status: int, headers: Mapping[str, str], body: bytes) -> APIStatusError:
    """Return the exception for an error response of a server that repeats the token."""
    error = error_from_response(status, headers, body, (CANARY,))
    assert pickle.loads(pickle.dumps(error)).args == error.args
    return error


@settings(FIXED, max_examples=600)
@given(
    status=st.sampled_from([300, 400, 401, 408, 413, 422, 429, 500, 503, 599, 999]),
    headers=HEADERS,
    body=st.binary(max_size=60)
    | WORDS.map(lambda words: " ".join(words).encode())
    | SAID.map(lambda said: json.dumps(said).encode()),
)
def test_any_error_response_gives_a_short_error_without_secrets(
    status: int, headers: Mapping[str, str], body: bytes
) -> None:
    """Any error response gives an exception with its status, a short message and no token."""
    error = refused(status, headers, body)
    assert error.status_code == status
    assert str(error).startswith(f"{status}")
    assert len(str(error)) < 2 * MAX_TEXT
    for words in (str(error), repr(error.body), str(error.request_id)):
        assert CANARY not in words


@FIXED
@given(SAID)
def test_any_error_frame_gives_a_short_error(said: Any) -> None:
    """Any error frame gives a ServerStreamError with a short message."""
    error = error_from_frame(said, (CANARY,))
    assert type(error) is ServerStreamError
    assert len(str(error)) < 2 * MAX_TEXT
