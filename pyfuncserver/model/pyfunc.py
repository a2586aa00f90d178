"""The runner of an MLflow pyfunc model: which kind of model it is, resolved once at load.

* **Merlin**: written with the Merlin SDK; its ``predict`` unwraps one dict, the envelope.
* **Legacy**: ``python_model.predict`` has a signature older than MLflow's; it takes the bare body.
* **Plain**: anything else; MLflow's own conversion and schema enforcement stand before it.
"""

from __future__ import annotations

import http
import inspect
import sys
from collections.abc import Callable, Generator
from enum import Enum
from typing import Any

from pyfuncserver.codec.seldon import Feedback
from pyfuncserver.errors import (
    ModelAborted,
    ModelStatus,
    ServingError,
    Unsupported,
)
from pyfuncserver.model import wishes
from pyfuncserver.model.call import Answer, Call, Complete, Form, Predictions
from pyfuncserver.model.description import Description
from pyfuncserver.model.failure import model_failed
from pyfuncserver.model.feedback import listener
from pyfuncserver.model.plain import PlainModel, Prepared
from pyfuncserver.model.streaming import whole


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
        self.belongs_to_thread = wishes.belongs_to_thread(model)
        self._model = model
        self._example = example
        self._plain = PlainModel(model) if self.kind is ModelKind.PLAIN else None
        self._hear = listener(_python_model(model))
        self._predict = {**self._ways(model), Form.FEEDBACK: self._hear_feedback}

    def _ways(self, model: Any) -> dict[Form, Callable[[Call], Answer]]:
        if self._plain is not None:
            return dict.fromkeys(self._plain.forms, self._predict_plain)
        return _merlin(model) if self.kind is ModelKind.MERLIN else _legacy(model)

    @property
    def description(self) -> Description:
        """Say what the model takes and gives, as far as it says so itself."""
        signature = self._model.metadata.signature
        return Description(
            self.loader_module,
            signature,
            self._example,
            frozenset(self._predict),
            is_plain=self._plain is not None,
        )

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
            raise failure_of(error, call) from error

    def _predict_plain(self, call: Call) -> Answer:
        return Predictions(whole(self.invoke(self.prepare(call))), call)

    def _hear_feedback(self, call: Call) -> Answer:
        return Predictions(self._hear(call.payload), call)

    def stream(self, call: Call) -> Generator[Any, None, None]:
        """Run a call part by part; see :class:`~pyfuncserver.model.call.ModelRunner`."""
        if self._plain is None or call.form not in self._plain.forms:
            kind, form = self.kind.value, call.form.value
            raise Unsupported(f"A {kind} model does not stream its answers to {form} calls")
        try:
            yield from self._plain.stream(call)
        except (ServingError, GeneratorExit):
            raise
        except BaseException as error:  # the user's model, as in predict
            raise failure_of(error, call) from error

    @property
    def is_divisible(self) -> bool:
        """Tell whether :meth:`prepare` and :meth:`invoke` may be called apart, as batching does.

        Not where the model takes the whole body (Merlin's, the legacy ones), nor where MLflow
        enforces the signature only inside its own ``predict``.
        """
        return self._plain is not None and self._plain.is_divisible

    @property
    def input_schema(self) -> Any:
        """MLflow's schema of the input, or None."""
        return getattr(self._model.metadata.signature, "inputs", None)

    def prepare(self, call: Call) -> Prepared:
        """Do the first half of :meth:`predict`: convert the input and enforce the signature.

        Only for a model that is divisible, and for a form that it answers.
        Raises: InvalidInput; other errors (MLflow's own) as they are, see :func:`failure_of`.
        """
        assert self._plain is not None
        if call.form is Form.FEEDBACK:
            return Prepared(call.payload, None)
        return self._plain.prepare(call)

    def invoke(self, prepared: Prepared) -> Any:
        """Do the second half: call the model, with data that :meth:`prepare` has enforced.

        The data of several calls may be put together where columns, types and params are equal.
        Raises: what the model raises, as it is; see :func:`failure_of`.
        """
        assert self._plain is not None
        if isinstance(prepared.data, Feedback):
            return self._hear(prepared.data)
        return self._plain.invoke(prepared)


def failure_of(error: BaseException, call: Call) -> ServingError:
    """Say what the model meant by raising: its own status, or a fault, logged under an id."""
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
        return Complete(_unwrap(python_model.predict(context, envelope), "http_response"), call)

    def over_upi(call: Call) -> Answer:
        envelope = {
            "__INPUT__": call.payload,
            "__PROTOCOL__": upi_v1,
            "__GRPC_CONTEXT__": call.context,
        }
        return Complete(_unwrap(python_model.predict(context, envelope), "upi_response"), call)

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
            return Complete(predict(call.payload, headers=call.headers()), call)
        return Complete(predict(call.payload), call)

    return {Form.JSON: over_http, Form.BYTES: over_http}


def _takes_keyword(function: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return True
    named = parameters.get(name)
    return named is not None and named.kind is not inspect.Parameter.POSITIONAL_ONLY
