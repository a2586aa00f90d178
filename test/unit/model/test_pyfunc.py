from __future__ import annotations

import asyncio
import enum
import logging
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
import tornado.web

from pyfuncserver.codec import upi
from pyfuncserver.errors import (
    InvalidInput,
    ModelAborted,
    ModelFailed,
    ModelStatus,
    ServingError,
    Unsupported,
)
from pyfuncserver.model.call import Call, Complete, Form, Predictions
from pyfuncserver.model.plain import Prepared
from pyfuncserver.model.pyfunc import ModelKind, PyFuncRunner, failure_of, kind_of

SECRET = "a client's own 4711"
HEADERS = {"Foo": "bar", "X-Request-Id": "1"}


# Models, as a server can see them


class Context:
    """`(context, model_input)`"""

    def predict(self, context, model_input): ...


class ContextParams:
    def predict(self, context, model_input, params=None): ...


class Contextless:
    def predict(self, model_input, params=None): ...


class Bare:
    def predict(self, model_input): ...


class LegacyKeywords:
    def predict(self, model_input, **kwargs): ...


class LegacyHeaders:
    def predict(self, body, headers): ...


class LegacyExtended:
    def predict(self, context, model_input, extra): ...


class Helpful(Context):
    """A plain model that merely has a helper of that name."""

    def preprocess(self, frame): ...


class MerlinV2(Context):
    """The SDK's PyFuncModel."""

    def initialize(self, artifacts): ...

    def infer(self, request, **kwargs): ...

    def upiv1_infer(self, request, context): ...


class MerlinBeforeUpi(Context):
    def initialize(self, artifacts): ...

    def infer(self, request, **kwargs): ...


class MerlinPyFuncV2(Context):
    """The SDK's PyFuncV2Model: its predict takes what MLflow hands out, no envelope."""

    def initialize(self, artifacts): ...

    def preprocess(self, request, **kwargs): ...

    def infer(self, frame): ...

    def postprocess(self, answer): ...


class Inferring(Context):
    """A plain model that merely has a helper of that name."""

    def infer(self, frame): ...


class MerlinV2Upi(Context):
    def upiv1_infer(self, request, context): ...


class MerlinV3(Context):
    def preprocess(self, request, **kwargs): ...

    def upiv1_preprocess(self, request, context): ...


class MerlinOld(LegacyKeywords):
    """The SDK before its envelope."""

    def infer(self, request, **kwargs): ...


class NotCallable(Context):
    upiv1_infer = "a string"


def pyfunc(python_model: Any, signature: Any = None, old: bool = False) -> Any:
    """Wrap it as MLflow does; old MLflow kept it on the pyfunc model itself."""
    metadata = SimpleNamespace(signature=signature, get_input_schema=lambda: None)
    model = SimpleNamespace(metadata=metadata, predict=lambda data, params=None: data)
    holder = model if old else SimpleNamespace()
    holder.python_model = python_model
    holder.context = "the context"
    if not old:
        model._model_impl = holder
    return model


KINDS = [
    (Context, None, ModelKind.PLAIN),
    (ContextParams, None, ModelKind.PLAIN),
    (Contextless, None, ModelKind.PLAIN),
    (Bare, None, ModelKind.LEGACY),
    (Bare, "a signature", ModelKind.PLAIN),
    (LegacyKeywords, None, ModelKind.LEGACY),
    (LegacyKeywords, "a signature", ModelKind.LEGACY),
    (LegacyHeaders, None, ModelKind.LEGACY),
    (LegacyExtended, None, ModelKind.LEGACY),
    (Helpful, None, ModelKind.PLAIN),
    (NotCallable, None, ModelKind.PLAIN),
    (MerlinV2, None, ModelKind.MERLIN),
    (MerlinV2, "a signature", ModelKind.MERLIN),
    (MerlinV2Upi, None, ModelKind.MERLIN),
    (MerlinV3, None, ModelKind.MERLIN),
    (MerlinBeforeUpi, None, ModelKind.MERLIN),
    (MerlinPyFuncV2, None, ModelKind.PLAIN),
    (Inferring, None, ModelKind.PLAIN),
    (MerlinOld, None, ModelKind.LEGACY),
]


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize(("cls", "signature", "kind"), KINDS)
def test_kind(cls: type, signature: Any, kind: ModelKind, old: bool) -> None:
    assert kind_of(pyfunc(cls(), signature, old)) is kind
    assert PyFuncRunner(pyfunc(cls(), signature, old)).kind is kind


def test_model_of_a_flavour_is_plain() -> None:
    flavour = SimpleNamespace(_model_impl=SimpleNamespace(infer=lambda: None))
    assert kind_of(flavour) is ModelKind.PLAIN


# Merlin


class Recorder(MerlinV2):
    """Keeps the envelopes; answers what it was made with."""

    def __init__(self, answer: Any = None) -> None:
        self.envelopes: list[Any] = []
        self.contexts: list[Any] = []
        self.answer = answer

    def predict(self, context, model_input):
        self.contexts.append(context)
        self.envelopes.append(model_input)
        return self.answer


def json_call(payload: Any = None) -> Call:
    return Call(Form.JSON, payload, lambda: HEADERS)


def upi_call(payload: Any = None, context: Any = None) -> Call:
    return Call(Form.UPI, payload, lambda: HEADERS, context)


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_envelope_over_http(old: bool) -> None:
    model = Recorder({"a": 1})
    body = {"instances": [[1]]}
    answer = PyFuncRunner(pyfunc(model, old=old)).predict(json_call(body))
    assert answer == Complete({"a": 1})
    assert model.envelopes == [{"__INPUT__": body, "__EXTRA_ARGS__": {"headers": HEADERS}}]
    assert model.contexts == ["the context"]


def test_envelope_over_upi_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "merlin.protocol", raising=False)
    model = Recorder("response")
    request, context = object(), object()
    answer = PyFuncRunner(pyfunc(model)).predict(upi_call(request, context))
    assert answer == Complete("response")
    (envelope,) = model.envelopes
    protocol = envelope.pop("__PROTOCOL__")
    assert envelope == {"__INPUT__": request, "__GRPC_CONTEXT__": context}
    assert isinstance(protocol, enum.Enum)
    assert protocol.value == "UPI_V1"
    assert protocol == "UPI_V1"
    assert str(protocol) == "UPI_V1"


def test_envelope_over_upi_with_the_enum_of_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = enum.Enum("Protocol", {"HTTP_JSON": "HTTP_JSON", "UPI_V1": "UPI_V1"})
    module = types.ModuleType("merlin.protocol")
    module.Protocol = protocol  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "merlin.protocol", module)
    model = Recorder()
    PyFuncRunner(pyfunc(model)).predict(upi_call())
    assert model.envelopes[0]["__PROTOCOL__"] is protocol.UPI_V1


def test_response_is_taken_out_of_the_sdks_output() -> None:
    output = SimpleNamespace(
        http_response={"a": 1}, upi_response="message", model_input=1, model_output=2
    )
    runner = PyFuncRunner(pyfunc(Recorder(output)))
    assert runner.predict(json_call()) == Complete({"a": 1})
    assert runner.predict(upi_call()) == Complete("message")


def test_object_with_some_of_the_attributes_is_an_answer_of_its_own() -> None:
    output = SimpleNamespace(http_response={"a": 1}, model_output=2)
    assert PyFuncRunner(pyfunc(Recorder(output))).predict(json_call()) == Complete(output)


# Legacy


class AnyKeywords:
    def predict(self, model_input, **kwargs):
        return [model_input, kwargs]


class NamedHeaders:
    def predict(self, model_input, headers):
        return [model_input, {"headers": headers}]


class NoKeywords:
    def predict(self, model_input):
        return [model_input, {}]


class PositionalHeaders:
    def predict(self, model_input, headers=None, /):
        return [model_input, {} if headers is None else headers]


@pytest.mark.parametrize(
    ("cls", "keywords"),
    [
        (AnyKeywords, {"headers": HEADERS}),
        (NamedHeaders, {"headers": HEADERS}),
        (NoKeywords, {}),
        (PositionalHeaders, {}),
    ],
)
@pytest.mark.parametrize("body", [{"instances": [1]}, [1], "text", None])
def test_legacy_model_takes_the_bare_body(cls: type, keywords: Any, body: Any) -> None:
    answer = PyFuncRunner(pyfunc(cls())).predict(json_call(body))
    assert answer == Complete([body, keywords])


def test_legacy_model_cannot_answer_upi() -> None:
    with pytest.raises(Unsupported, match="legacy"):
        PyFuncRunner(pyfunc(NoKeywords())).predict(upi_call())


# What a model raises


def raising(error: BaseException | type[BaseException]) -> PyFuncRunner:
    class Raises:
        def predict(self, model_input):
            raise error

    return PyFuncRunner(pyfunc(Raises()))


def failure(error: BaseException | type[BaseException], context: Any = None) -> ServingError:
    with pytest.raises(ServingError) as caught:
        raising(error).predict(Call(Form.JSON, {}, {}, context))
    return caught.value


class FastApiError(Exception):
    """Shaped like `fastapi.HTTPException`."""

    def __init__(self) -> None:
        super().__init__()
        self.status_code, self.detail = 409, "conflict of detail"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (tornado.web.HTTPError(status_code=422, reason="no such user"), 422, "no such user"),
        (tornado.web.HTTPError(404), 404, "Not Found"),
        (tornado.web.HTTPError(499), 499, "Unknown"),
        (FastApiError(), 409, "conflict of detail"),
    ],
)
def test_status_of_the_model_passes(error: Exception, status: int, reason: str) -> None:
    found = failure(error)
    assert isinstance(found, ModelStatus)
    assert (found.http_status, str(found)) == (status, reason)


def test_message_for_the_log_is_not_the_reason() -> None:
    # Tornado: "log_message ... will not be shown to the user".
    found = failure(tornado.web.HTTPError(400, f"row of {SECRET}: %s", "x"))
    assert isinstance(found, ModelStatus)
    assert SECRET not in str(found)


class OddStatus(Exception):
    status_code = 200
    reason = "fine"


class BehindTheModel(Exception):
    """What the client of another service raises, which the model has called."""

    status_code = 401


class PanicLike(BaseException):
    """What native extensions written in Rust raise (`pyo3_runtime.PanicException`)."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(SECRET),
        Exception(SECRET),
        Exception(),
        KeyError(SECRET),
        OddStatus(SECRET),
        BehindTheModel(SECRET),
        SystemExit(SECRET),
        SystemExit(0),
        StopIteration(SECRET),
        MemoryError(),
        pytest.param(PanicLike(SECRET), id="PanicException"),
        pytest.param(asyncio.CancelledError(SECRET), id="CancelledError"),
        pytest.param(GeneratorExit(SECRET), id="GeneratorExit"),
        pytest.param(KeyboardInterrupt(SECRET), id="KeyboardInterrupt"),
    ],
    ids=repr,
)
def test_fault_of_the_model_is_told_by_an_id(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        found = failure(error)
    except BaseException as escaped:  # the message of pytest.raises would end the whole run
        if escaped is error:
            pytest.fail(f"a {type(error).__name__} of the model escapes the runner")
        raise
    assert isinstance(found, ModelFailed)
    assert found.error_id in str(found)
    assert SECRET not in str(found)
    assert found.__cause__ is error
    (record,) = (r for r in caplog.records if r.levelno >= logging.ERROR)
    assert found.error_id in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


class GrpcContext:
    """The part of `grpc.ServicerContext` that a model ends a call by."""

    def __init__(self) -> None:
        self._code: grpc.StatusCode | None = None

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        self._code = code
        raise Exception  # noqa: TRY002  as grpcio does

    def code(self) -> grpc.StatusCode | None:
        return self._code


class Aborts(MerlinV2):
    def predict(self, context, model_input):
        model_input["__GRPC_CONTEXT__"].abort(grpc.StatusCode.DATA_LOSS, "lost")


def test_abort_of_the_model_wins() -> None:
    with pytest.raises(ModelAborted) as caught:
        PyFuncRunner(pyfunc(Aborts())).predict(upi_call(None, GrpcContext()))
    assert caught.value.grpc_code == "DATA_LOSS"
    assert type(caught.value.__cause__) is Exception


def test_fault_without_an_abort_is_a_fault_over_grpc_too() -> None:
    assert isinstance(failure(ValueError(SECRET), GrpcContext()), ModelFailed)
    assert isinstance(failure(Exception(SECRET), GrpcContext()), ModelFailed)


# Plain, by MLflow itself

Save = Callable[[str, Callable[[types.ModuleType, Path], Path]], Path]


def runner_of(path: Path) -> PyFuncRunner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's, about models without type hints
        import mlflow.pyfunc

        return PyFuncRunner(mlflow.pyfunc.load_model(str(path)))


@pytest.fixture(scope="module")
def echo(echo_model: Path) -> PyFuncRunner:
    return runner_of(echo_model)


@pytest.fixture(scope="module")
def signed(signed_model: Path) -> PyFuncRunner:
    return runner_of(signed_model)


@pytest.fixture(scope="module")
def with_params(save_model: Save) -> PyFuncRunner:
    def save(models: Any, path: Path) -> Path:
        from mlflow.models import ModelSignature
        from mlflow.types import DataType, ParamSchema, ParamSpec

        class Parametrised(models.mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                return params

        schema = ParamSchema([ParamSpec("k", DataType.long, 3)])
        return models.save(Parametrised(), path, signature=ModelSignature(params=schema))

    return runner_of(save_model("with_params", save))


@pytest.fixture(scope="module")
def hinted(save_model: Save) -> PyFuncRunner:
    def save(models: Any, path: Path) -> Path:
        class Hinted(models.mlflow.pyfunc.PythonModel):
            def predict(self, model_input: list[dict[str, int]]) -> list[int]:
                return [sum(row.values()) for row in model_input]

        Hinted.predict.__annotations__ = {"model_input": list[dict[str, int]], "return": list[int]}
        return models.save(Hinted(), path)

    return runner_of(save_model("hinted", save))


@pytest.fixture(scope="module")
def faulty(save_model: Save) -> PyFuncRunner:
    def save(models: Any, path: Path) -> Path:
        class Faulty(models.mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                from mlflow.exceptions import MlflowException

                raise MlflowException.invalid_parameter_value(SECRET)

        return models.save(Faulty(), path)

    return runner_of(save_model("faulty", save))


@pytest.fixture(scope="module")
def named_otherwise(save_model: Save) -> PyFuncRunner:
    def save(models: Any, path: Path) -> Path:
        class Otherwise(models.mlflow.pyfunc.PythonModel):
            def predict(self, ctx, data):
                return data

        return models.save(Otherwise(), path)

    return runner_of(save_model("named_otherwise", save))


def predicted(runner: PyFuncRunner, body: Any) -> Any:
    call = json_call(body)
    answer = runner.predict(call)
    assert isinstance(answer, Predictions)
    assert answer.call is call
    return answer.value


def refused(runner: PyFuncRunner, body: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        runner.predict(json_call(body))
    assert caught.value.http_status == 400
    text = str(caught.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_plain_model_is_handed_an_array(echo: PyFuncRunner, key: str) -> None:
    found = predicted(echo, {key: [[1, 2], [3, 4]]})
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [[1, 2], [3, 4]]


def test_plain_model_is_handed_the_columns_of_its_signature(signed: PyFuncRunner) -> None:
    rows = [{"a": 1.5, "b": 2, "s": "x"}, {"a": 0, "b": 0, "s": "y"}]
    found = predicted(signed, {"instances": rows})
    assert isinstance(found, pd.DataFrame)
    assert found.to_dict("list") == {"total": [3.5, 0.0], "s": ["X", "Y"]}


def test_inputs_by_column(signed: PyFuncRunner) -> None:
    found = predicted(signed, {"inputs": {"a": [1.5], "b": [2], "s": ["x"]}})
    assert found.to_dict("list") == {"total": [3.5], "s": ["X"]}


def test_raw_input_where_the_signature_comes_from_type_hints(hinted: PyFuncRunner) -> None:
    assert predicted(hinted, {"inputs": [{"a": 1, "b": 2}]}) == [3]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"instances": [1], "inputs": [1]}, "both"),
        ({}, "neither"),
        ({"dataframe_split": {}}, "neither"),
        ([1], "list"),
        ("instances", "string"),
        (5, "number"),
        (True, "boolean"),
        (None, "null"),
        ({"instances": [[1]], "params": [1]}, "params"),
        ({"instances": [[1]], "params": "k"}, "params"),
    ],
)
def test_body_of_another_shape(echo: PyFuncRunner, body: Any, words: str) -> None:
    assert words in refused(echo, body)


def test_missing_column_is_named(signed: PyFuncRunner) -> None:
    text = refused(signed, {"instances": [{"a": 1.5, "s": SECRET}]})
    assert "'b'" in text
    assert SECRET not in text


REFUSED_DATA = {
    "instances": {"instances": [{"a": SECRET, "b": 2, "s": "x"}]},
    "inputs": {"inputs": {"a": [SECRET], "b": [2], "s": ["x"]}},
    "integers": {"inputs": {"a": [1.0], "b": [SECRET], "s": ["x"]}},
    "rows": {"instances": [[SECRET, 2, "x"]]},
    "scalar": {"inputs": SECRET},
}


@pytest.mark.parametrize("body", REFUSED_DATA.values(), ids=REFUSED_DATA)
def test_refused_data_is_not_echoed(signed: PyFuncRunner, body: Any) -> None:
    assert SECRET not in refused(signed, body)


@pytest.mark.parametrize(
    ("column", "row"),
    [("a", {"a": "x", "b": 2, "s": "x"}), ("b", {"a": 1.0, "b": "x", "s": "x"})],
)
@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_column_of_another_type_is_named(
    signed: PyFuncRunner, column: str, row: Any, key: str
) -> None:
    good = {"a": 1.0, "b": 2, "s": "x"}
    assert f"'{column}'" in refused(signed, {key: [good, row]})


@pytest.mark.parametrize("row", [{"a": SECRET}, SECRET, [SECRET]])
def test_data_refused_by_type_hints_is_not_echoed(hinted: PyFuncRunner, row: Any) -> None:
    assert SECRET not in refused(hinted, {"inputs": [row]})


@pytest.mark.parametrize("body", [{"instances": [[1], [1, 2]]}, {"instances": [{"a": 1}, 2]}])
def test_rows_of_several_shapes(echo: PyFuncRunner, body: Any) -> None:
    refused(echo, body)


def test_params(with_params: PyFuncRunner) -> None:
    body = {"instances": [[1]]}
    assert predicted(with_params, {**body, "params": {"k": 7}}) == {"k": 7}
    assert predicted(with_params, body) == {"k": 3}
    assert predicted(with_params, {**body, "params": {}}) == {"k": 3}
    assert predicted(with_params, {**body, "params": None}) == {"k": 3}


def test_params_of_another_type_are_refused_without_an_echo(with_params: PyFuncRunner) -> None:
    text = refused(with_params, {"instances": [[1]], "params": {"k": SECRET}})
    assert "k" in text
    assert SECRET not in text


def test_halves_of_a_prediction(signed: PyFuncRunner) -> None:
    assert signed.is_divisible
    calls = [json_call({"instances": [{"a": a, "b": 2, "s": "x"}]}) for a in (1.5, 2.5)]
    first, second = map(signed.prepare, calls)
    assert first.params is None
    joined = Prepared(pd.concat([first.data, second.data], ignore_index=True), None)
    assert signed.invoke(joined).to_dict("list") == {"total": [3.5, 4.5], "s": ["X", "X"]}
    with pytest.raises(InvalidInput, match="'b'"):
        signed.prepare(json_call({"instances": [{"a": 1.5, "s": "x"}]}))


def test_second_half_raises_as_the_model_does(faulty: PyFuncRunner) -> None:
    from mlflow.exceptions import MlflowException

    call = json_call({"instances": [[1]]})
    with pytest.raises(MlflowException) as caught:
        faulty.invoke(faulty.prepare(call))
    assert isinstance(failure_of(caught.value, call), ModelFailed)


def test_models_without_halves(hinted: PyFuncRunner) -> None:
    assert not hinted.is_divisible
    assert not PyFuncRunner(pyfunc(MerlinV2())).is_divisible
    assert not PyFuncRunner(pyfunc(NoKeywords())).is_divisible


def test_mlflow_error_of_the_model_itself_is_its_fault(faulty: PyFuncRunner) -> None:
    with pytest.raises(ModelFailed) as caught:
        faulty.predict(json_call({"instances": [[1]]}))
    assert SECRET not in str(caught.value)


def test_model_whose_arguments_have_other_names_is_served_as_mlflow_does(
    named_otherwise: PyFuncRunner,
) -> None:
    # MLflow calls `predict(context, model_input)` by position, whatever the names.
    assert predicted(named_otherwise, {"instances": [[1]]}).tolist() == [[1]]


def test_plain_model_over_upi(signed: PyFuncRunner) -> None:
    request = upi.messages().PredictValuesRequest()
    for name, kind in (("a", upi.DOUBLE), ("b", upi.INTEGER), ("s", upi.STRING)):
        request.prediction_table.columns.add(name=name, type=kind)
    row = request.prediction_table.rows.add(row_id="r")
    row.values.add(double_value=1.5)
    row.values.add(integer_value=2)
    row.values.add(string_value="x")
    answer = signed.predict(upi_call(request))
    assert isinstance(answer, Predictions)
    assert answer.value.to_dict("list") == {"total": [3.5], "s": ["X"]}

    request.prediction_table.columns[0].name = "z"
    with pytest.raises(InvalidInput, match="'a'"):
        signed.predict(upi_call(request))
    row.values.add()
    with pytest.raises(InvalidInput, match="prediction_table: row 0"):
        signed.predict(upi_call(request))
