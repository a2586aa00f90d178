from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from pyfuncserver.model.streaming import is_about_several, is_stream, predict_stream_of, whole


def model(flavours: Any) -> Any:
    return SimpleNamespace(metadata=SimpleNamespace(flavors=flavours), predict_stream=print)


def test_who_streams_says_so_in_its_flavour() -> None:
    assert predict_stream_of(model({"python_function": {"streamable": True}})) is print


@pytest.mark.parametrize(
    "flavours", [None, {}, {"python_function": {}}, {"python_function": {"streamable": False}}]
)
def test_every_pyfunc_model_has_the_method(flavours: Any) -> None:
    assert predict_stream_of(model(flavours)) is None


def test_a_model_of_an_old_mlflow_has_none() -> None:
    found = model({"python_function": {"streamable": True}})
    del found.predict_stream
    assert predict_stream_of(found) is None


def test_iterators_are_streams_and_containers_are_not() -> None:
    for value in ((x for x in "ab"), iter(["a", "b"]), map(str, "ab")):
        assert is_stream(value)
        assert whole(value) == ["a", "b"]
    for value in (["a"], "a", {"a": 1}, None, range(3)):
        assert not is_stream(value)
        assert whole(value) is value


def test_only_mlflows_own_refusal_is_about_several() -> None:
    assert not is_about_several(None)

    def _predict_stream() -> None:
        raise MlflowException("as MLflow's, but a model's")

    with pytest.raises(MlflowException) as raised:
        _predict_stream()
    assert not is_about_several(raised.tb)
