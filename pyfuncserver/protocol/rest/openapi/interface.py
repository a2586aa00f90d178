"""What a model takes and gives: schemas and examples, which every dialect frames its own way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pyfuncserver.codec import json
from pyfuncserver.model.description import Description
from pyfuncserver.protocol.rest.openapi import schema
from pyfuncserver.protocol.rest.openapi.schema import Schema

MOST_ROWS = 3
"""Of the model's own example that the document shows."""
MOST_BYTES = 20_000
"""Of an example; a larger one is left out."""
MOST_VALUES = 1_000


@dataclass(frozen=True)
class Field:
    """A column or a tensor of the signature."""

    name: str
    """Empty where it has none."""
    type: str
    """MLflow's name of a column's type, or NumPy's of a tensor's."""
    schema: Schema
    """Of one value of a column, or of the whole tensor."""
    sample: Any
    is_required: bool = True
    shape: tuple[int, ...] | None = None
    """A tensor's, with -1 for a free dimension; None for a column."""


@dataclass(frozen=True)
class Interface:
    """What is known of a model's input and output; of one without a signature, nothing."""

    inputs: tuple[Field, ...] = ()
    params: Schema | None = None
    """Of the object ``params``, where the model takes any."""
    predictions: Schema = field(default_factory=dict)
    example: Any = None
    """The model's own, as JSON, shortened."""

    @property
    def is_tabular(self) -> bool:
        return bool(self.inputs) and self.inputs[0].shape is None

    @property
    def is_named(self) -> bool:
        return bool(self.inputs) and all(it.name for it in self.inputs)

    @property
    def has_scalars(self) -> bool:
        """Tell whether no column holds more than that, which MLflow takes in data frames alone."""
        return self.is_tabular and not {it.type for it in self.inputs} & {"array", "object", "map"}

    @cached_property
    def rows(self) -> Schema:
        """The schema of the input, row by row: ``instances``."""
        if not self.inputs:
            return {"type": "array"}
        if self.is_tabular:
            items = self._record if self.is_named else self._row
            return {**schema.array(items), "minItems": 1}
        if len(self.inputs) == 1:
            return {**self.inputs[0].schema, **_at_least_one(self.inputs[0])}
        cells = {it.name: (_without_batch(it), it.is_required) for it in self.inputs}
        return {**schema.array(schema.record(cells)), "minItems": 1}

    @cached_property
    def columns(self) -> Schema:
        """The schema of the input, column by column or tensor by tensor: ``inputs``."""
        if not self.inputs:
            return {}
        if not self.is_named:
            return self.rows
        if self.is_tabular:
            lists = {it.name: (self._column(it), it.is_required) for it in self.inputs}
            return _without_nulls(schema.record(lists), lists)
        wholes = {it.name: (it.schema, it.is_required) for it in self.inputs}
        return schema.record(wholes)

    @property
    def _record(self) -> Schema:
        return schema.record({it.name: (it.schema, it.is_required) for it in self.inputs})

    @property
    def _row(self) -> Schema:
        if len(self.inputs) == 1:
            return self.inputs[0].schema
        cells = [it.schema for it in self.inputs]
        return {"type": "array", "prefixItems": cells, "items": False, "minItems": len(cells)}

    @staticmethod
    def _column(it: Field) -> Schema:
        cell = it.schema if it.is_required else schema.or_null(it.schema)
        return {**schema.array(cell), "minItems": 1}

    @cached_property
    def example_rows(self) -> Any:
        """An example of ``rows``, or None."""
        found = self.example
        if not self.inputs:
            return found if isinstance(found, list) else None
        if self.is_tabular and self.is_named:
            return self._records(found) or [{it.name: it.sample for it in self.inputs}]
        if self.is_tabular:
            return self._rows_without_names(found) or [self._sample_row()]
        if len(self.inputs) == 1:
            return found if isinstance(found, list) else self.inputs[0].sample
        return None

    @cached_property
    def example_columns(self) -> Any:
        """An example of ``columns``, or None."""
        found = self.example
        if not self.inputs:
            return None
        if not self.is_named:
            return self.example_rows
        if self.is_tabular:
            rows = self.example_rows
            names = [it.name for it in self.inputs if all(it.name in row for row in rows)]
            return {name: [row[name] for row in rows] for name in names}
        if isinstance(found, dict) and all(it.name in found for it in self.inputs):
            return found
        if len(self.inputs) == 1 and isinstance(found, list):
            return {self.inputs[0].name: found}
        samples = {it.name: it.sample for it in self.inputs}
        return None if None in samples.values() else samples

    def _sample_row(self) -> Any:
        samples = [it.sample for it in self.inputs]
        return samples[0] if len(samples) == 1 else samples

    def _rows_without_names(self, found: Any) -> list[Any]:
        """Give the rows of an example; none where they have another form."""
        if not isinstance(found, list):
            return []
        rows, width = list(map(_nameless, found)), len(self.inputs)
        if width == 1:
            return rows
        return [row for row in rows if isinstance(row, list) and len(row) == width]

    def _records(self, found: Any) -> list[dict[str, Any]]:
        """Give the rows of an example that hold what they must; none where it has another form."""
        if isinstance(found, dict):
            found = [found]
        if not isinstance(found, list):
            return []
        rows = (row for row in found if isinstance(row, dict))
        return [self._cells(row) for row in rows if all(map(_holds(row), self.inputs))]

    def _cells(self, row: dict[str, Any]) -> dict[str, Any]:
        """Give a row with its binary values as bare base64, which every dialect takes."""
        binary = {it.name for it in self.inputs if it.type == "binary"}
        return {
            name: it.get("b64", it) if name in binary and isinstance(it, dict) else it
            for name, it in row.items()
        }


def of(description: Description) -> Interface:
    """Read a model's signature and example."""
    signature = description.signature
    example = _shortened(description.example)
    if signature is None or signature.inputs is None:
        return Interface(example=example)
    return Interface(
        inputs=tuple(_field(it) for it in signature.inputs.to_dict()),
        params=_params(getattr(signature, "params", None)),
        predictions=_predictions(signature.outputs),
        example=example,
    )


def _field(found: Mapping[str, Any]) -> Field:
    name, must = str(found.get("name") or ""), schema.is_required(found)
    spec = found.get("tensor-spec")
    if spec is None:
        kind = str(found.get("type"))
        return Field(name, kind, schema.of_type(found), schema.sample_of(found), must)
    dtype, shape = str(spec["dtype"]), tuple(int(length) for length in spec["shape"])
    size = math.prod(max(1, length) for length in shape)
    sample = schema.zeros(dtype, shape) if size <= MOST_VALUES else None
    return Field(name, dtype, schema.tensor(dtype, shape), sample, must, shape)


def _nameless(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    values = list(row.values())
    return values[0] if len(values) == 1 else values


def _at_least_one(it: Field) -> Schema:
    return {"minItems": 1} if it.shape and it.shape[0] < 0 else {}


def _without_batch(it: Field) -> Schema:
    items: Schema = it.schema.get("items", it.schema)
    return items


def _without_nulls(record: Schema, lists: Mapping[str, tuple[Schema, bool]]) -> Schema:
    """Let a column that may be missing not be null instead; its values may."""
    return {**record, "properties": {name: it for name, (it, _) in lists.items()}}


def _holds(row: Mapping[str, Any]) -> Any:
    def holds(it: Field) -> bool:
        return it.name in row and (row[it.name] is not None or not it.schema)

    return lambda it: holds(it) or not it.is_required


def _params(found: Any) -> Schema | None:
    if found is None:
        return None
    members = {str(it["name"]): _param(it) for it in found.to_dict()}
    return {"type": "object", "properties": members}


def _param(found: Mapping[str, Any]) -> Schema:
    kind = schema.of_type(found)
    shape = found.get("shape")
    whole = kind if shape is None else schema.array(kind, -1 if shape[0] is None else shape[0])
    default = _plain(found.get("default"))
    return whole if default is None else {**whole, "default": default}


def _predictions(outputs: Any) -> Schema:
    """Give what predictions are like, which MLflow does not check."""
    if outputs is None:
        return {}
    found = outputs.to_dict()
    if all("tensor-spec" in it for it in found):
        return _tensors(found)
    cells = {str(it.get("name") or ""): schema.or_null(schema.of_answer(it)) for it in found}
    if "" in cells:
        return _one_or_many(cells[""]) if len(found) == 1 else {}
    # Not required: a model may answer with fewer.
    rows = schema.array({"type": "object", "properties": cells})
    return rows if len(found) > 1 else {"anyOf": [rows, *_one_or_many(*cells.values())["anyOf"]]}


def _one_or_many(value: Schema) -> Schema:
    return {"anyOf": [schema.array(value), value]}


def _tensors(found: list[dict[str, Any]]) -> Schema:
    wholes = {}
    for it in found:
        spec = it["tensor-spec"]
        shape = [int(length) for length in spec["shape"]]
        wholes[str(it.get("name") or "")] = schema.tensor(str(spec["dtype"]), shape, is_answer=True)
    named = {"type": "object", "properties": wholes}
    if len(found) > 1:
        return {"anyOf": [named, {"type": "array"}]}
    (only,) = wholes.values()
    return only if "" in wholes else {"anyOf": [only, named, {"type": "array"}]}


def _plain(value: Any) -> Any:
    """Give what JSON makes of a value."""
    return json.loads(json.dumps(value))


def _shortened(example: Any) -> Any:
    """Give the beginning of an example as JSON; None where there is none, or it is too large."""
    if example is None:
        return None
    try:
        plain = _plain(_beginning(example))
    except (TypeError, ValueError):
        return None  # not what JSON can hold, as of a model that takes other things
    return plain if len(json.dumps(plain)) <= MOST_BYTES else None


def _beginning(example: Any) -> Any:
    if isinstance(example, dict):
        return example
    try:
        return example[:MOST_ROWS]
    except (TypeError, LookupError, ValueError):
        return example
