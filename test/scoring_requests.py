"""Draws signatures, and requests of MLflow's scoring protocol that fit them, mostly."""

from __future__ import annotations

import datetime
import json
import math
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array, Map, Object, Property

Draw = random.Random
TEXTS = ["", "x", "1", "1.5", "true", "\N{SNOWMAN}", "a\0", "AP8=", "2020-01-01", "null", 'a"b']
NUMBERS: list[Any] = [0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**20]
FLOATS: list[Any] = [-0.0, 1.5, 0.1, 1e39, 1e308, 5e-324, math.nan, math.inf, -math.inf]
ODD: list[Any] = [None, [], [1.5], ["x"], {}, {"k": 1}, {"b64": "AP8="}, [[1]], True, "odd", 7, 0.5]


def value_of(draw: Draw, kind: Any) -> Any:
    """Draw a value that mostly fits a type."""
    if draw.random() < 0.03:
        return draw.choice([*ODD, *NUMBERS, *FLOATS, *TEXTS])
    if isinstance(kind, Array):
        return [value_of(draw, kind.dtype) for _ in range(draw.randint(0, 3))]
    if isinstance(kind, Map):
        return {key: value_of(draw, kind.value_type) for key in draw.sample("xyz", 2)}
    if isinstance(kind, Object):
        kept = [p for p in kind.properties if p.required or draw.random() < 0.7]
        return {p.name: value_of(draw, p.dtype) for p in kept}
    makers: dict[Any, Callable[[], Any]] = {
        DataType.boolean: lambda: draw.random() < 0.5,
        DataType.integer: lambda: draw.randint(-(2**31), 2**31 - 1),
        DataType.long: lambda: draw.choice([draw.randint(-9, 9), 2**53 + 1, -(2**63)]),
        DataType.float: lambda: draw.choice([draw.random(), draw.randint(-9, 9), None, 2.5]),
        DataType.double: lambda: draw.choice([draw.random(), draw.randint(-9, 9), None, math.nan]),
        DataType.string: lambda: draw.choice(TEXTS),
        DataType.binary: lambda: draw.choice(["AP8=", "eHh4", "eA==", "x"]),
        DataType.datetime: lambda: _moment(draw),
    }
    return makers[kind]()


def _moment(draw: Draw) -> str:
    moment = datetime.datetime(2000, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(
        seconds=draw.randint(0, 10**9)
    )
    formats = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]
    return moment.strftime(draw.choices(formats, [6, 2, 2, 1])[0])


def column_type(draw: Draw) -> Any:
    if draw.random() < 0.85:
        return draw.choice(list(DataType))
    inner = draw.choice([DataType.double, DataType.string, DataType.long])
    nested = Object([Property("p", inner), Property("q", DataType.string, required=False)])
    return draw.choice([Array(inner), Map(inner), nested, Array(nested)])


def params_schema(draw: Draw) -> ParamSchema | None:
    if draw.random() < 0.6:
        return None
    specs = [
        ParamSpec("whole", DataType.long, 3),
        ParamSpec("part", DataType.double, None),
        ParamSpec("text", DataType.string, "t"),
        ParamSpec("many", DataType.double, [0.5], (-1,)),
    ]
    return ParamSchema(draw.sample(specs, draw.randint(1, 4)))


DTYPES = ["float64", "float32", "int64", "int32", "uint8", "bool", "str", "bytes", "object"]
SHAPES = [(-1,), (-1, 2), (2, 2), (-1, -1), (-1, 2, 1)]


def signature_of(draw: Draw) -> ModelSignature | None:
    kind = draw.choices(["columns", "simple", "unnamed", "tensor", "tensors", None],
                        [5, 3, 1, 2, 2, 2])[0]  # fmt: skip
    params = params_schema(draw)
    if kind is None:
        return None if params is None else ModelSignature(params=params)
    if kind == "tensor":
        specs: list[Any] = [TensorSpec(np.dtype(draw.choice(DTYPES)), draw.choice(SHAPES))]
    elif kind == "tensors":
        specs = [
            TensorSpec(np.dtype(draw.choice(DTYPES)), draw.choice(SHAPES), name)
            for name in draw.sample("abc", draw.randint(1, 3))
        ]
    elif kind == "unnamed":
        specs = [ColSpec(draw.choice(list(DataType))) for _ in range(draw.randint(1, 3))]
    else:
        names = draw.sample("abcde", draw.randint(1, 4))
        of = column_type if kind == "columns" else lambda d: d.choice(SIMPLE)
        specs = [ColSpec(of(draw), name, required=draw.random() < 0.7) for name in names]
    return ModelSignature(inputs=Schema(specs), params=params)


SIMPLE = [
    *(DataType.double, DataType.long, DataType.string, DataType.float, DataType.integer),
    DataType.boolean,
]


def nested(draw: Draw, shape: tuple[int, ...], leaf: Callable[[], Any]) -> Any:
    if not shape:
        return leaf()
    size = shape[0] if shape[0] >= 0 else draw.randint(1, 3)
    return [nested(draw, shape[1:], leaf) for _ in range(size)]


def tensor_of(draw: Draw, dtype: Any, shape: tuple[int, ...]) -> Any:
    leaves: dict[str, Callable[[], Any]] = {
        "f": lambda: draw.choice([0.5, 1, -2.25, 0.1]),
        "i": lambda: draw.randint(-9, 9),
        "u": lambda: draw.randint(0, 255),
        "b": lambda: draw.random() < 0.5,
    }
    leaf = leaves.get(np.dtype(dtype).kind, lambda: draw.choice(TEXTS))
    # A size of its own in every place would make no tensor.
    fixed = tuple(size if size >= 0 else draw.randint(1, 3) for size in shape)
    return nested(draw, fixed, lambda: draw.choice(ODD) if draw.random() < 0.01 else leaf())


def rows_of(draw: Draw, signature: ModelSignature | None) -> tuple[list[str], list[list[Any]]]:
    """Draw a table: names of columns, and rows."""
    schema = None if signature is None else signature.inputs
    count = draw.choice([0, 1, 1, 2, 3])
    if schema is None or not schema.has_input_names():
        kinds = schema.input_types() if schema and not schema.is_tensor_spec() else None
        kinds = kinds or [draw.choice(SIMPLE) for _ in range(draw.randint(1, 3))]
        names = list("uvw"[: len(kinds)])
        return names, [[value_of(draw, kind) for kind in kinds] for _ in range(count)]
    specs = [spec for spec in schema.inputs if spec.required or draw.random() < 0.8]
    if draw.random() < 0.05 and specs:
        specs.remove(draw.choice(specs))
    if draw.random() < 0.5:
        draw.shuffle(specs)
    rows = [[_cell(draw, spec) for spec in specs] for _ in range(count)]
    names = [spec.name for spec in specs]
    if draw.random() < 0.05:
        names, rows = [*names, "extra"], [[*row, 1] for row in rows]
    return names, rows


def _cell(draw: Draw, spec: Any) -> Any:
    if isinstance(spec, TensorSpec):
        return tensor_of(draw, spec.type, spec.shape[1:])
    if not spec.required and draw.random() < 0.2:
        return None
    return value_of(draw, spec.type)


def json_body(draw: Draw, signature: ModelSignature | None) -> Any:
    field = draw.choice(["dataframe_split", "dataframe_records", "instances", "inputs"])
    body: dict[str, Any] = {field: data_of(draw, signature, field)}
    if draw.random() < 0.25:
        body["params"] = params_of(draw)
    if draw.random() < 0.04:
        return draw.choice(MANGLERS)(body)
    return body


def data_of(draw: Draw, signature: ModelSignature | None, field: str) -> Any:
    schema = None if signature is None else signature.inputs
    if schema is not None and schema.is_tensor_spec() and not schema.has_input_names():
        whole = tensor_of(draw, schema.inputs[0].type, schema.inputs[0].shape)
        if field in ("instances", "inputs"):
            return whole
        if field == "dataframe_split":
            return {"data": whole}
    names, rows = rows_of(draw, signature)
    records = [dict(zip(names, row, strict=True)) for row in rows]
    if field == "dataframe_split":
        return split_of(draw, names, rows)
    if field == "inputs":
        columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
        return draw.choice([columns, columns, columns, records, rows])
    if draw.random() < 0.05 and records and records[-1]:
        records[-1].popitem()
    return records if field == "dataframe_records" else draw.choice([records, records, rows])


def split_of(draw: Draw, names: list[str], rows: list[list[Any]]) -> Any:
    found: dict[str, Any] = {"columns": names, "data": rows}
    if draw.random() < 0.4:
        indexes = [list(range(len(rows))), [f"r{n}" for n in range(len(rows))], [0], [1.5, None]]
        found["index"] = draw.choice([*indexes, indexes[0], None, [2**63] * len(rows)])
    if draw.random() < 0.04:
        found["columns"] = draw.choice([names[:-1], [*names, "x"], None, ["a", "a"], [1, 2], "ab"])
    if draw.random() < 0.03:
        found[draw.choice(["index", "data", "columns", "more"])] = draw.choice(ODD)
    if draw.random() < 0.03:
        found.pop(draw.choice(list(found)))
    return found


def params_of(draw: Draw) -> Any:
    if draw.random() < 0.15:
        return draw.choice(ODD)
    names = draw.sample(["whole", "part", "text", "many", "unknown"], draw.randint(0, 3))
    good: dict[str, Any] = {"whole": 5, "part": 0.25, "text": "y", "many": [1.0, 2.0], "unknown": 1}
    odd = [*ODD, *NUMBERS]
    return {name: draw.choice(odd) if draw.random() < 0.1 else good[name] for name in names}


def _another_field(body: dict[str, Any]) -> Any:
    return {**body, "instances": [1], "inputs": [1]}


MANGLERS: list[Callable[[dict[str, Any]], Any]] = [
    _another_field,
    lambda body: [body],
    lambda body: {"params": {}},
    lambda body: {},
    lambda body: "text",
    lambda body: None,
    lambda body: 3,
    lambda body: {**body, "signature_name": "x"},
    lambda body: {**body, "more": 1},
    lambda body: {"messages": [{"role": "user", "content": "hi"}], "whole": 5, **body},
    lambda body: {"prompt": "hi", "text": "z"},
    lambda body: {"input": ["hi"], "params": {"whole": 1}},
    lambda body: {next(iter(body)): "text"},
    lambda body: {next(iter(body)): 5},
    lambda body: {next(iter(body)): None},
    lambda body: {next(iter(body)): {}},
    lambda body: {next(iter(body)): []},
]


def csv_body(draw: Draw, signature: ModelSignature | None) -> bytes:
    names, rows = rows_of(draw, signature)
    frame = pd.DataFrame(rows, columns=names, dtype=object)
    with_index = draw.random() < 0.2
    # Before Python 3.11 the writer takes a zero for its escape character, which it has not.
    text = frame.to_csv(index=with_index, escapechar=None if sys.version_info >= (3, 11) else "\1")
    if draw.random() < 0.05:
        text = draw.choice(["", "\n", "a,b\n1,2,3\n4", '"', text + ",,,,\n1,1,1,1,1,1\n", text * 2])
    return text.encode()


def parquet_body(draw: Draw, signature: ModelSignature | None) -> bytes:
    names, rows = rows_of(draw, signature)
    try:
        frame = pd.DataFrame(rows, columns=names).infer_objects()
        if draw.random() < 0.3 and len(frame) and names:
            frame = frame.set_index(names[0])
        if draw.random() < 0.2:
            frame.columns.name = "named"
        return bytes(frame.to_parquet())
    except (ValueError, TypeError, KeyError, OverflowError, pyarrow.ArrowException):
        return b"PAR1 not"


JSON_TYPES = ["application/json"] * 8 + [
    "application/json; charset=utf-8",
    "application/json;charset=UTF-8",
]
ODD_TYPES: list[str | None] = [
    *("application/json; charset=latin-1", "application/json; format=pandas-split", "text/plain"),
    *("application/json;", "Application/JSON", "application/vnd.api+json", "", ";", None),
    *("application/json; charset=utf-8; a=b", "text/csv; charset=utf-16", "application/parquet"),
    *('application/json; charset="utf-8"', "application/json; Charset=utf-8", " text/csv "),
]


def request_of(draw: Draw, signature: ModelSignature | None) -> tuple[bytes, str | None]:
    form = draw.choices(["json", "csv", "parquet"], [8, 2, 1])[0]
    if form == "csv":
        body, content_type = (
            csv_body(draw, signature),
            draw.choice(["text/csv", "text/csv; charset=utf-8"]),
        )
    elif form == "parquet":
        body, content_type = parquet_body(draw, signature), "application/vnd.apache.parquet"
    else:
        body, content_type = (
            json.dumps(json_body(draw, signature)).encode(),
            draw.choice(JSON_TYPES),
        )
    if draw.random() < 0.02:
        return body, draw.choice(ODD_TYPES)
    if draw.random() < 0.02:
        body = draw.choice(
            [body[:-1], b"", b"\xff" + body, body + b"}", body.replace(b"1", b"\xff")]
        )
    return body, content_type
