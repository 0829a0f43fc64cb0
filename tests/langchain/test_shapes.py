"""`with_structured_output` with schemas of every shape: valid answers, and those that are sent back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from langchain_tir_qwen._structured_output import read_schema
from tests.support.scripted_transport import Reply, Scripted, model_on
from tests.support.shapes import SHAPES, Shape

METHODS = ["json_schema", "function_calling", "json_mode"]


def reply_of(method: str, shape: Shape, value: Any) -> Reply:
    """Return an answer with `value` where the method expects it."""
    if method != "function_calling":
        return Reply(json.dumps(value, ensure_ascii=False), cut=7)
    schema = read_schema(shape.schema)
    arguments = value if schema.wrapped() is schema else {"value": value}
    return Reply(calls=(("", json.dumps(arguments, ensure_ascii=False)),))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_valid_answer_takes_one_request(name: str, method: str) -> None:
    """A valid answer becomes the user's object, whole, raw or streamed."""
    shape = SHAPES[name]
    lab = Scripted(*[reply_of(method, shape, shape.value)] * 3)
    model = model_on(lab)
    chain = model.with_structured_output(shape.schema, method=method)

    raw = model.with_structured_output(shape.schema, method=method, include_raw=True).invoke("?")
    objects = [chain.invoke("?"), raw["parsed"], [*chain.stream("?")][-1]]

    assert objects == [shape.result] * 3
    assert [type(one) for one in objects] == [type(shape.result)] * 3
    assert raw["parsing_error"] is None
    assert len(lab.bodies) == 3


@pytest.mark.parametrize("form", ["whole", "stream"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SHAPES)
def test_an_invalid_answer_is_sent_back_with_the_words_of_the_validator(name: str, method: str, form: str) -> None:
    """The model learns from the validator's own words what is wrong, and its second answer is the object."""
    shape = SHAPES[name]
    lab = Scripted(reply_of(method, shape, shape.misfit), reply_of(method, shape, shape.value))
    chain = model_on(lab).with_structured_output(shape.schema, method=method)

    result = chain.invoke("?") if form == "whole" else [*chain.stream("?")][-1]

    assert result == shape.result
    _, second = (body["messages"] for body in lab.bodies)
    answer, complaint = second[-2:]
    assert answer["role"] == "assistant"
    assert shape.complaint in complaint["content"]
    assert complaint["role"] == ("tool" if method == "function_calling" else "user")
