"""Adapts a request for vectors to what its server supports."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .._response.server_errors import server_text
from ..errors import APIStatusError, ServerStreamError
from ..types import JSON
from .capabilities import Capabilities
from .refusals import STATUSES

_CAPABILITY = "base64_vectors"
_REFUSES_BASE64 = r"(?i)encoding_format|base64"
"""What a server's error mentions if it does not accept vectors in base64."""


class EmbeddingDialect:
    """One request for vectors, adapted to its server.

    Vectors are requested in base64, which takes a quarter of the bytes, unless the server refuses that. Send what
    `write` returns. Call `request_refused` if the server rejects it, which says whether to write and send the request
    again; otherwise `request_accepted`.
    """

    __slots__ = ("_capabilities", "_chooses_format", "_fields", "_is_trial", "_texts", "_uses_base64")

    def __init__(self, texts: Sequence[str], fields: JSON, capabilities: Capabilities) -> None:
        """Start with one request.

        Args:
            texts: What to embed. An empty text is sent as a space, since vLLM and others refuse a prompt of no tokens.
            fields: The other fields that the caller set; an `encoding_format` is sent as it is.
            capabilities: What is known about the server; updated by this request.
        """
        self._texts = [text or " " for text in texts]
        self._fields = fields
        self._capabilities = capabilities
        self._chooses_format = "encoding_format" not in fields
        self._is_trial = self._chooses_format and bool(capabilities.to_try_again([_CAPABILITY]))
        self._uses_base64 = self._chooses_format and (capabilities.base64_vectors or self._is_trial)

    def write(self) -> JSON:
        """Return the fields to send."""
        encoding = {"encoding_format": "base64"} if self._uses_base64 else {}
        return {"input": self._texts, **encoding, **self._fields}

    def request_refused(self, error: APIStatusError | ServerStreamError) -> bool:
        """Return whether to send the request again, in another form."""
        if not self._uses_base64 or (isinstance(error, APIStatusError) and error.status_code not in STATUSES):
            return False
        if not re.search(_REFUSES_BASE64, server_text(error)):
            return False
        self._capabilities.give_up(_CAPABILITY, is_trial=self._is_trial)
        self._uses_base64 = False
        return True

    def request_accepted(self) -> None:
        """Note that the server has answered."""
        if self._uses_base64:
            self._capabilities.confirm(_CAPABILITY, is_trial=self._is_trial)
