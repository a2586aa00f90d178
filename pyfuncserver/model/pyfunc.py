"""The runner of an MLflow pyfunc model: which kind of model it is, resolved once at load.

* **Merlin**: written with the Merlin SDK; its ``predict`` unwraps one dict, the envelope.
* **Legacy**: ``python_model.predict`` has a signature older than MLflow's; it takes the bare body.
* **Plain**: anything else; MLflow's own conversion and schema enforcement stand before it.
"""

from __future__ import annotations

import http
import inspect
import re
import sys
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Any

from pyfuncserver.codec import upi
from pyfuncserver.errors import (
    InvalidInput,
    ModelAborted,
    ModelStatus,
    ServingError,
    Unsupported,
)
from pyfuncserver.model.call import Answer, Call, Complete, Form, Predictions
from pyfuncserver.model.failure import model_failed


class Protocol(str, Enum):
    """Stands in for ``merlin.protocol.Protocol`` where the model has not loaded that."""

    HTTP_JSON = "HTTP_JSON"
    UPI_V1 = "UPI_V1"

    def __str__(self) -> str:
        return self.value


class ModelKind(Enum):
    MERLIN = "merlin"
    LEGACY = "legacy"
    PLAIN = "plain"


def kind_of(model: Any) -> ModelKind:
    """Tell which kind of model it is, by its methods and the parameters of its ``predict``."""
    python_model = _python_model(model)
    if python_model is None:
        return ModelKind.PLAIN
    if _takes_context(python_model):
        return ModelKind.MERLIN if _is_merlin(python_model) else ModelKind.PLAIN
    return ModelKind.PLAIN if _is_contextless(model, python_model) else ModelKind.LEGACY


def _is_merlin(python_model: Any) -> bool:
    """Match the methods of the SDK's classes, not names that any model might have.

    ``infer`` alone is not enough: the SDK's ``PyFuncV2Model`` and many a model of somebody's own
    have it, and take what MLflow hands out. The SDK before UPI had it with ``initialize``.
    """

    def has(name: str) -> bool:
        return callable(getattr(python_model, name, None))

    if has("upiv1_infer") or (has("preprocess") and has("upiv1_preprocess")):
        return True
    return has("infer") and has("initialize") and not has("postprocess")


def _python_model(model: Any) -> Any:
    """Find the ``PythonModel`` behind a pyfunc model, or None where a flavour of its own is."""
    old = getattr(model, "python_model", None)
    if old is not None:
        return old
    return getattr(getattr(model, "_model_impl", None), "python_model", None)


def _parameters(python_model: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(python_model.predict).parameters.values())


def _takes_context(python_model: Any) -> bool:
    """Match ``(context, model_input)``, by whatever names, and MLflow's later ``params`` beside it.

    MLflow passes both by position. ``(body, headers)`` is a legacy signature.
    """
    parameters = [p for p in _parameters(python_model) if p.name != "params"]
    required = [p for p in parameters if _is_required(p)]
    if len(required) != 2 or parameters[:2] != required:
        return False
    is_named = required[0].name == "context"
    return is_named or (len(parameters) == 2 and required[1].name != "headers")


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind in (
        parameter.POSITIONAL_ONLY,
        parameter.POSITIONAL_OR_KEYWORD,
    )


def _is_contextless(model: Any, python_model: Any) -> bool:
    """Match MLflow's ``(model_input[, params])``, which MLflow 2.20 brought.

    Without ``params`` that is a legacy signature as well; then it is MLflow's only where the model
    has a signature or type hints, since the legacy ones had neither.
    """
    names = [parameter.name for parameter in _parameters(python_model)]
    if names == ["model_input", "params"]:
        return True
    return names == ["model_input"] and model.metadata.signature is not None


class PyFuncRunner:
    """Runs one loaded pyfunc model. ``kind`` and all that follows from it is decided here, once."""

    def __init__(self, model: Any, loader_module: str = "", example: Any = None) -> None:
        self.loader_module = loader_module
        self.kind = kind_of(model)
        self._model = model
        self._example = example
        self._predict: dict[Form, Callable[[Call], Answer]] = {
            ModelKind.MERLIN: _merlin,
            ModelKind.LEGACY: _legacy,
            ModelKind.PLAIN: _plain,
        }[self.kind](model)

    @property
    def has_example(self) -> bool:
        """Tell whether the model has an input example that it takes.

        The classes of the Merlin SDK and the legacy ones take what no example holds.
        """
        return self._example is not None and self.kind is ModelKind.PLAIN

    def warm_up(self) -> None:
        """Have the model answer its own input example.

        Raises: ModelFailed, with what the model had raised as its cause.
        """
        try:
            self._model.predict(self._example)
        except BaseException as error:  # the user's model, as in predict
            raise model_failed("The model fails at its own input example", error) from error

    def predict(self, call: Call) -> Answer:
        """Run a call; see :class:`~pyfuncserver.model.call.ModelRunner`."""
        answer = self._predict.get(call.form)
        if answer is None:
            raise Unsupported(f"A {self.kind.value} model does not answer {call.form.value} calls")
        try:
            return answer(call)
        except ServingError:
            raise
        except BaseException as error:  # the user's model: it may call sys.exit, or panic in Rust
            raise _failure(error, call) from error


def _failure(error: BaseException, call: Call) -> ServingError:
    """Say what the model meant by raising: its own status, or a fault under an error id."""
    code = _aborted_with(error, call.context)
    if code is not None:
        return ModelAborted(code)
    status = getattr(error, "status_code", None)
    if _is_http_error(error) and isinstance(status, int) and 400 <= status <= 599:
        return ModelStatus(status, _reason(error))
    return model_failed("The model failed to answer", error)


def _is_http_error(error: BaseException) -> bool:
    """Match ``tornado.web.HTTPError``, ``starlette``'s ``HTTPException`` and their like.

    What clients of other services raise has a ``status_code`` too, but neither of these; the status
    of a service behind the model is not the model's answer.
    """
    return hasattr(error, "reason") or hasattr(error, "detail")


def _aborted_with(error: BaseException, context: Any) -> str | None:
    """Name the code that ``context.abort`` set: it raises a bare ``Exception`` afterwards."""
    if context is None or type(error) is not Exception or error.args:
        return None
    code = context.code()
    return None if code is None else str(code.name)


def _reason(error: BaseException) -> str:
    for attribute in ("reason", "detail"):
        value = getattr(error, attribute, None)
        if value:
            return str(value)
    status = int(error.status_code)  # type: ignore[attr-defined]
    return http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "Unknown"


# Merlin: the envelope


def _merlin(model: Any) -> dict[Form, Callable[[Call], Answer]]:
    python_model = _python_model(model)
    context = getattr(getattr(model, "_model_impl", model), "context", None)
    upi_v1 = _upi_protocol()

    def over_http(call: Call) -> Answer:
        envelope = {"__INPUT__": call.payload, "__EXTRA_ARGS__": {"headers": call.headers()}}
        return Complete(_unwrap(python_model.predict(context, envelope), "http_response"))

    def over_upi(call: Call) -> Answer:
        envelope = {
            "__INPUT__": call.payload,
            "__PROTOCOL__": upi_v1,
            "__GRPC_CONTEXT__": call.context,
        }
        return Complete(_unwrap(python_model.predict(context, envelope), "upi_response"))

    return {Form.JSON: over_http, Form.UPI: over_upi}


def _upi_protocol() -> Any:
    """Give the SDK's own member where the model has loaded the SDK: it may compare by identity."""
    module = sys.modules.get("merlin.protocol")
    return getattr(module, "Protocol", Protocol).UPI_V1


_OUTPUT_ATTRIBUTES = ("http_response", "upi_response", "model_input", "model_output")


def _unwrap(answer: Any, attribute: str) -> Any:
    """Take the response out of the SDK's ``PyFuncOutput``; anything else is the response."""
    if all(hasattr(answer, name) for name in _OUTPUT_ATTRIBUTES):
        return getattr(answer, attribute)
    return answer


# Legacy: the bare body


def _legacy(model: Any) -> dict[Form, Callable[[Call], Answer]]:
    predict = _python_model(model).predict
    takes_keywords = _takes_keyword(predict, "headers")

    def over_http(call: Call) -> Answer:
        if takes_keywords:
            return Complete(predict(call.payload, headers=call.headers()))
        return Complete(predict(call.payload))

    return {Form.JSON: over_http}


def _takes_keyword(function: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return True
    named = parameters.get(name)
    return named is not None and named.kind is not inspect.Parameter.POSITIONAL_ONLY


# Plain: what MLflow would hand it

_ROWS, _COLUMNS, _PARAMS = "instances", "inputs", "params"


def _plain(model: Any) -> dict[Form, Callable[[Call], Answer]]:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.proto_json_utils import parse_tf_serving_input

    schema = model.metadata.get_input_schema()
    is_raw = bool(getattr(model.metadata, "_is_signature_from_type_hint", bool)())

    def convert(body: Any) -> Any:
        key = _format_key(body)
        if is_raw:
            return body[key]
        try:
            return parse_tf_serving_input({key: body[key]}, schema=schema)
        except MlflowException as error:
            column = _unreadable_column(body[key], schema)
            raise InvalidInput(column or _public_message(error, schema, body[key])) from error

    def predict(data: Any, params: Any) -> Any:
        try:
            return model.predict(data, params=params) if params else model.predict(data)
        except MlflowException as error:
            if _refused_by_signature(error.__traceback__):
                raise InvalidInput(_public_message(error, schema, data, params)) from error
            raise

    def over_http(call: Call) -> Answer:
        data = convert(call.payload)
        return Predictions(predict(data, call.payload.get(_PARAMS)), call)

    def over_upi(call: Call) -> Answer:
        try:
            frame = upi.frame_of(call.payload.prediction_table)
        except ValueError as error:
            raise InvalidInput(f"prediction_table: {error}") from error
        return Predictions(predict(frame, None), call)

    return {Form.JSON: over_http, Form.UPI: over_upi}


def _format_key(body: Any) -> str:
    """Name the one of ``instances`` and ``inputs`` that the body has."""
    if not isinstance(body, dict):
        raise InvalidInput(
            f'Expected a JSON object with "{_ROWS}" or "{_COLUMNS}", got a {_json_type(body)}'
        )
    present = [key for key in (_ROWS, _COLUMNS) if key in body]
    if len(present) != 1:
        found = "both" if present else "neither"
        raise InvalidInput(f'Expected exactly one of "{_ROWS}" and "{_COLUMNS}", got {found}')
    params = body.get(_PARAMS)
    if params is not None and not isinstance(params, dict):
        raise InvalidInput(f'"{_PARAMS}" must be an object, got a {_json_type(params)}')
    return present[0]


def _json_type(value: Any) -> str:
    names = {list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), "object")


def _unreadable_column(data: Any, schema: Any) -> str:
    """Name the column whose values MLflow cannot convert, which its own message does not."""
    from mlflow.exceptions import MlflowException
    from mlflow.types import Schema
    from mlflow.utils.proto_json_utils import parse_tf_serving_input

    if schema is None or not schema.has_input_names():
        return ""
    for spec in schema.inputs:
        if isinstance(data, dict) and spec.name in data:
            values = data[spec.name]
        elif isinstance(data, list):
            rows = [row for row in data if isinstance(row, dict)]
            values = [row[spec.name] for row in rows if spec.name in row]
        else:
            continue
        try:
            parse_tf_serving_input({"inputs": {spec.name: values}}, Schema([spec]))
        except MlflowException:
            kind = getattr(spec.type, "name", None) or spec.type
            return f"Column {spec.name!r} holds what cannot be read as {kind}"
    return ""


_ENFORCERS = frozenset(
    (
        "_validate_prediction_input",
        "_enforce_schema",
        "_enforce_params_schema",
        "_validate_model_input",
    )
)


def _refused_by_signature(traceback: TracebackType | None) -> bool:
    """Tell an input that MLflow's enforcement refused from a fault inside the model.

    Both are an MlflowException, in some versions with one error code. The way it came tells.
    """
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if "mlflow" in code.co_filename and (
            code.co_name in _ENFORCERS
            or code.co_name.startswith("_validate_data_against_type_hint")
        ):
            return True
        traceback = traceback.tb_next
    return False


_QUOTED = re.compile(r"(['\"`])(.*?)\1")


def _public_message(error: BaseException, schema: Any, *data: Any) -> str:
    """Say what was wrong without the client's values, which MLflow puts into its own text.

    What it quotes is left out, unless it is the name of a column.
    """
    is_wrapped = "Failed to enforce schema of data" in str(error)
    cause = error.__context__ if is_wrapped and error.__context__ is not None else error
    message = " ".join(str(getattr(cause, "message", None) or cause).split())
    names = set(_names(schema))
    for part in data:
        names.update(_names_in(part))
    return _QUOTED.sub(lambda quoted: quoted[0] if quoted[2] in names else "'...'", message)


def _names(schema: Any) -> list[str]:
    if schema is None or not schema.has_input_names():
        return []
    return [str(name) for name in schema.input_names()]


def _names_in(data: Any) -> list[str]:
    """List the columns that a client has named."""
    if isinstance(data, list) and data:
        data = data[0]
    return [str(name) for name in data] if isinstance(data, dict) else []
