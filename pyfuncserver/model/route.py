"""From an input to the model's own ``predict``: MLflow's way, or what no load can decide of it.

MLflow finds out at every call which arguments the model takes, whether its signature comes from
type hints, and more that cannot change. Here that is found once, for versions of MLflow whose way
is known: its functions refer to no name that was not there in 2.20 to 3.17. Everything else, and
every model that is special in some way, takes MLflow's way as a whole.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

import pandas as pd

log = logging.getLogger(__name__)

Params = dict[str, Any] | None


Validate = Callable[[Any, Params, Any], tuple[Any, Params]]


@dataclass(frozen=True, slots=True)
class Route:
    """How an input that MLflow has converted gets to the model."""

    validate: Validate | None
    """Enforces a schema on data, and the model's own on params; None where ``call`` does that.

    Takes data, params and the schema, or None for that. Raises: MlflowException.
    """
    call: Callable[[Any, Params], Any]
    """Calls the model with data and params. Raises: what the model raises."""


class _Unknown(Exception):
    """Says what is in the way of dividing MLflow's ``predict``."""


def route_of(model: Any) -> Route:
    """Divide a pyfunc model's ``predict`` where its result is then provably the same."""
    try:
        route = _divided(model)
    except (_Unknown, AttributeError, ImportError) as reason:
        log.debug("predictions take MLflow's own way: %s", reason)
        return _undivided(model)
    log.debug("predictions go past MLflow's wrapper, to %s", model.loader_module)
    return route


def _undivided(model: Any) -> Route:
    takes_params = "params" in inspect.signature(model.predict).parameters  # since MLflow 2.6

    def call(data: Any, params: Params) -> Any:
        return model.predict(data, params=params) if takes_params else model.predict(data)

    return Route(None, call)


def _divided(model: Any) -> Route:
    """Raises: _Unknown, AttributeError or ImportError where this MLflow is not a known one."""
    _check_model(model)
    predict = _python_model_call(model) or _flavour_call(model)
    return Route(_validation(model), _in_context(model, predict))


def _check_model(model: Any) -> None:
    from mlflow.pyfunc import PyFuncModel

    if type(model) is not PyFuncModel or {"predict", "_predict"} & vars(model).keys():
        raise _Unknown(f"{type(model).__qualname__} may have a predict of its own")
    _check_names(PyFuncModel.predict, _PREDICT)
    _check_names(PyFuncModel._predict, _INNER_PREDICT)
    metadata = model.metadata
    if metadata._is_signature_from_type_hint() or metadata._is_type_hint_from_example():
        raise _Unknown("the signature comes from type hints")
    if "dependencies_schemas" in (metadata.metadata or {}):
        raise _Unknown("the model declares schemas of what it depends on")


_PREDICT = frozenset(
    (
        *("_try_get_prediction_context", "Context", "set_prediction_context", "update"),
        *("_get_dependencies_schema_from_model", "_model_meta", "model_id", "_predict"),
    )
)
_INNER_PREDICT = frozenset(
    (
        *("metadata", "get_input_schema", "input_schema", "get_params_schema", "params_schema"),
        *("_is_signature_from_type_hint", "_enforce_params_schema", "_validate_prediction_input"),
        *("loader_module", "isinstance", "pandas", "DataFrame", "_is_type_hint_from_example"),
        *("input_example", "_convert_dataframe_to_example_format", "inspect", "signature"),
        *("_predict_fn", "parameters", "get", "kind", "Parameter", "VAR_KEYWORD"),
        *("_log_warning_if_params_not_in_predict_signature", "_logger"),
    )
)
_WRAPPER_PREDICT = frozenset(
    (
        *("inspect", "signature", "python_model", "predict", "parameters", "context"),
        *("_log_warning_if_params_not_in_predict_signature", "_logger", "_convert_input"),
        "_is_context_in_predict_function_signature",
    )
)
_WRAPPER_CONVERT = frozenset(
    (
        *("python_model", "predict_type_hints", "isinstance", "pd", "pandas", "DataFrame"),
        *("_is_list_str", "_is_list_dict_str", "input", "_get_first_string_column", "tolist"),
        *("MlflowException", "invalid_parameter_value", "len", "signature", "inputs", "next"),
        *("iter", "name", "to_dict", "columns", "type", "issubclass", "ChatCompletionRequest"),
        *("SplitChatMessagesRequest", "_hydrate_dataclass", "iloc"),
    )
)


def _check_names(function: Any, known: frozenset[str]) -> None:
    """Refuse a function of MLflow's that does, or is wrapped into, something unknown."""
    unknown = set(_names(function.__code__)) - known
    if unknown:
        raise _Unknown(f"{function.__qualname__} refers to {', '.join(sorted(unknown))}")


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    yield from code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


_VALIDATED = ["data", "params", "input_schema", "params_schema", "flavor"]


def _validation(model: Any) -> Validate:
    from mlflow.pyfunc import _validate_prediction_input as validate

    if list(inspect.signature(validate).parameters) != _VALIDATED:
        raise _Unknown("_validate_prediction_input takes other arguments")
    params_schema, flavour = model.metadata.get_params_schema(), model.loader_module

    def validated(data: Any, params: Params, schema: Any) -> tuple[Any, Params]:
        result: tuple[Any, Params] = validate(data, params, schema, params_schema, flavour)
        return result

    return validated


def _flavour_call(model: Any) -> Callable[[Any, Params], Any]:
    """Call what the flavour has loaded, as ``PyFuncModel._predict`` does."""
    from mlflow.pyfunc import _logger
    from mlflow.pyfunc.model import _log_warning_if_params_not_in_predict_signature as warn

    predict = model._predict_fn
    params_argument = inspect.signature(predict).parameters.get("params")
    if params_argument is not None and params_argument.kind is not params_argument.VAR_KEYWORD:
        return lambda data, params: predict(data, params=params)

    def call(data: Any, params: Params) -> Any:
        if params:
            warn(_logger, params)
        return predict(data)

    return call


def _python_model_call(model: Any) -> Callable[[Any, Params], Any] | None:
    """Call a ``PythonModel`` as its wrapper does; None where the model has another wrapper."""
    from mlflow.models.signature import _is_context_in_predict_function_signature as takes
    from mlflow.pyfunc import model as wrappers

    wrapper, wrapper_class = model._model_impl, wrappers._PythonModelPyfuncWrapper
    if type(wrapper) is not wrapper_class or model._predict_fn != wrapper.predict:
        return None
    _check_names(wrapper_class.predict, _WRAPPER_PREDICT)
    _check_names(wrapper_class._convert_input, _WRAPPER_CONVERT)
    python_model: Any = wrapper.python_model
    # Any other hint has the wrapper convert a frame. What hints need at each call (validation) is
    # inside python_model.predict, which MLflow has wrapped.
    if python_model.predict_type_hints.input not in (None, pd.DataFrame):
        return None
    parameters = inspect.signature(python_model.predict).parameters
    takes_context, takes_params = takes(parameters=parameters), "params" in parameters
    warn: Any = wrappers._log_warning_if_params_not_in_predict_signature
    logger = wrappers._logger

    def call(data: Any, params: Params) -> Any:
        arguments = (wrapper.context, data) if takes_context else (data,)
        if takes_params:
            return python_model.predict(*arguments, params=params)
        if params:
            warn(logger, params)
        return python_model.predict(*arguments)

    return call


def _in_context(model: Any, call: Callable[[Any, Params], Any]) -> Callable[[Any, Params], Any]:
    """Set what a model, or MLflow's tracing in it, can ask for: the context of the prediction."""
    from mlflow.pyfunc.context import Context, get_prediction_context, set_prediction_context

    model_id = getattr(model, "model_id", None)
    new_context: Callable[[], Any] = Context

    def call_in_context(data: Any, params: Params) -> Any:
        context: Any = get_prediction_context() or new_context()
        if model_id:
            context.update(model_id=model_id)
        with set_prediction_context(context):
            return call(data, params)

    return call_in_context
