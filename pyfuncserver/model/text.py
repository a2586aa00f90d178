"""A text for a plain MLflow model: which of its inputs that is."""

from __future__ import annotations

from typing import Any

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.call import TextInput
from pyfuncserver.model.rectangle import AS_IS, COLUMNS

TEXT_INPUT = "text_input"

Contents = tuple[str, Any, dict[str, Any] | None]


class TextReader:
    """Finds where a model with this signature takes a text. See ``plain.Reader``.

    A model without a signature gets the bare text, as MLflow's examples of ``predict_stream`` do;
    one with named inputs gets it as ``text_input``, or as its only input that is a text.
    """

    def __init__(self, schema: Any, params_schema: Any, is_raw: bool) -> None:
        self._specs = [] if schema is None or is_raw else list(schema.inputs)
        self._has_names = bool(self._specs) and schema.has_input_names()
        self._is_bare = schema is None
        self._params = {spec.name for spec in params_schema.params} if params_schema else set()

    def __call__(self, payload: TextInput) -> Contents:
        """Raises: InvalidInput"""
        params = dict(payload.params or {})
        others = dict(payload.others)
        for name in self._params & others.keys():
            params[name] = others.pop(name)
        key, data = self._data(payload.text, others)
        return key, data, params or None

    def _data(self, text: str, others: dict[str, Any]) -> tuple[str, Any]:
        if self._has_names:
            inputs = {self._name(others): text, **others}
            return COLUMNS, {name: self._row(name, value) for name, value in inputs.items()}
        if self._is_bare:
            return AS_IS, {TEXT_INPUT: text, **others} if others else text
        if others:
            raise InvalidInput(f'This model takes no inputs beside "{TEXT_INPUT}"')
        return COLUMNS, [text]

    def _name(self, others: dict[str, Any]) -> str:
        texts = [spec for spec in self._specs if _is_text(spec) and spec.name not in others]
        names = [spec.name for spec in texts]
        if TEXT_INPUT in names:
            return TEXT_INPUT
        if len(names) > 1:
            names = [spec.name for spec in texts if getattr(spec, "required", True)]
        if len(names) != 1:
            raise InvalidInput(
                f'This model has {len(names) or "no"} inputs that could be "{TEXT_INPUT}"'
            )
        return str(names[0])

    def _row(self, name: str, value: Any) -> Any:
        """Give an input of one row; a tensor's has as many dimensions as that."""
        spec = next((spec for spec in self._specs if spec.name == name), None)
        for _ in getattr(spec, "shape", (-1,)):
            value = [value]
        return value


def _is_text(spec: Any) -> bool:
    """Match a column of strings, and a tensor of strings or objects."""
    kind = spec.type
    return getattr(kind, "name", "") == "string" or getattr(kind, "kind", "") in ("U", "S", "O")
