"""MLflow's ``predict`` is divided only where it is known, and is what the model sees either way."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.context import Context, get_prediction_context, set_prediction_context
from mlflow.pyfunc.model import _PythonModelPyfuncWrapper

from pyfuncserver.model.route import route_of

Save = Callable[[str, Callable[[Any, Path], Path]], Path]


def load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's, about models without type hints
        return mlflow.pyfunc.load_model(str(path))


@pytest.fixture
def echo(echo_model: Path) -> Any:
    return load(echo_model)


@pytest.fixture
def reason(caplog: pytest.LogCaptureFixture) -> Callable[[Any], str]:
    """Give `reason(model)`: why it takes MLflow's own way, by the log; empty where it does not."""
    caplog.set_level(logging.DEBUG, "pyfuncserver.model.route")

    def reason(model: Any) -> str:
        caplog.clear()
        is_divided = route_of(model).validate is not None
        (record,) = caplog.records
        text = record.getMessage()
        assert text.startswith("predictions go past" if is_divided else "predictions take MLflow's")
        return "" if is_divided else text

    return reason


def test_usual_models_are_divided(
    reason: Callable[[Any], str], echo: Any, signed_model: Path, iris_model: Path
) -> None:
    for model in (echo, load(signed_model), load(iris_model)):
        assert reason(model) == ""


def test_another_class_takes_mlflows_way(reason: Callable[[Any], str], echo: Any) -> None:
    class Other(PyFuncModel):
        pass

    echo.__class__ = Other
    assert "Other may have a predict of its own" in reason(echo)


def test_a_patched_model_takes_mlflows_way(reason: Callable[[Any], str], echo: Any) -> None:
    echo.predict = lambda data, params=None: "patched"
    assert "may have a predict of its own" in reason(echo)
    assert route_of(echo).call([1], None) == "patched"


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (PyFuncModel, "predict"),
        (PyFuncModel, "_predict"),
        (_PythonModelPyfuncWrapper, "predict"),
        (_PythonModelPyfuncWrapper, "_convert_input"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_an_unknown_mlflow_does_is_not_passed_by(
    cls: type,
    name: str,
    reason: Callable[[Any], str],
    echo_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = getattr(cls, name)
    called = []

    def unheard_of(*args: Any, **kwargs: Any) -> Any:
        called.append(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(cls, name, unheard_of)
    echo = load(echo_model)
    assert "unheard_of refers to" in reason(echo)
    assert route_of(echo).call([1], None) == [1]
    assert called


def test_what_an_unknown_mlflow_lacks_is_no_error(
    reason: Callable[[Any], str], echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("mlflow.pyfunc._validate_prediction_input")
    assert "_validate_prediction_input" in reason(echo)


def test_other_arguments_of_the_validation_take_mlflows_way(
    reason: Callable[[Any], str], echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mlflow.pyfunc._validate_prediction_input", lambda data, params: (data, params)
    )
    assert "takes other arguments" in reason(echo)


def test_type_hints_take_mlflows_way(reason: Callable[[Any], str], save_model: Save) -> None:
    def save(models: Any, path: Path) -> Path:
        class Hinted(models.mlflow.pyfunc.PythonModel):
            def predict(self, model_input: list[str]) -> list[str]:
                return model_input

        Hinted.predict.__annotations__ = {"model_input": list[str], "return": list[str]}
        return Path(models.save(Hinted(), path))

    model = load(save_model("hinted_by_strings", save))
    assert "type hints" in reason(model)
    assert route_of(model).call(["a"], None) == ["a"]


def test_declared_dependencies_take_mlflows_way(reason: Callable[[Any], str], echo: Any) -> None:
    echo.metadata.metadata = {"dependencies_schemas": {"retrievers": []}}
    assert "schemas of what it depends on" in reason(echo)


class Variants:
    """The ways in which MLflow calls a ``PythonModel``."""

    @staticmethod
    def of(models: Any) -> dict[str, Any]:
        base = models.mlflow.pyfunc.PythonModel

        class Full(base):
            def predict(self, context, model_input, params=None):
                return [type(context).__name__, model_input, params]

        class Renamed(base):
            def predict(self, ctx, data):
                return [type(ctx).__name__, data]

        class Short(base):
            def predict(self, model_input, params=None):
                return [model_input, params]

        class Frame(base):
            def predict(self, context, model_input, params=None):
                return [type(context).__name__, model_input, params]

        Frame.predict.__annotations__ = {"model_input": pd.DataFrame}
        return {"full": Full, "renamed": Renamed, "short": Short, "frame": Frame}


@pytest.mark.parametrize("variant", ["full", "renamed", "short", "frame"])
@pytest.mark.parametrize("params", [None, {}, {"k": 1}])
def test_arguments_are_mlflows(
    variant: str, params: Any, reason: Callable[[Any], str], save_model: Save
) -> None:
    path = save_model(
        f"route_{variant}", lambda models, path: models.save(Variants.of(models)[variant](), path)
    )
    model = load(path)
    assert reason(model) == ""
    route = route_of(model)
    assert route.validate is not None
    assert route.call(*route.validate([1], params, None)) == model.predict([1], params=params)


def test_params_that_a_model_does_not_take_are_warned_about_as_mlflow_does(
    save_model: Save, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_model(
        "route_renamed",
        lambda models, path: models.save(Variants.of(models)["renamed"](), path),
    )
    route = route_of(load(path))
    caplog.clear()
    route.call([1], {"k": 1})
    (record,) = caplog.records
    assert "`params` {'k': 1} will be ignored" in record.getMessage()


def test_the_context_of_the_prediction_is_mlflows(save_model: Save) -> None:
    def save(models: Any, path: Path) -> Path:
        class Asks(models.mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                from mlflow.pyfunc.context import get_prediction_context

                return vars(get_prediction_context())

        return Path(models.save(Asks(), path))

    model = load(save_model("asks", save))
    route = route_of(model)
    assert route.validate is not None
    assert route.call([1], None) == model.predict([1])
    model = load(save_model("asks", save))
    model._model_id = "m-1"
    assert route_of(model).call([1], None) == model.predict([1])
    assert route_of(model).call([1], None)["model_id"] == "m-1"
    assert get_prediction_context() is None
    with set_prediction_context(Context(request_id="outer")):
        assert route_of(model).call([1], None)["request_id"] == "outer"
