"""Tests without the endpoint: a server on this machine that answers like TIR's, from a script or a recording.

`FakeEndpoint` answers with what it is told, `Reply`s and `faults`, and keeps the requests. `play` answers from a file
that `record` has written. With pytest, the fixtures `tir_endpoint`, `chat_tir_qwen` and `tir_qwen_llm` are at hand as
soon as this package is installed.
"""

from ._embeddings import embed_words
from ._endpoint import FakeEndpoint
from ._recordings import Recording, play, record
from ._replies import Reply
from ._response import Response
from ._server import Request

__all__ = ["FakeEndpoint", "Recording", "Reply", "Request", "Response", "embed_words", "play", "record"]
