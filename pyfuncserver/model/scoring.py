"""MLflow's scoring protocol: what its requests hold, as the data and params of a model.

What a model is handed is what ``mlflow.pyfunc.scoring_server`` of the installed version would hand
it: a frame, rows and columns are converted by the functions that it uses itself.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyfuncserver.errors import InvalidInput, UnsupportedMediaType
from pyfuncserver.model import extent
from pyfuncserver.model.call import ScoringInput
from pyfuncserver.model.rectangle import AS_IS, COLUMNS, RECORDS, ROWS, SPLIT, TABLE

if TYPE_CHECKING:
    from pyfuncserver.model.plain import Contents

log = logging.getLogger(__name__)

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
MEDIA_TYPES = (CSV, JSON, PARQUET)
"""In the order in which MLflow lists them."""
FIELDS = (SPLIT, RECORDS, ROWS, COLUMNS)
"""Where a JSON body may have its data: exactly one of them is there."""
FrameParser = Callable[[str, Any, Any], pd.DataFrame]
"""Makes a frame of ``dataframe_records`` or ``dataframe_split``, its data, and a schema or None."""
_PARAMS = "params"


class ScoringReader:
    """Finds the contents of a request; see ``Reader`` in ``plain.py``. Thread-safe."""

    def __init__(self, metadata: Any) -> None:
        self._schema = metadata.get_input_schema()
        self._is_raw = bool(getattr(metadata, "_is_signature_from_type_hint", bool)())
        self._llm_fields = _llm_fields()
        params_schema = getattr(metadata, "get_params_schema", lambda: None)()
        self._params = {spec.name for spec in params_schema.params} if params_schema else set()
        self._read: dict[str, Callable[[ScoringInput], Contents]] = {
            JSON: self._json,
            CSV: self._csv,
            PARQUET: _parquet,
        }

    def __call__(self, request: ScoringInput) -> Contents:
        """Raises: InvalidInput, UnsupportedMediaType"""
        return self._read[request.media_type](request)

    def _json(self, request: ScoringInput) -> Contents:
        body = request.data
        if not isinstance(body, dict):
            kind = "a list" if isinstance(body, list) else "neither an object nor a list"
            raise InvalidInput(f"{_WHAT_IS_WANTED}. Received {kind}.")
        if not self._llm_fields.isdisjoint(body):
            request.is_unwrapped = True
            return self._llm_input(body)
        params = body.get(_PARAMS)
        if self._is_raw:
            return AS_IS, _raw_inputs(body), params
        field = _field_of(body)
        return field, body[field], params

    def _llm_input(self, body: dict[str, Any]) -> Contents:
        """Divide a chat, a completion or an embedding: the model's params are beside its data."""
        params = {name: value for name, value in body.items() if name in self._params}
        return AS_IS, {name: body[name] for name in body if name not in params}, params

    def _csv(self, request: ScoringInput) -> Contents:
        try:
            text = str(request.data, "utf-8")
        except UnicodeDecodeError:
            raise InvalidInput("Ensure that input is a valid UTF-8 encoded string.") from None
        extent.check_csv(text)
        try:
            return TABLE, pd.read_csv(io.StringIO(text), dtype=self._csv_types()), None
        except Exception as error:  # whatever pandas and the schema make of the client's text
            raise InvalidInput(self._why_no_csv(text, error)) from error

    def _csv_types(self) -> dict[str, Any] | None:
        schema = self._schema
        if schema is None:
            return None
        return dict(zip(schema.input_names(), schema.pandas_types(), strict=False))

    def _why_no_csv(self, text: str, error: Exception) -> str:
        """Say what is wrong with a table, without its values."""
        if isinstance(error, pd.errors.ParserError | pd.errors.EmptyDataError):
            return f"{_NO_FRAME.format('CSV', 'csv')} {_one_line(error)}"
        column = self._unreadable_column(text)
        return f"{_NO_FRAME.format('CSV', 'csv')} {column}".rstrip()

    def _unreadable_column(self, text: str) -> str:
        if self._schema is None or self._schema.is_tensor_spec():
            return ""
        for spec in self._schema.inputs:
            types = {spec.name: getattr(spec.type, "to_pandas", lambda: object)()}
            try:
                pd.read_csv(io.StringIO(text), dtype=types)
            except Exception as error:  # as above; here only whose column it is, is asked
                log.debug("the column cannot be read", exc_info=error)
                return _unreadable(spec)
        return ""


_WHAT_IS_WANTED = (
    f"The input must be a JSON dictionary with exactly one of the input fields {', '.join(FIELDS)}"
)
_NO_FRAME = (
    "Failed to parse input as a Pandas DataFrame. Ensure that the input is a valid {}-formatted "
    "Pandas DataFrame produced using the `pandas.DataFrame.to_{}()` method."
)


def _llm_fields() -> frozenset[str]:
    """Give the fields by which MLflow, since 2.11, knows input that has no field of the four."""
    try:
        from mlflow.pyfunc.utils.serving_data_parser import SUPPORTED_LLM_FORMATS
    except ImportError:
        return frozenset()
    return frozenset(SUPPORTED_LLM_FORMATS)


def _field_of(body: dict[str, Any]) -> str:
    present = [field for field in FIELDS if field in body]
    if len(present) != 1:
        found = ", ".join(present) or "none of them"
        raise InvalidInput(f"{_WHAT_IS_WANTED}. Received {found}.")
    return present[0]


def _raw_inputs(body: dict[str, Any]) -> Any:
    if COLUMNS not in body:
        raise InvalidInput(
            f"Request payload must be a dictionary with {COLUMNS!r} key when the model contains "
            "a valid type hint."
        )
    return body[COLUMNS]


def _parquet(request: ScoringInput) -> Contents:
    try:
        extent.check_parquet(request.data)
        return AS_IS, pd.read_parquet(io.BytesIO(request.data)), None
    except InvalidInput:
        raise
    except ImportError as error:
        raise UnsupportedMediaType(
            "This server cannot read Parquet: pyarrow is not installed (pyfuncserver[parquet])"
        ) from error
    except Exception as error:  # whatever pyarrow makes of the client's bytes
        raise InvalidInput(_NO_FRAME.format("Parquet", "parquet")) from error


def frame_parser() -> FrameParser:
    """Choose what converts data frames in JSON."""
    try:
        from mlflow.utils.proto_json_utils import dataframe_from_parsed_json as parse
    except ImportError:  # MLflow before 2.0 had another protocol
        log.debug("data frames in JSON are converted by pandas alone: this MLflow is before 2.0")
        return _frame_of
    return lambda field, data, schema: parse(data, field.removeprefix("dataframe_"), schema)


def _frame_of(field: str, data: Any, schema: Any) -> pd.DataFrame:
    """Make a frame as MLflow 2 does, where MLflow 1 will enforce the types."""
    parts = {"data": data} if field == RECORDS else data
    frame = pd.DataFrame(**parts)
    for spec in schema.inputs if schema is not None else ():
        if getattr(spec.type, "name", "") == "binary" and spec.name in frame:
            frame[spec.name] = frame[spec.name].map(_from_base64)
    return frame


def _from_base64(text: str) -> bytes:
    import base64

    return base64.decodebytes(text.encode())


def parsed(parse: FrameParser, field: str, data: Any, schema: Any) -> pd.DataFrame:
    """Make a frame. Raises: InvalidInput, without the client's values"""
    problem = _malformed(field, data)
    if problem:
        raise InvalidInput(problem)
    (extent.check_records if field == RECORDS else extent.check_split)(data)
    try:
        frame = parse(field, data, schema)
        hash(tuple(frame.columns))  # pandas takes any labels, and fails at most that is done then
    except Exception as error:  # MLflow's refusal, or whatever pandas makes of the client's data
        raise InvalidInput(_refusal(error, field, schema)) from error
    return frame


def _malformed(field: str, data: Any) -> str:
    if field == RECORDS:
        return "" if isinstance(data, list) else f"{field} must be a list of records."
    if isinstance(data, dict) and "data" in data and data.keys() <= {"columns", "data", "index"}:
        return ""
    return (
        f"{field} must be a dictionary that has a 'data' field and optionally 'columns' and "
        "'index' fields."
    )


_CONVERSION = re.compile(r"Failed to convert column (.*?) to type", re.DOTALL)


def _refusal(error: Exception, field: str, schema: Any) -> str:
    """Say why a frame was refused: MLflow's own text has the client's values in it."""
    found = _CONVERSION.search(str(error))
    if found is None:
        orient = field.removeprefix("dataframe_")
        return (
            f"Provided {field} field is not a valid dataframe representation in {orient!r} format."
        )
    if schema.has_input_names():
        for spec in schema.inputs:
            if str(spec.name) == found[1]:
                return _unreadable(spec)
    return "A column holds what cannot be read as the type that the model signature has for it"


def _unreadable(spec: Any) -> str:
    return f"Column {spec.name!r} holds what cannot be read as {_type_name(spec)}"


def _type_name(spec: Any) -> str:
    return str(getattr(spec.type, "name", None) or spec.type)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
