"""Code shared by the LangChain and LlamaIndex integrations, which import only this package and `tir_qwen` itself.

What only some programs need (embeddings, structured output) is imported from its module.
"""

from .._asyncgen import aclosing_unhooked
from .._client.parameters import CallParameters
from .._dialect.usage import add_usage
from .._json import dump_json, parse_object
from .._request.tool_calls import error_result, tool_call_to_wire
from .._response.accumulator import Accumulator
from .._response.arguments import REPEATED
from .connection import ExtraBody
from .construction import construct
from .messages import add_reasoning, placeholder
from .parameters import ModelSettings
from .profile import CONTEXT_WINDOW, DEFAULT_NUM_OUTPUT, MAX_OUTPUT_TOKENS
from .tokenizer import read_token_ids

__all__ = [
    "CONTEXT_WINDOW",
    "DEFAULT_NUM_OUTPUT",
    "MAX_OUTPUT_TOKENS",
    "REPEATED",
    "Accumulator",
    "CallParameters",
    "ExtraBody",
    "ModelSettings",
    "aclosing_unhooked",
    "add_reasoning",
    "add_usage",
    "construct",
    "dump_json",
    "error_result",
    "parse_object",
    "placeholder",
    "read_token_ids",
    "tool_call_to_wire",
]
