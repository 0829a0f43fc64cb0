"""Tests without the endpoint: a local server that answers like TIR's, from a script or a recording.

`FakeEndpoint` sends the answers that it is given, `Reply`s and `faults`, and stores the requests. `play` answers from a
file that `record` has written. Installing this package adds the fixtures `tir_endpoint`, `chat_tir_qwen` and
`tir_qwen_llm` to pytest.
"""

from ._embeddings import embed_words
from ._endpoint import FakeEndpoint
from ._recordings import Recording, play, record
from ._replies import Reply
from ._response import Response
from ._server import Request

__all__ = ["FakeEndpoint", "Recording", "Reply", "Request", "Response", "embed_words", "play", "record"]
