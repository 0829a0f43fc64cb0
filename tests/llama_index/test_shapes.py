"""`structured_predict` with classes of every shape: valid answers, and those that are sent back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llama_index.core.prompts import PromptTemplate

from tests.llama_index.test_structured import llm_on
from tests.support.scripted_transport import Reply, Scripted
from tests.support.shapes import SHAPES, Shape
from tir_qwen._integrations.output_schema import OutputSchema

MODES = ["default", "function", "llm"]
MODELS = [name for name, shape in SHAPES.items() if shape.is_model]
PROMPT = PromptTemplate("{question}")


def reply_of(mode: str, shape: Shape, value: Any) -> Reply:
    """Return an answer with `value` where the mode expects it."""
    if mode != "function":
        return Reply(json.dumps(value, ensure_ascii=False), cut=7)
    schema = OutputSchema("x", shape.schema.model_json_schema(), str)
    arguments = value if schema.wrapped() is schema else {"value": value}
    return Reply(calls=(("", json.dumps(arguments, ensure_ascii=False)),))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_a_valid_answer_takes_one_request(name: str, mode: str) -> None:
    """A valid answer becomes the user's object, whole or streamed."""
    shape = SHAPES[name]
    lab = Scripted(*[reply_of(mode, shape, shape.value)] * 2)
    llm = llm_on(lab, pydantic_program_mode=mode)

    whole = llm.structured_predict(shape.schema, PROMPT, question="?")
    *_, streamed = llm.stream_structured_predict(shape.schema, PROMPT, question="?")

    assert [whole, streamed] == [shape.result] * 2
    assert [type(whole), type(streamed)] == [shape.schema] * 2
    assert len(lab.bodies) == 2


@pytest.mark.parametrize("form", ["whole", "stream"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_an_invalid_answer_is_sent_back_with_the_words_of_the_validator(name: str, mode: str, form: str) -> None:
    """The model learns from the validator's own words what is wrong, and its second answer is the object."""
    shape = SHAPES[name]
    lab = Scripted(reply_of(mode, shape, shape.misfit), reply_of(mode, shape, shape.value))
    llm = llm_on(lab, pydantic_program_mode=mode)

    if form == "whole":
        result = llm.structured_predict(shape.schema, PROMPT, question="?")
    else:
        *_, result = llm.stream_structured_predict(shape.schema, PROMPT, question="?")

    assert result == shape.result
    first, second = (body["messages"] for body in lab.bodies)
    assert second[: len(first)] == first
    assert shape.complaint in second[-1]["content"]
