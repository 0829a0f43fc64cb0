"""The table of faults: what can go wrong before an answer, and the expected outcomes."""

from __future__ import annotations

from tests.support.faults.outcomes import REUSED, TEXT, answers, backoff, breaks, fails
from tests.support.faults.player import (
    ANSWER,
    ELSEWHERE,
    FIN,
    HANG,
    READ,
    RST,
    Again,
    full,
    nowhere,
    self_signed,
    unknown,
)
from tests.support.faults.table_within_answer import READ_RIGHTLY, STOPPED, WRONG
from tests.support.faults.vocabulary import (
    BEFORE,
    BEGIN,
    BEGINNING,
    BEGUN,
    CONNECTING,
    EITHER,
    HEAD,
    HEADERS,
    PAGE,
    REFUSAL,
    REST,
    STREAMED,
    WHOLE,
    WHOLE_ANSWER,
    When,
    limited,
    refusal,
)
from tests.support.server import completion, stream
from tir_qwen import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    InternalServerError,
    RateLimitError,
    StreamInterruptedError,
)

CUT_HEAD = HEAD[:30]
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"

UNREACHED = "could not connect to "
BROKE = "the connection to 127.0.0.1:"

NO_ANSWER = {
    When(CONNECTING, EITHER, fails(APIConnectionError, UNREACHED), place=nowhere): {"nobody listens": []},
    When(CONNECTING, EITHER, fails(APITimeoutError, UNREACHED), place=full): {"nobody accepts": []},
    When(CONNECTING, EITHER, fails(APIConnectionError, UNREACHED), place=unknown): {"DNS failure": []},
    When(CONNECTING, EITHER, fails(APIConnectionError, UNREACHED, 1), place=self_signed): {"TLS verification": []},
    When(BEFORE, EITHER, fails(APITimeoutError)): {
        "never answers": [HANG],
        "1xx, slow": [Again(PROCESSING, 0.02)],
        "1xx, flood": [Again(PROCESSING * 9, 0.001)],
    },
    When(BEFORE, EITHER, fails(APIConnectionError, BROKE)): {
        "closes": [FIN],
        "resets": [RST],
        "another protocol": [b"SSH-2.0-OpenSSH_9.6\r\n", FIN],
        "binary garbage": [b"\x00\xff\x16\x03" * 9 + b"\r\n\r\n", FIN],
    },
    When(BEFORE, EITHER, answers(requests=2)): {
        "closes once": ([FIN], [ANSWER]),
        "resets once": ([RST], [ANSWER]),
    },
    When(BEFORE, EITHER, answers()): {
        "100 Continue": [b"HTTP/1.1 100 Continue\r\n\r\n", ANSWER],
    },
    When(HEADERS, EITHER, fails(APITimeoutError)): {
        "stalls": [CUT_HEAD, HANG],
        "drips": [HEAD + b"x-a: ", Again(b"a", 0.02)],
        "one after another": [HEAD, Again(b"x-a: a\r\n", 0.02)],
    },
    When(HEADERS, EITHER, fails(APIConnectionError, BROKE)): {
        "closes": [CUT_HEAD, FIN],
        "resets": [CUT_HEAD, RST],
        "flood": [HEAD, Again(b"x-a: a\r\n" * 9999)],
        "content-length of letters": [HEAD + b"content-length: ten\r\n\r\n"],
        "two content-lengths": [HEAD + b"content-length: 5\r\ncontent-length: 7\r\n\r\n1234567"],
    },
    When(HEADERS, WHOLE, answers()): {
        "one byte at a time": [bytes([byte]) for byte in completion(TEXT)],
    },
}

ENVOY = "upstream connect error or disconnect/reset before headers. reset reason: connection failure"
BUSY = refusal(503, {"error": {"message": "busy"}})
CUT = b"HTTP/1.1 503 x\r\ncontent-length: 9999\r\n\r\ncut"
NO_DATE = "Mon, 99 Foo 0 a:b:c"

REFUSED = {
    When(REFUSAL, EITHER, fails(InternalServerError, "500 Internal Server Error")): {
        "empty 500": refusal(500),
        "endless text": [b"HTTP/1.1 500 x\r\n\r\n", Again(b"x" * 9999, 0.001)],
        "corrupt gzip": refusal(500, b"\x1f\x8bno gzip", content_encoding="gzip"),
    },
    When(REFUSAL, EITHER, fails(InternalServerError, "502 Bad Gateway: nginx")): {
        "HTML 502": refusal(502, PAGE % b"nginx"),
    },
    When(REFUSAL, EITHER, fails(InternalServerError, "503 Service Unavailable: Sorry")): {
        "HTML 503": refusal(503, PAGE % b"Sorry"),
    },
    When(REFUSAL, EITHER, fails(InternalServerError, "504 Gateway Timeout: an HTML page")): {
        "HTML 504": refusal(504, b"<html>" + b"<p>Sorry.</p>" * 500),
    },
    When(REFUSAL, EITHER, fails(InternalServerError, f"503 Service Unavailable: {ENVOY}")): {
        "Envoy text": refusal(503, ENVOY.encode(), content_type="text/plain"),
    },
    When(REFUSAL, EITHER, fails(InternalServerError, "503 Service Unavailable")): {
        "closes": [CUT, FIN],
        "resets": [CUT, RST],
    },
    When(REFUSAL, EITHER, fails(InternalServerError, "503 Service", requests=1), timeout=BEGUN, retries=0): {
        "stalls": [CUT, HANG],
        "drips": [CUT, Again(b"x", 0.02)],
    },
    When(REFUSAL, EITHER, answers(requests=3)): {
        "503 twice, then fine": (BUSY, BUSY, [ANSWER]),
    },
    When(REFUSAL, EITHER, answers(requests=2, waits=(7.0 * 1.05,))): {
        "429, seconds": (limited(retry_after="7"), [ANSWER]),
    },
    When(REFUSAL, EITHER, answers(requests=2, waits=(0.25 * 1.05,))): {
        "429, milliseconds": (limited(retry_after_ms="250", retry_after="1"), [ANSWER]),
    },
    When(REFUSAL, EITHER, answers(requests=2, waits=(60.0 * 1.05,))): {
        "429, date": (limited(retry_after="Fri, 01 Jan 2100 00:00:00 GMT"), [ANSWER]),
        "429, huge": (limited(retry_after="86400"), [ANSWER]),
        "429, 1e308": (limited(retry_after="1e308"), [ANSWER]),
    },
    When(REFUSAL, EITHER, answers(requests=2, waits=backoff(2))): {
        "429, at once": (limited(retry_after="0"), [ANSWER]),
        "429, past date": (limited(retry_after="Sat, 01 Jan 2000 00:00:00 GMT"), [ANSWER]),
        "429, infinite": (limited(retry_after="inf"), [ANSWER]),
        "429, negative": (limited(retry_after="-3"), [ANSWER]),
        "429, nan": (limited(retry_after="nan"), [ANSWER]),
        "429, malformed": (limited(retry_after=NO_DATE, retry_after_ms="soon"), [ANSWER]),
    },
    When(REFUSAL, EITHER, fails(RateLimitError, "429 Too Many Requests: slow down")): {
        "429, malformed, again": limited(retry_after=NO_DATE, retry_after_ms="soon"),
    },
    When(REFUSAL, EITHER, fails(APIStatusError, "30", requests=1)): {
        f"redirect {status}": refusal(status, location=f"{ELSEWHERE.decode()}/v1/chat/completions")
        for status in (301, 302, 303, 307, 308)
    },
}

IDLE_408 = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

KEPT_ALIVE = {
    When(REUSED, EITHER, answers(), retries=0): {
        "closed while idle": ([ANSWER, FIN], [ANSWER]),
        "reset while idle": ([ANSWER, READ, RST], [ANSWER]),
        "408 while idle": ([ANSWER, READ, IDLE_408, FIN], [ANSWER]),
    },
    When(REUSED, EITHER, answers(requests=2, waits=()), retries=0): {
        "closes, once asked": ([ANSWER], [FIN], [ANSWER]),
        "resets, once asked": ([ANSWER], [RST], [ANSWER]),
    },
    When(REUSED, EITHER, answers(requests=2, waits=())): {"503 once": ([ANSWER], BUSY, [ANSWER])},
    When(REUSED, EITHER, fails(APITimeoutError)): {"never answers": ([ANSWER], [HANG])},
    When(REUSED, EITHER, fails(APIConnectionError)): {"closes in the headers": ([ANSWER], [CUT_HEAD, FIN])},
    When(REUSED, WHOLE, breaks(StreamInterruptedError)): {"closes in the body": ([ANSWER], [WHOLE_ANSWER[:-9], FIN])},
    When(REUSED, STREAMED, breaks(StreamInterruptedError, BEGINNING)): {
        "closes between deltas": ([ANSWER], [BEGIN, FIN]),
        "resets between deltas": ([ANSWER], [BEGIN, READ, RST]),
    },
    When(REUSED, STREAMED, breaks(APITimeoutError, BEGINNING)): {"stalls between deltas": ([ANSWER], [BEGIN, HANG])},
    When(REUSED, WHOLE, answers(requests=2, waits=()), retries=0): {
        "an answer too many": ([WHOLE_ANSWER + completion("Wrong.")], [ANSWER]),
    },
    When(REUSED, STREAMED, answers(), retries=0): {
        "an answer too many": ([stream(TEXT) + stream("Wrong.")], [ANSWER]),
        "hung after [DONE]": ([BEGIN + REST, HANG], [ANSWER]),
    },
}

TABLE = [
    fault
    for part in (NO_ANSWER, REFUSED, STOPPED, WRONG, READ_RIGHTLY, KEPT_ALIVE)
    for when, faults in part.items()
    for name, scripts in faults.items()
    for fault in when.rows(name, scripts)
]
