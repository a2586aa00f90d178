from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException
from mlflow.types import ColSpec, Schema

from pyfuncserver.model.refusal import public_message

MESSAGES = [
    "Failed to enforce schema of '[{'p': b'mine', 'q': 'mine'}]' with type 'x'. Expected data to",
    "Failed to enforce schema of data `{'a': \"mine's\"}` with dtype `long`",
    "Failed to convert value `mi`mine`ne` from type `str` to `long`",
    "Value must be a scalar for type `long`, got `['mine', \"mine\"]`",
    "Failed to validate data against type hint `list[int]`, invalid elements: [('mine', 'a mine')]",
    "could not convert string to float: 'mine'",
]


@pytest.mark.parametrize("message", MESSAGES)
def test_what_mlflow_quotes_is_left_out(message: str) -> None:
    found = public_message(MlflowException(message), Schema([ColSpec("long", "a")]), {"b": 1})
    assert "mine" not in found
    assert found[:12] == message[:12]


def test_columns_are_named() -> None:
    schema = Schema([ColSpec("long", "a")])
    message = "Model is missing inputs ['a']. Note that there were extra inputs: ['b', 'mine']."
    found = public_message(MlflowException(message), schema, {"b": 1})
    assert (
        found == "Model is missing inputs ['a']. Note that there were extra inputs: ['b', '...']."
    )
