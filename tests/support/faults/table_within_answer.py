"""The table of faults, continued: what can go wrong within an answer, and the expected outcomes."""

from __future__ import annotations

import gzip

from tests.support.faults.outcomes import answers, breaks
from tests.support.faults.player import FIN, HANG, READ, RST, Again
from tests.support.faults.vocabulary import (
    AFTER,
    AT_END,
    BEGIN,
    BEGINNING,
    BETWEEN,
    BODY,
    EITHER,
    EVENTS,
    FINISH,
    FIRST,
    FRAME,
    HEAD,
    NEVER,
    PAGE,
    REST,
    STREAMED,
    WHOLE,
    WHOLE_ANSWER,
    WHOLE_BODY,
    When,
    frame,
    sized,
    told,
)
from tests.support.server import DONE, END, STREAM_HEAD, chunk, completion, event, response, said, stream
from tir_qwen import APITimeoutError, MalformedChunkError, ServerStreamError, StreamInterruptedError

COMMENT = chunk(b": keep-alive\n\n")
REASONING = frame({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm. "}}]})

BROKE = "the connection broke before the end of the answer ("
NO_END = "the answer stopped before its end"
NOTHING = "the server sent no answer"

STOPPED = {
    When(BODY, WHOLE, breaks(StreamInterruptedError, says=BROKE)): {
        "closes": [WHOLE_ANSWER[:-9], FIN],
        "closes before the last byte": [WHOLE_ANSWER[:-1], FIN],
        "resets": [WHOLE_ANSWER[:-9], RST],
        "closes at once": [sized(99, b""), FIN],
        "content-length too long": [sized(9999, WHOLE_BODY), FIN],
    },
    When(BODY, WHOLE, breaks(MalformedChunkError)): {
        "closes, of unknown length": [HEAD + b"\r\n" + WHOLE_BODY[:-9], FIN],
        "content-length too short": [sized(50, WHOLE_BODY)],
    },
    When(BODY, WHOLE, breaks(APITimeoutError)): {"stalls": [WHOLE_ANSWER[:-9], HANG]},
    When(BODY, WHOLE, breaks(APITimeoutError), timeout=NEVER): {"drips": [sized(9999, b"{"), Again(b" ", 0.02)]},
    When(BODY, EITHER, breaks(StreamInterruptedError, says=BROKE)): {"chunked garbage": [STREAM_HEAD + b"zz\r\n", FIN]},
    When(FIRST, STREAMED, breaks(StreamInterruptedError, says=BROKE)): {
        "closes": [STREAM_HEAD, FIN],
        "closes after comments": [STREAM_HEAD, COMMENT, FIN],
    },
    When(FIRST, STREAMED, breaks(APITimeoutError)): {
        "stalls": [STREAM_HEAD, HANG],
        "comments, slow": [STREAM_HEAD, Again(COMMENT, 0.05)],
        "comments, flood": [STREAM_HEAD, Again(COMMENT * 99)],
    },
    When(BETWEEN, STREAMED, breaks(StreamInterruptedError, BEGINNING, BROKE)): {
        "closes": [BEGIN, FIN],
        "resets": [BEGIN, READ, RST],
        "chunked garbage": [BEGIN + b"-1\r\n", FIN],
    },
    When(BETWEEN, STREAMED, breaks(APITimeoutError, BEGINNING)): {
        "stalls": [BEGIN, HANG],
        "comments, slow": [BEGIN, Again(COMMENT, 0.05)],
        "comments, flood": [BEGIN, Again(COMMENT * 99)],
        "empty deltas": [BEGIN, Again(event(), 0.05)],
    },
    When(BETWEEN, STREAMED, breaks(APITimeoutError, BEGINNING), timeout={"total": 0.4}): {
        "reasons for ever": [BEGIN, Again(REASONING, 0.05)],
    },
    When(FRAME, STREAMED, breaks(StreamInterruptedError, BEGINNING, BROKE)): {
        "closes": [BEGIN + REST[:40], FIN],
        "resets": [BEGIN + REST[:40], READ, RST],
    },
    When(FRAME, STREAMED, breaks(APITimeoutError, BEGINNING)): {
        "stalls": [BEGIN + REST[:40], HANG],
        "drips": [BEGIN + chunk(b"data: {"), Again(chunk(b" "), 0.05)],
    },
    When(AT_END, STREAMED, breaks(StreamInterruptedError, BEGINNING, NO_END)): {
        "content-length too short": [sized(len(said(BEGINNING)) + 9, EVENTS)],
        "no finish_reason, no [DONE]": [BEGIN + END],
        "last frame unterminated": [BEGIN + chunk(said("", "stop")[:-1]) + END],
    },
    When(AT_END, STREAMED, breaks(StreamInterruptedError, says=NOTHING)): {"only [DONE]": [STREAM_HEAD + DONE + END]},
    When(AT_END, EITHER, breaks(StreamInterruptedError, says=NOTHING)): {
        "empty 200": [response()],
        "204": [b"HTTP/1.1 204 No Content\r\n\r\n"],
    },
}

DIED = {"message": "engine died", "type": "InternalServerError", "code": 500}
REPORT = "the server reported an error in its answer: engine died"
NO_CHUNK = "a chunk of the answer is not"
FRAMES = {
    "error": frame({"error": DIED}),
    "flat error": frame({"object": "error", **DIED}),
    "event: error": chunk(b"event: error\ndata: engine died\n\n"),
}

WRONG = {
    When(BETWEEN, STREAMED, breaks(MalformedChunkError, BEGINNING, f"{NO_CHUNK} valid JSON (")): {
        "invalid JSON": [BEGIN + frame(b"{oops") + REST + END],
        "bad UTF-8": [BEGIN + chunk(said("?").replace(b"?", b"\xff")) + REST + END],
    },
    When(BETWEEN, STREAMED, breaks(MalformedChunkError, BEGINNING)): {
        "no object": [BEGIN + frame(b"[1]") + REST + END],
        "choices of text": [BEGIN + frame({"choices": "x"}) + REST + END],
    },
    When(BODY, WHOLE, breaks(MalformedChunkError, says=NO_CHUNK)): {
        "invalid JSON": [response(b"{oops")],
        "bad UTF-8": [WHOLE_ANSWER.replace(b"cage", b"c\xffge")],
        "no object": [response(b"[1]")],
    },
    When(BODY, WHOLE, breaks(StreamInterruptedError, says=NOTHING)): {
        "null choices": [response({"choices": None})],
        "empty choices": [response({"choices": []})],
        "missing choices": [response({"id": "x"})],
    },
    When(BODY, EITHER, breaks(MalformedChunkError, says="the compression of the answer is corrupt")): {
        "corrupt gzip": [response(b"\x1f\x8bno gzip", content_encoding="gzip")],
    },
    When(BODY, EITHER, breaks(MalformedChunkError, says="the server sent an HTML or XML page")): {
        "HTML 200": [response(PAGE % b"Log in", content_type="text/html")],
    },
    When(BODY, EITHER, breaks(StreamInterruptedError, says=NOTHING)): {
        "text 200": [response(b"no healthy upstream", content_type="text/plain")],
    },
    When(FRAME, STREAMED, breaks(MalformedChunkError, BEGINNING, "an event is larger than 16777216 bytes")): {
        "over 16 MB": [BEGIN, chunk(b"data: {"), *[chunk(b" " * 2**20)] * 20, FIN],
        "over 16 MB, lines": [BEGIN, *[chunk((b"data: " + b" " * 2**16 + b"\n") * 2**4)] * 20, FIN],
        "over 16 MB, comment": [BEGIN, chunk(b":"), *[chunk(b"x" * 2**20)] * 20, FIN],
    },
    When(BODY, EITHER, breaks(ServerStreamError, says=REPORT)): {
        "JSON error with 200": [response({"error": DIED})],
        "flat JSON error with 200": [response({"object": "error", **DIED})],
    },
    When(FIRST, STREAMED, breaks(ServerStreamError, says=REPORT)): {
        name: [STREAM_HEAD + data + DONE + END] for name, data in FRAMES.items()
    },
    When(BETWEEN, STREAMED, breaks(ServerStreamError, BEGINNING, says=REPORT)): {
        name: [BEGIN + data + DONE + END] for name, data in FRAMES.items()
    },
    When(BETWEEN, STREAMED, breaks(ServerStreamError, BEGINNING, "the server gave up on the answer")): {
        "finish_reason abort": [BEGIN + event("", "abort") + DONE + END],
    },
}

LONG = "x" * 2**20
CALLS = [{"index": 0, "id": "call-1", "function": {"name": "look", "arguments": "{}"}}]

READ_RIGHTLY = {
    When(BETWEEN, STREAMED, answers()): {
        name: [BEGIN + frame(data) + REST + END]
        for name, data in {
            "null choices": {"choices": None},
            "empty choices": {"choices": []},
            "missing choices": {"id": "x"},
            "missing delta": {"choices": [{"index": 0}]},
            "null delta": {"choices": [{"index": 0, "delta": None}]},
            "null content": {"choices": [{"index": 0, "delta": {"content": None}}]},
            "empty data": b"",
        }.items()
    },
    When(BODY, STREAMED, answers()): {
        "data: without space": [told(EVENTS.replace(b"data: ", b"data:"))],
        "CR": [told(EVENTS.replace(b"\n", b"\r"))],
        "CRLF": [told(EVENTS.replace(b"\n", b"\r\n"))],
        "comments": [told(EVENTS.replace(b"data: ", b": keep-alive\n\n:\ndata: "))],
        "multi-line data": [told(EVENTS.replace(b', "', b',\ndata: "'))],
        "event, id and retry": [told(EVENTS.replace(b"data: ", b"id: 1\nretry: 10\nevent: message\ndata: "))],
        "UTF-8 BOM": [told(b"\xef\xbb\xbf" + EVENTS)],
        "one byte at a time": [STREAM_HEAD, *(chunk(bytes([byte])) for byte in EVENTS), END],
        "gzip": [response(gzip.compress(EVENTS), content_type="text/event-stream", content_encoding="gzip")],
        "a whole answer, unasked": [WHOLE_ANSWER],
    },
    When(BODY, WHOLE, answers()): {
        "UTF-8 BOM": [response(b"\xef\xbb\xbf" + WHOLE_BODY)],
        "gzip": [response(gzip.compress(WHOLE_BODY), content_encoding="gzip")],
        "a stream, unasked": [told(EVENTS)],
    },
    When(FRAME, STREAMED, answers(LONG)): {"1 MB": [stream(LONG)]},
    When(BODY, WHOLE, answers(LONG)): {"1 MB": [completion(LONG)]},
    When(AT_END, STREAMED, answers()): {"no [DONE]": [BEGIN + event("cage.") + FINISH + END]},
    When(AT_END, STREAMED, answers("look{}")): {
        "calls, [DONE], no finish_reason": [
            STREAM_HEAD + frame({"choices": [{"index": 0, "delta": {"tool_calls": CALLS}}]}) + DONE + END
        ],
    },
    When(AFTER, STREAMED, answers(), within=1.0): {
        "[DONE] again": [BEGIN + REST + DONE + END],
        "more": [BEGIN + REST + event(" Or not.") + END],
        "invalid JSON": [BEGIN + REST + frame(b"{oops") + END],
        "chunked garbage": [BEGIN + REST + b"zz\r\n", FIN],
        "closes": [BEGIN + REST, FIN],
        "resets": [BEGIN + REST, READ, 0.05, RST],
        "hangs": [BEGIN + REST, HANG],
        "drips": [BEGIN + REST, Again(COMMENT, 0.05)],
        "floods": [BEGIN + REST, Again(COMMENT * 99)],
    },
}
