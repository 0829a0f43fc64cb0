"""The keywords of JSON schemas that servers' grammars do not support, and schemas without them.

A server turns a schema into a grammar that restricts what the model can write. vLLM has several libraries for that,
and each version of them supports different keywords. What a server refuses is left out, and the answer is validated
here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import IntEnum
from hashlib import sha256
from typing import Any, NamedTuple

from .._json import dump_json
from ..types import JSON
from .lesson import Lesson

logger = logging.getLogger("tir_qwen")

_UNSUPPORTED = frozenset(
    (
        "contains",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "format",
        "if",
        "maxContains",
        "maxProperties",
        "minContains",
        "minProperties",
        "multipleOf",
        "not",
        "pattern",
        "patternProperties",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
    )
)
"""The keywords that guidance or xgrammar does not support in at least one version of vLLM from 0.9 to 0.32."""
_BY_NAME = ("properties", "$defs", "definitions")
"""The keywords whose keys are names that the user chose, and whose values are schemas."""
_VALUES = ("const", "default", "enum", "examples")
"""The keywords whose values are not schemas."""
_MAX_KNOWN = 1000
"""Number of schemas per endpoint that are remembered."""


class SchemaForm(IntEnum):
    """How much of a schema is sent for the server's grammar."""

    WHOLE = 0
    REDUCED = 1
    """The schema without the keywords that grammars may not support; the messages contain the whole one."""
    DESCRIBED = 2
    """Nothing: the schema is only in the messages."""


_CONSEQUENCES = {
    SchemaForm.REDUCED: "keywords that it may not support are left out from now on",
    SchemaForm.DESCRIBED: "it is written into the messages from now on",
}


class KnownSchema(NamedTuple):
    """The form in which to send a schema that the server refused, and when to try the whole one again."""

    form: SchemaForm
    lesson: Lesson


class SchemaNegotiation:
    """Finds the largest part of a call's schemas that the server's grammar supports.

    Attributes:
        form: The form to send.
    """

    __slots__ = ("_can_describe", "_fingerprint", "_is_refused", "_is_trial", "_known", "_schemas", "form")

    def __init__(self, schemas: Sequence[JSON], known: dict[bytes, KnownSchema], *, can_describe: bool) -> None:
        """Start with what is known.

        Args:
            schemas: Those that the server turns into a grammar.
            known: The schemas that the server refused, by their fingerprint; updated by `accepted`.
            can_describe: Whether the schemas may be sent in the messages alone.
        """
        self._schemas = schemas
        self._known = known
        self._can_describe = can_describe
        self._is_refused = False
        self._fingerprint = _fingerprint(schemas) if known and schemas else b""
        earlier = known.get(self._fingerprint)
        self._is_trial = earlier is not None and earlier.lesson.is_due()
        self.form = SchemaForm.WHOLE if earlier is None or self._is_trial else earlier.form

    def refused(self) -> bool:
        """Change to the next form; return whether there is one."""
        is_reducible = self.form is SchemaForm.WHOLE and reduce_schema(self._schemas) != self._schemas
        following = SchemaForm.REDUCED if is_reducible else SchemaForm.DESCRIBED
        is_last = following is self.form or (following is SchemaForm.DESCRIBED and not self._can_describe)
        if not self._schemas or is_last:
            return False
        self.form, self._is_refused = following, True
        return True

    def accepted(self) -> None:
        """Remember for later calls what this one had to send, or that the whole schema is supported now."""
        if self._is_trial and not self._is_refused:
            self._known.pop(self._fingerprint, None)
            return
        if not self._is_refused:
            return
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()  # simpler than removing the oldest ones, and thread-safe
        key = self._fingerprint or _fingerprint(self._schemas)
        earlier = self._known.get(key)
        if earlier is not None and self._is_trial:
            earlier.lesson.repeat()
        self._known[key] = KnownSchema(self.form, earlier.lesson if earlier else Lesson())
        logger.info("The server's grammar does not support a schema: %s.", _CONSEQUENCES[self.form])


def reduce_schema(schema: Any) -> Any:
    """Return a schema without the keywords that grammars may not support: it allows more than the original.

    A property whose schema is `true` gets an empty one, which means the same: llama.cpp refuses the former.
    """
    if isinstance(schema, list):
        return [reduce_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    left_out = _UNSUPPORTED
    if "patternProperties" in schema:  # the keys that it allows are then additional ones
        left_out = _UNSUPPORTED | {"additionalProperties"}
    return {key: _reduce_value(key, value) for key, value in schema.items() if key not in left_out}


def _reduce_value(keyword: str, value: Any) -> Any:
    if keyword in _VALUES:
        return value
    if keyword in _BY_NAME and isinstance(value, dict):
        return {name: {} if schema is True else reduce_schema(schema) for name, schema in value.items()}
    return reduce_schema(value)


def _fingerprint(schemas: Sequence[JSON]) -> bytes:
    return sha256(dump_json(schemas, "the schema")).digest()
