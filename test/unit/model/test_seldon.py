from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.schema import Array, DataType

from pyfuncserver.codec.seldon import Feedback, Kind, Message, Meta
from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.feedback import listener
from pyfuncserver.model.rectangle import AS_IS, COLUMNS, ROWS
from pyfuncserver.model.seldon import reader

TWO = Schema([ColSpec("double", "a"), ColSpec("long", "n")])
ONE = Schema([ColSpec("double", "a")])
UNNAMED = Schema([ColSpec("double"), ColSpec("double")])
TENSOR = Schema([TensorSpec(np.dtype("float32"), (-1, 2))])
NAMED_TENSOR = Schema([TensorSpec(np.dtype("float32"), (-1, 2), "x")])
TWO_TENSORS = Schema([TensorSpec(np.dtype("float32"), (-1, 2), name) for name in "xy"])


def rows(value: Any, *names: str) -> Message:
    return Message(Kind.NDARRAY, value, names)


def tensor(value: Any, *names: str) -> Message:
    return Message(Kind.TENSOR, np.array(value), names)


@pytest.mark.parametrize(("schema", "message", "expected"), [
    (TWO, rows([[1, 2], [3, 4]]), (COLUMNS, {"a": [1, 3], "n": [2, 4]})),
    (TWO, rows([[1, 2]], "n", "a"), (COLUMNS, {"n": [1], "a": [2]})),
    (TWO, tensor([[1.0, 2.0]]), (COLUMNS, {"a": [1.0], "n": [2]})),
    (TWO, tensor([[1.0, 2.5]]), (COLUMNS, {"a": [1.0], "n": [2.5]})),
    (TWO, tensor([[1.0, np.inf]]), (COLUMNS, {"a": [1.0], "n": [np.inf]})),
    (TWO, rows([1, 2]), (COLUMNS, {"a": [1], "n": [2]})),
    (TWO, rows([]), (COLUMNS, {"a": [], "n": []})),
    (TWO, rows([[1]], "x"), (COLUMNS, {"x": [1]})),
    (ONE, rows([1, 2]), (COLUMNS, {"a": [1, 2]})),
    (ONE, tensor(5), (COLUMNS, {"a": [5]})),
    (UNNAMED, rows([[1, 2]]), (ROWS, [[1, 2]])),
    (TENSOR, tensor([[1, 2]]), (ROWS, [[1, 2]])),
    (NAMED_TENSOR, rows([[1, 2]]), (COLUMNS, {"x": [[1, 2]]})),
    (TWO, Message(Kind.JSON, {"a": [1], "n": [2]}), (COLUMNS, {"a": [1], "n": [2]})),
    (TWO, Message(Kind.JSON, {"a": 1, "n": 2}), (COLUMNS, {"a": [1], "n": [2]})),
    (TWO, Message(Kind.JSON, {"a": 1, "n": [2]}), (AS_IS, {"a": 1, "n": [2]})),
    (TWO, Message(Kind.STRING, "x"), (AS_IS, "x")),
    (None, Message(Kind.JSON, {"a": [1]}), (AS_IS, {"a": [1]})),
    (None, Message(Kind.BINARY, b"x"), (AS_IS, b"x")),
    (Schema([ColSpec(Array(DataType.double), "a")]), Message(Kind.JSON, {"a": [1]}),
     (AS_IS, {"a": [1]})),
])  # fmt: skip
def test_contents(schema: Any, message: Message, expected: Any) -> None:
    assert reader(schema)(message) == (*expected, None)


def test_a_tensors_text_is_decoded() -> None:
    values = np.array([[b"a", 1]], dtype=object)
    assert reader(TWO)(Message(Kind.TFTENSOR, values))[1] == {"a": ["a"], "n": [1]}


@pytest.mark.parametrize("value", [[[1, 2.5]], [["a", "b"]], [], np.array([[1]])])
def test_an_array_without_a_signature(value: Any) -> None:
    key, found, _ = reader(None)(rows(value, "x", "y"))
    assert key == AS_IS
    assert isinstance(found, np.ndarray)
    assert found.tolist() == (value if isinstance(value, list) else value.tolist())


@pytest.mark.parametrize(("schema", "message", "said"), [
    (TWO, rows([[1]]), "2 columns"),
    (TWO, rows([[1, 2], [1, 2, 3]]), "row 1 of the data has 3 values"),
    (TWO, rows([[1, 2]], "a"), r"data\.names has 1 columns"),
    (TWO, rows([[1, 2]], "a", "a"), "twice"),
    (TWO, rows([[1, 2], 3]), "rows and bare values"),
    (TWO_TENSORS, rows([[1, 2]]), "2 tensors"),
    (None, rows([[1], [1, 2]]), "several lengths"),
    (None, rows(["x" * 100_000, *[1] * 100_000]), "too large"),  # 40 GB
    (None, rows([[1, 2]] * 100_000 + [["x" * 100_000, 3]]), "too large"),
])  # fmt: skip
def test_what_is_refused(schema: Any, message: Message, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        reader(schema)(message)


def test_a_null_among_texts_makes_objects_of_all() -> None:
    _, found, _ = reader(None)(rows([[1, 2]] * 100_000 + [["x" * 100_000, None]]))
    assert (found.dtype, found.shape) == (object, (100_001, 2))


# Feedback


class Full:
    def send_feedback(self, features, feature_names, reward, truth, routing=None):
        return [features, feature_names, reward, truth, routing]


class Short:
    def send_feedback(self, features, feature_names, reward, truth):
        return None


def feedback(routing: dict[str, int]) -> Feedback:
    response = Message(Kind.NONE, meta=Meta(routing=routing))
    return Feedback(rows([[1]], "a"), response, Message(Kind.STRING, "t"), 2.0)


@pytest.mark.parametrize(
    ("routing", "branch"), [({}, None), ({"r": 1}, 1), ({"r": 1, "s": 2}, None)]
)
def test_feedback_is_handed_on(routing: dict[str, int], branch: int | None) -> None:
    features, *rest = listener(Full())(feedback(routing))
    assert features.tolist() == [[1]]
    assert rest == [["a"], 2.0, "t", branch]


@pytest.mark.parametrize("value", [[[1], [1, 2]], ["x" * 100_000, *[1] * 100_000]])
def test_features_that_are_no_array_of_one_type_are_one_of_objects(value: Any) -> None:
    features = listener(Full())(Feedback(rows(value), Message(Kind.NONE), Message(Kind.NONE)))[0]
    assert (features.dtype, features.tolist()) == (object, value)


@pytest.mark.parametrize("model", [None, object(), Short()])
def test_an_answer_of_nothing(model: Any) -> None:
    assert listener(model)(feedback({"r": 1})).tolist() == []
