"""A plain MLflow model: what a call carries is converted and enforced, then the model is called.

The two halves are apart, so that the inputs of several calls can be put together between them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from pyfuncserver.codec import upi
from pyfuncserver.errors import InvalidInput, Unsupported
from pyfuncserver.model import binary, extent, kinds, scoring, seldon, tensors
from pyfuncserver.model.call import Call, Form, Tensors
from pyfuncserver.model.padding import Guard, check_within
from pyfuncserver.model.rectangle import COLUMNS, RECORDS, ROWS, SPLIT, TABLE
from pyfuncserver.model.refusal import is_conversion, is_refusal, public_message, unreadable_column
from pyfuncserver.model.route import Params, route_of
from pyfuncserver.model.shortcut import Shortcut, frame_shortcut_of, no_shortcut, shortcut_of
from pyfuncserver.model.streaming import is_about_several, is_stream, predict_stream_of
from pyfuncserver.model.text import TextReader

_PARAMS = "params"
_FRAMES = (RECORDS, SPLIT)
_VALUES = (ROWS, COLUMNS)

Contents = tuple[str, Any, Params]
"""The name that a call gives its data (see ``rectangle.py``), the data, and the params."""
Reader = Callable[[Any], Contents]
"""Finds the contents of a call's payload. Raises: InvalidInput"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What :meth:`PlainModel.invoke` takes: an input as the signature wants it, and its params."""

    data: Any
    """A frame, an array, or a dict of arrays; without a signature whatever the body held."""
    params: Params


class PlainModel:
    """Answers as ``mlflow.pyfunc`` does. Thread-safe where the model is."""

    def __init__(self, model: Any) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.utils.proto_json_utils import parse_tf_serving_input

        self._refused = MlflowException
        self._parse: Callable[..., Any] = parse_tf_serving_input
        self._parse_frame = scoring.frame_parser()
        self._schema = model.metadata.get_input_schema()
        self._is_raw = bool(getattr(model.metadata, "_is_signature_from_type_hint", bool)())
        self._has_columns = self._schema is not None and not self._schema.is_tensor_spec()
        self._padding = Guard(self._schema)
        self._readers: dict[Form, Reader] = {
            Form.JSON: _body,
            Form.UPI: _table,
            Form.TENSORS: tensors.reader_of(self._schema, _params_schema(model), self._is_raw),
            Form.SCORING: scoring.ScoringReader(model.metadata),
            Form.SELDON: seldon.reader(self._schema),
            Form.TEXT: TextReader(self._schema, _params_schema(model), self._is_raw),
        }
        self._artefact = kinds.artefact_of(model)
        self._is_untyped = self._schema is None and self._artefact is None
        self._decode = binary.decoder_of(self._schema, self._is_raw, self._converted)
        self._predict_stream = predict_stream_of(model)
        route = route_of(model)
        self._validate, self._call = route.validate, route.call
        self._shortcuts: dict[str, Shortcut] = {}
        self._default_params: Params = None
        if self._validate is not None:
            of_json = shortcut_of(self._schema, self._as_mlflow)
            of_frames = frame_shortcut_of(self._schema, self._as_mlflow)
            self._shortcuts = dict.fromkeys((ROWS, COLUMNS, TABLE), of_json)
            self._shortcuts |= dict.fromkeys((RECORDS, SPLIT), of_frames)
            self._default_params = self._validate(None, None, None)[1]

    def _as_mlflow(self, schema: Any, key: str, data: Any) -> Any:
        assert self._validate is not None
        return self._validate(self._convert(key, data, schema), None, schema)[0]

    def _shortcut(self, key: str, data: Any) -> Any:
        return self._shortcuts.get(key, no_shortcut)(key, data)

    @property
    def forms(self) -> Iterable[Form]:
        """The forms of call that it answers."""
        return (*self._readers, Form.BYTES) if self._artefact is None else tuple(self._readers)

    @property
    def is_divisible(self) -> bool:
        """Tell whether :meth:`prepare` enforces the signature, so that inputs can be joined."""
        return self._validate is not None

    def prepare(self, call: Call) -> Prepared:
        """Convert what a call carries, and enforce the signature on it.

        Raises: InvalidInput where the signature refuses it.
        """
        if call.form is Form.BYTES:  # whatever the signature says of what they hold
            return Prepared(call.payload, self._default_params and self._default_params.copy())
        key, data, params = self._readers[call.form](call.payload)
        if self._is_untyped and call.may_be_padded and key in _VALUES:
            self._check_untyped(key, data)  # the shortcuts of other models make no strings
        if self._artefact is not None:
            ready, params = self._read_by(self._artefact, call, key, data, params)
        else:
            ready = self._shortcut(key, data)
        if ready is None:
            if call.form is Form.JSON:
                key, data = self._decode(key, data)
            return self._enforced(self._converted(key, data), params, self._schema)
        if params is None:
            return Prepared(ready, self._default_params and self._default_params.copy())
        return self._enforced(ready, params, None)

    def _check_untyped(self, key: str, data: Any) -> None:
        if not binary.are_binary(data):
            self._padding.check_values(key, data)

    def _read_by(
        self, artefact: kinds.Artefact, call: Call, key: str, data: Any, params: Params
    ) -> tuple[Any, Params]:
        """Have a model read its own input, and name the outputs that the client asks for."""
        if isinstance(call.payload, Tensors):
            wanted, given = [output.name for output in call.payload.outputs], params or {}
            params = {**given, **artefact.params_for(wanted, given)} or None
        return artefact.read(self._converted(key, data) if key in _FRAMES else data), params

    def _converted(self, key: str, data: Any) -> Any:
        return self._convert(key, data, self._schema)

    def _convert(self, key: str, data: Any, schema: Any) -> Any:
        if key in _FRAMES:
            self._padding.check_frame(key, data)
            return scoring.parsed(self._parse_frame, key, data, schema)
        if self._is_raw:
            return data
        if self._has_columns and key != ROWS:
            extent.check_columns(data)
        if key not in _VALUES:
            self._padding.check_frame(key, data)
            return data
        self._padding.check_values(key, data)
        try:
            return self._parse({key: data}, schema=schema)
        except self._refused as error:
            column = unreadable_column(data, schema)
            raise InvalidInput(column or public_message(error, schema, data)) from error

    def _enforced(self, data: Any, params: Params, schema: Any) -> Prepared:
        if self._validate is None:
            return Prepared(data, params)
        if params:
            check_within(params)
        try:
            return Prepared(*self._validate(data, params, schema))
        except self._refused as error:
            raise InvalidInput(public_message(error, self._schema, data, params)) from error

    def invoke(self, prepared: Prepared) -> Any:
        """Call the model with what :meth:`prepare` gave, or with several of them put together.

        Raises: what the model raises; InvalidInput where MLflow refuses the input only here.
        """
        data, params = prepared.data, prepared.params
        try:
            return self._call(data, params)
        except self._refused as error:
            if is_refusal(error.__traceback__):
                raise InvalidInput(public_message(error, self._schema, data, params)) from error
            raise
        except Exception as error:
            if is_conversion(error.__traceback__):
                raise InvalidInput("The input is not of the type that the model takes") from error
            raise

    def stream(self, call: Call) -> Generator[Any, None, None]:
        """Give the parts of the model's answer, each when it has made it.

        What is refused, and what the model raises, comes when the first part is asked for, or a
        later one.
        Raises: Unsupported where the model has no parts to give; InvalidInput; the model's own.
        """
        if self._predict_stream is None:
            answer = self.invoke(self.prepare(call))
            if not is_stream(answer):
                raise Unsupported("This model does not stream: it gives its answer as a whole")
            yield from answer
            return
        key, data, params = self._readers[call.form](call.payload)
        if self._artefact is not None:
            converted, params = self._read_by(self._artefact, call, key, data, params)
        else:
            if call.form is Form.JSON:
                key, data = self._decode(key, data)
            converted = self._converted(key, data)
        if params:
            check_within(params)
        try:
            yield from self._predict_stream(converted, params)
        except self._refused as error:
            if is_refusal(error.__traceback__):
                raise InvalidInput(public_message(error, self._schema, data, params)) from error
            if is_about_several(error.__traceback__):
                raise InvalidInput("A streamed answer is to one input, not to several") from error
            raise


def _params_schema(model: Any) -> Any:
    """Give MLflow's schema of the params, None where there is none, or MLflow knows of none."""
    get_params_schema = getattr(model.metadata, "get_params_schema", None)
    return get_params_schema() if get_params_schema is not None else None


def _body(body: Any) -> Contents:
    key = _format_key(body)
    return key, body[key], body.get(_PARAMS) or None


def _table(request: Any) -> Contents:
    try:
        return TABLE, upi.frame_of(request.prediction_table), None
    except ValueError as error:
        raise InvalidInput(f"prediction_table: {error}") from error


def _format_key(body: Any) -> str:
    """Name the one of ``instances`` and ``inputs`` that the body has."""
    if not isinstance(body, dict):
        raise InvalidInput(
            f'Expected a JSON object with "{ROWS}" or "{COLUMNS}", got a {_json_type(body)}'
        )
    present = [key for key in (ROWS, COLUMNS) if key in body]
    if len(present) != 1:
        found = "both" if present else "neither"
        raise InvalidInput(f'Expected exactly one of "{ROWS}" and "{COLUMNS}", got {found}')
    params = body.get(_PARAMS)
    if params is not None and not isinstance(params, dict):
        raise InvalidInput(f'"{_PARAMS}" must be an object, got a {_json_type(params)}')
    return present[0]


def _json_type(value: Any) -> str:
    names = {list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), "object")
