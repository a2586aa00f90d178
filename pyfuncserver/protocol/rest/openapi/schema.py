"""JSON Schema of MLflow's types, from what their ``to_dict`` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_SCALARS: Mapping[str, Schema] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    "long": {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1},
    "float": {"type": "number", "format": "float", "minimum": -3.4e38, "maximum": 3.4e38},
    "double": {"type": "number", "format": "double"},
    "string": {"type": "string"},
    "binary": {"type": "string", "contentEncoding": "base64", "pattern": _BASE64},
    "datetime": {"type": "string", "description": "ISO 8601, without a time zone"},
}
_SAMPLES: Mapping[str, Any] = {
    "boolean": True,
    "integer": 1,
    "long": 1,
    "float": 0.5,
    "double": 0.5,
    "string": "text",
    "binary": "AAEC",
    "datetime": "2024-02-29T12:30:15",
    "any": None,
}


def of_type(found: Mapping[str, Any]) -> Schema:
    """Give the schema of one value: of a column's cell, or of a part of it."""
    kind = found.get("type")
    if kind == "array":
        return {"type": "array", "items": of_type(found["items"])}
    if kind == "map":
        return {"type": "object", "additionalProperties": of_type(found["values"])}
    if kind in ("object", "spark_vector") and "properties" in found:
        return record({name: (of_type(it), is_required(it)) for name, it in _members(found)})
    return dict(_SCALARS.get(str(kind), {}))


def of_answer(found: Mapping[str, Any]) -> Schema:
    """Give the schema of a value that a model has answered; V1 has an object for bytes."""
    schema = of_type(found)
    if found.get("type") != "binary":
        return schema
    return {"anyOf": [schema, record({"b64": (schema, True)})]}


def sample_of(found: Mapping[str, Any]) -> Any:
    """Give a value of a type, where the model brings no example of its own."""
    kind = found.get("type")
    if kind == "array":
        return [sample_of(found["items"])]
    if kind == "map":
        return {"key": sample_of(found["values"])}
    if kind == "object" and "properties" in found:
        return {name: sample_of(it) for name, it in _members(found)}
    return _SAMPLES.get(str(kind))


def record(fields: Mapping[str, tuple[Schema, bool]]) -> Schema:
    """Give the schema of an object, from the schema of each member and whether it is required."""
    schema: Schema = {
        "type": "object",
        "properties": {name: it if must else or_null(it) for name, (it, must) in fields.items()},
    }
    required = [name for name, (_, must) in fields.items() if must]
    return {**schema, "required": required} if required else schema


def whole(members: Mapping[str, Schema]) -> Schema:
    """Give the schema of an object that has all of these members."""
    return {"type": "object", "properties": dict(members), "required": list(members)}


def or_null(schema: Schema) -> Schema:
    """Let it be null as well."""
    if not schema:
        return schema
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def array(items: Schema, length: int = -1) -> Schema:
    """Give the schema of a list, of any length where that is -1."""
    schema: Schema = {"type": "array", "items": items}
    return schema if length < 0 else {**schema, "minItems": length, "maxItems": length}


def tensor(dtype: str, shape: Sequence[int], is_answer: bool = False) -> Schema:
    """Give the schema of nested lists of that shape; -1 is a free dimension.

    In an answer any number may be null, for JSON has no ``NaN``.
    """
    item = _of_dtype(dtype)
    schema = or_null(item) if is_answer else item
    for length in reversed(shape):
        schema = array(schema, length)
    return schema


def zeros(dtype: str, shape: Sequence[int]) -> Any:
    """Give nested lists of that shape, with one for each free dimension."""
    value: Any = {"string": "text", "boolean": False}.get(str(_of_dtype(dtype).get("type")), 0)
    for length in reversed(shape):
        value = [value] * (1 if length < 0 else length)
    return value


def _of_dtype(dtype: str) -> Schema:
    if dtype.startswith("float"):
        return {"type": "number"}
    if dtype.startswith(("int", "uint")):
        bits = int(dtype.removeprefix("u").removeprefix("int"))
        low, high = (0, 2**bits) if dtype[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        return {"type": "integer", "minimum": low, "maximum": high - 1}
    if dtype == "bool":
        return {"type": "boolean"}
    return {"type": "string"} if dtype.startswith(("str", "object", "bytes")) else {}


def _members(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(found["properties"].items())


def is_required(found: Mapping[str, Any]) -> bool:
    """Tell whether a value must be there; MLflow 1 had ``optional`` for the opposite."""
    return bool(found.get("required", not found.get("optional", False)))
