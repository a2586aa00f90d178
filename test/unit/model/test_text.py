from __future__ import annotations

from typing import Any

import pytest
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from numpy import dtype

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.call import TextInput
from pyfuncserver.model.rectangle import AS_IS, COLUMNS
from pyfuncserver.model.text import TextReader


def string(name: str | None = None, required: bool = True) -> ColSpec:
    return ColSpec(DataType.string, name, required=required)


NUMBER = ColSpec(DataType.long, "count")
TENSOR = Schema([TensorSpec(dtype("O"), (-1, 1), "prompt"), TensorSpec(dtype("f4"), (-1,), "t")])
TWO = Schema([string("a"), string("b")])

READ: dict[str, tuple[Any, TextInput, tuple[str, Any, Any]]] = {
    "no signature": (None, TextInput("hi"), (AS_IS, "hi", None)),
    "no signature, more inputs": (
        None,
        TextInput("hi", None, {"n": 1}),
        (AS_IS, {"text_input": "hi", "n": 1}, None),
    ),
    "no name": (Schema([string()]), TextInput("hi"), (COLUMNS, ["hi"], None)),
    "the only text": (
        Schema([string("prompt"), NUMBER]),
        TextInput("hi", None, {"count": 2}),
        (COLUMNS, {"prompt": ["hi"], "count": [2]}, None),
    ),
    "its own name": (
        Schema([string("a"), string("text_input")]),
        TextInput("hi", None, {"a": "x"}),
        (COLUMNS, {"text_input": ["hi"], "a": ["x"]}, None),
    ),
    "the one that is not given": (
        TWO,
        TextInput("hi", None, {"a": "x"}),
        (COLUMNS, {"b": ["hi"], "a": ["x"]}, None),
    ),
    "the one that is required": (
        Schema([string("a", required=False), string("b")]),
        TextInput("hi"),
        (COLUMNS, {"b": ["hi"]}, None),
    ),
    "a tensor": (
        TENSOR,
        TextInput("hi", None, {"t": 0.5}),
        (COLUMNS, {"prompt": [["hi"]], "t": [0.5]}, None),
    ),
    "params": (
        Schema([string("a")]),
        TextInput("hi", {"mark": "!"}, {"top": 3}),
        (COLUMNS, {"a": ["hi"]}, {"mark": "!", "top": 3}),
    ),
}


@pytest.mark.parametrize(("schema", "given", "expected"), READ.values(), ids=READ)
def test_where_the_text_goes(schema: Any, given: TextInput, expected: Any) -> None:
    params = ParamSchema([ParamSpec("top", DataType.long, 1)])
    assert TextReader(schema, params, is_raw=False)(given) == expected


def test_a_signature_of_type_hints_takes_a_list() -> None:
    reader = TextReader(Schema([string()]), None, is_raw=True)
    assert reader(TextInput("hi")) == (COLUMNS, ["hi"], None)


@pytest.mark.parametrize(
    ("schema", "others", "message"),
    [
        (TWO, {}, '2 inputs that could be "text_input"'),
        (Schema([NUMBER]), {}, 'no inputs that could be "text_input"'),
        (Schema([string()]), {"x": 1}, 'no inputs beside "text_input"'),
    ],
)
def test_what_is_refused(schema: Schema, others: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        TextReader(schema, None, is_raw=False)(TextInput("hi", None, others))
