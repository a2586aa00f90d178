"""What a model says of itself: its signature, its example, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyfuncserver.codec.tensors import BYTES
from pyfuncserver.model.call import Form


@dataclass(frozen=True)
class TensorMetadata:
    """An input or an output, as the Open Inference Protocol tells of it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """With -1 for a size that is free."""


@dataclass(frozen=True)
class Description:
    """What is known of a model when it has been loaded."""

    loader_module: str = ""
    """The module of the flavour that has loaded it: ``mlflow.sklearn``."""
    signature: Any = None
    """Its ``mlflow.models.ModelSignature``, or None."""
    example: Any = None
    """Its input example, as MLflow hands it to the model, or None."""
    forms: frozenset[Form] = frozenset()
    """The forms of calls that it answers."""
    is_plain: bool = True
    """Whether MLflow's conversion and signature stand before it; not so for Merlin's and legacy."""

    @property
    def platform(self) -> str:
        """Name the framework as the Open Inference Protocol wants it, ``<project>_<format>``."""
        package, _, kind = self.loader_module.rpartition(".")
        if package == _KINDS:
            return _PLATFORMS.get(kind, kind)
        project, _, rest = self.loader_module.partition(".")
        flavour = rest.partition(".")[0]
        return f"mlflow_{flavour}" if project == "mlflow" and flavour else "mlflow_pyfunc"

    @property
    def inputs(self) -> list[TensorMetadata]:
        """List the tensors that the signature takes; none where it does not say."""
        return _tensors(getattr(self.signature, "inputs", None), "input")

    @property
    def outputs(self) -> list[TensorMetadata]:
        """List the tensors that the signature gives; none where it does not say."""
        return _tensors(getattr(self.signature, "outputs", None), "output")


NOTHING_KNOWN = Description()


def _tensors(schema: Any, kind: str) -> list[TensorMetadata]:
    """List the tensors of a schema; what has no name is called as MLServer calls it, ``input-0``.

    A column is of shape [-1], as an answer of one dimension is sent, and as KServe's SDK does.
    """
    specs = schema.inputs if schema is not None else ()
    return [
        TensorMetadata(
            f"{kind}-{place}" if spec.name is None else str(spec.name), *_datatype_and_shape(spec)
        )
        for place, spec in enumerate(specs)
    ]


def _datatype_and_shape(spec: Any) -> tuple[str, tuple[int, ...]]:
    shape = getattr(spec, "shape", None)
    if shape is not None:
        return _NUMPY_TYPES.get(spec.type.name, BYTES), tuple(int(size) for size in shape)
    kind, shape = spec.type, (-1,)
    while hasattr(kind, "dtype"):  # MLflow's Array: a cell is a list
        kind, shape = kind.dtype, (*shape, -1)
    return _COLUMN_TYPES.get(getattr(kind, "name", ""), BYTES), shape


_KINDS = f"{__package__}.kinds"
_PLATFORMS = {
    "sklearn": "sklearn_estimator",
    "xgboost": "xgboost_booster",
    "lightgbm": "lightgbm_booster",
    "onnx": "onnx_onnxv1",
    "huggingface": "huggingface_pretrained",
}
"""By the kind of the model; the protocol itself lists but ``onnx_onnxv1`` of these."""
_COLUMN_TYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
}
"""By MLflow's name; strings, binaries, dates and objects are BYTES."""
_NUMPY_TYPES = {
    "bool": "BOOL",
    **{
        f"{kind}{bits}": f"{kind.upper()}{bits}"
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
