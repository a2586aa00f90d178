from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array, Object, Property

from pyfuncserver.model.description import Description, TensorMetadata


def inputs(*specs: Any) -> list[tuple[str, str, tuple[int, ...]]]:
    found = Description(signature=ModelSignature(inputs=Schema(list(specs)))).inputs
    return [(tensor.name, tensor.datatype, tensor.shape) for tensor in found]


def test_columns() -> None:
    kinds = {
        DataType.boolean: "BOOL",
        DataType.integer: "INT32",
        DataType.long: "INT64",
        DataType.float: "FP32",
        DataType.double: "FP64",
        DataType.string: "BYTES",
        DataType.binary: "BYTES",
        DataType.datetime: "BYTES",
    }
    found = inputs(*[ColSpec(kind, kind.name) for kind in kinds])
    assert found == [(kind.name, datatype, (-1,)) for kind, datatype in kinds.items()]


def test_columns_of_lists_and_objects() -> None:
    nested = Array(Array(DataType.double))
    thing = Object([Property("a", DataType.string)])
    assert inputs(ColSpec(nested, "n"), ColSpec(thing, "o")) == [
        ("n", "FP64", (-1, -1, -1)),
        ("o", "BYTES", (-1,)),
    ]


def test_tensors() -> None:
    kinds = {"bool": "BOOL", "uint8": "UINT8", "int64": "INT64", "float16": "FP16"}
    kinds |= {"float64": "FP64", "str": "BYTES", "bytes": "BYTES", "object": "BYTES"}
    specs = [TensorSpec(np.dtype(kind), (-1, 3), kind) for kind in kinds]
    assert inputs(*specs) == [(kind, datatype, (-1, 3)) for kind, datatype in kinds.items()]


def test_what_has_no_name() -> None:
    assert inputs(TensorSpec(np.dtype("int8"), (2,))) == [("input-0", "INT8", (2,))]
    columns = ColSpec(DataType.long), ColSpec(DataType.long)
    assert [name for name, *_ in inputs(*columns)] == ["input-0", "input-1"]
    signature = ModelSignature(Schema([columns[0]]), Schema([columns[0]]))
    assert Description(signature=signature).outputs == [TensorMetadata("output-0", "INT64", (-1,))]


@pytest.mark.parametrize("signature", [None, SimpleNamespace(inputs=None, outputs=None)])
def test_no_signature(signature: Any) -> None:
    described = Description(signature=signature)
    assert (described.inputs, described.outputs) == ([], [])


@pytest.mark.parametrize(
    ("module", "platform"),
    [
        ("mlflow.sklearn", "mlflow_sklearn"),
        ("mlflow.pyfunc.model", "mlflow_pyfunc"),
        ("somebody.elses", "mlflow_pyfunc"),
        ("", "mlflow_pyfunc"),
    ],
)
def test_platform(module: str, platform: str) -> None:
    assert Description(module).platform == platform
