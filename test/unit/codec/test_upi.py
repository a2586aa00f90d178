from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from google.protobuf import descriptor_pb2

from pyfuncserver.codec import messages, upi

STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
DOUBLE = descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE
INT64 = descriptor_pb2.FieldDescriptorProto.TYPE_INT64
UINT32 = descriptor_pb2.FieldDescriptorProto.TYPE_UINT32
BOOL = descriptor_pb2.FieldDescriptorProto.TYPE_BOOL
TIMESTAMP, STRUCT = ".google.protobuf.Timestamp", ".google.protobuf.Struct"

# CONTRACTS, section 4: fields in the order of their declaration. A list means repeated.
MESSAGES: dict[str, list[tuple[str, int, Any]]] = {
    "PredictValuesRequest": [
        ("prediction_table", 1, "Table"),
        ("transformer_input", 4, "TransformerInput"),
        ("target_name", 2, STRING),
        ("prediction_context", 3, ["Variable"]),
        ("metadata", 10, "RequestMetadata"),
    ],
    "RequestMetadata": [("prediction_id", 1, STRING), ("request_timestamp", 2, TIMESTAMP)],
    "PredictValuesResponse": [
        ("prediction_result_table", 1, "Table"),
        ("target_name", 2, STRING),
        ("prediction_context", 3, ["Variable"]),
        ("metadata", 10, "ResponseMetadata"),
    ],
    "ResponseMetadata": [
        ("prediction_id", 1, STRING),
        ("models", 2, ["ModelMetadata"]),
        ("experiment_name", 3, STRING),
        ("treatment_name", 4, STRING),
    ],
    "ModelMetadata": [("name", 1, STRING), ("version", 2, STRING)],
    "TransformerInput": [("tables", 1, ["Table"]), ("variables", 2, ["Variable"])],
    "Table": [("name", 1, STRING), ("columns", 2, ["Column"]), ("rows", 3, ["Row"])],
    "Column": [("name", 1, STRING), ("type", 2, "Type")],
    "Row": [("row_id", 1, STRING), ("values", 2, ["Value"])],
    "Value": [
        ("double_value", 1, DOUBLE),
        ("integer_value", 2, INT64),
        ("string_value", 3, STRING),
        ("is_null", 10, BOOL),
    ],
    "Variable": [
        ("name", 1, STRING),
        ("type", 2, "Type"),
        ("double_value", 3, DOUBLE),
        ("integer_value", 4, INT64),
        ("string_value", 5, STRING),
    ],
    "PredictionLog": [
        ("prediction_id", 1, STRING),
        ("target_name", 2, STRING),
        ("project_name", 3, STRING),
        ("model_name", 4, STRING),
        ("model_version", 5, STRING),
        ("input", 10, "ModelInput"),
        ("output", 11, "ModelOutput"),
        ("request_timestamp", 20, TIMESTAMP),
        # CONTRACTS says int32, but the public package, which is what clients have, says uint32.
        ("table_schema_version", 100, UINT32),
    ],
    "ModelInput": [
        ("features_table", 1, None),
        ("entities_table", 2, None),
        ("raw_features", 3, STRUCT),
        ("prediction_context", 4, ["Variable"]),
        ("headers", 10, ["Header"]),
    ],
    "ModelOutput": [
        ("prediction_results_table", 1, STRUCT),
        ("prediction_context", 2, ["Variable"]),
        ("headers", 10, ["Header"]),
        ("status", 11, UINT32),
        ("message", 12, STRING),
    ],
    "Header": [("key", 1, STRING), ("value", 2, STRING)],
}
TYPES = {"TYPE_UNSPECIFIED": 0, "TYPE_DOUBLE": 1, "TYPE_INTEGER": 2, "TYPE_STRING": 3}


def our_files() -> list[descriptor_pb2.FileDescriptorProto]:
    return [file for file in upi.file_set().file if file.package == "caraml.upi.v1"]


# The messages


def test_files_are_the_contracts() -> None:
    names = ["upi", "table", "type", "variable", "header", "prediction_log"]
    assert sorted(file.name for file in our_files()) == sorted(
        f"caraml/upi/v1/{name}.proto" for name in names
    )


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_of_a_message(name: str) -> None:
    found = {message.name: message for file in our_files() for message in file.message_type}
    fields = [(field.name, field.number) for field in found[name].field]
    assert sorted(fields) == sorted((field, number) for field, number, _ in MESSAGES[name])
    types = {field.name: field for field in found[name].field}
    for field, _, kind in MESSAGES[name]:
        described = types[field]
        repeated = described.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
        assert repeated == isinstance(kind, list)
        kind = kind[0] if isinstance(kind, list) else kind  # noqa: PLW2901  what is repeated
        if isinstance(kind, int):
            assert described.type == kind
        elif kind is not None:
            expected = kind if kind.startswith(".") else f".caraml.upi.v1.{kind}"
            assert described.type_name == expected


def test_request_declares_its_fields_in_the_contracts_order() -> None:
    found = {message.name: message for file in our_files() for message in file.message_type}
    declared = [field.name for field in found["PredictValuesRequest"].field]
    assert declared == [field for field, *_ in MESSAGES["PredictValuesRequest"]]


def test_no_message_beyond_the_contracts() -> None:
    found = {message.name for file in our_files() for message in file.message_type}
    assert found == set(MESSAGES)


def test_types_are_numbered() -> None:
    enums = {enum.name: enum for file in our_files() for enum in file.enum_type}
    assert {value.name: value.number for value in enums["Type"].value} == TYPES
    assert (upi.DOUBLE, upi.INTEGER, upi.STRING) == (1, 2, 3)


def test_service() -> None:
    service = messages.pool_of(upi.file_set()).FindServiceByName(upi.SERVICE)
    method = service.methods_by_name[upi.METHOD]
    assert method.input_type.full_name == "caraml.upi.v1.PredictValuesRequest"
    assert method.output_type.full_name == "caraml.upi.v1.PredictValuesResponse"


def test_fields_are_on_the_wire_where_the_contract_puts_them() -> None:
    value = upi.messages().Value(integer_value=5, is_null=True)
    assert value.SerializeToString() == b"\x10\x05\x50\x01"


CONFLICTING = """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    import pyfuncserver.codec.upi as upi

    def use_ours():
        table = upi.messages().Table(name="ours")
        assert table.SerializeToString() == b"\\n\\x04ours"

    def add_theirs():
        file = descriptor_pb2.FileDescriptorProto(
            name="caraml/upi/v1/table.proto", package="caraml.upi.v1", syntax="proto3"
        )
        message = file.message_type.add(name="Table")
        message.field.add(name="other", number=7, type=9, label=1)
        pool = descriptor_pool.Default()
        pool.Add(file)
        found = pool.FindMessageTypeByName("caraml.upi.v1.Table")
        assert [field.name for field in found.fields] == ["other"]
        message_factory.GetMessageClass(found)(other="x")

    {first}()
    {second}()
    use_ours()
    upi.parse_request(b"")
"""


@pytest.mark.parametrize(
    ("first", "second"), [("use_ours", "add_theirs"), ("add_theirs", "use_ours")]
)
def test_our_copy_does_not_meet_the_default_pool(
    run_script: Callable[..., str], first: str, second: str
) -> None:
    run_script(CONFLICTING.replace("{first}", first).replace("{second}", second))


def test_default_pool_knows_nothing_of_ours(run_script: Callable[..., str]) -> None:
    run_script("""
        from google.protobuf import descriptor_pool
        from pyfuncserver.codec import upi
        upi.messages()
        try:
            descriptor_pool.Default().FindFileByName("caraml/upi/v1/table.proto")
        except KeyError:
            raise SystemExit(0)
        raise SystemExit("it is there")
    """)


def test_public_package_is_used_where_it_is(run_script: Callable[..., str], tmp_path: Any) -> None:
    package = tmp_path / "caraml" / "upi" / "v1"
    package.mkdir(parents=True)
    for name in upi.MODULES:
        source = "from google.protobuf.empty_pb2 import Empty as PredictValuesRequest\n"
        (package / f"{name}_pb2.py").write_text(source, encoding="utf-8")
    run_script(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from pyfuncserver.codec import upi
        from google.protobuf.empty_pb2 import Empty
        assert upi.messages().PredictValuesRequest is Empty
        assert upi.messages() is upi.messages()
    """)


def test_broken_public_package_is_left_alone(run_script: Callable[..., str], tmp_path: Any) -> None:
    package = tmp_path / "caraml" / "upi" / "v1"
    package.mkdir(parents=True)
    for name in upi.MODULES:
        (package / f"{name}_pb2.py").write_text("raise TypeError('old')", encoding="utf-8")
    run_script(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from pyfuncserver.codec import upi
        assert upi.messages().Table(name="x").name == "x"
    """)


def test_bytes_that_are_no_request() -> None:
    with pytest.raises(ValueError, match="not a PredictValuesRequest"):
        upi.parse_request(b"\xff\xff")


def test_response_of_another_copy_is_a_response() -> None:
    messages = upi.messages()
    assert upi.is_response(messages.PredictValuesResponse())
    assert not upi.is_response(messages.PredictValuesRequest())
    assert not upi.is_response({"predictions": []})
    assert not upi.is_response(None)


# Table to frame


def value(given: object) -> Any:
    field = {float: "double_value", int: "integer_value", str: "string_value"}
    given_or_null = {"is_null": True} if given is None else {field[type(given)]: given}
    return upi.messages().Value(**given_or_null)


def table(
    columns: Sequence[tuple[str, int]], rows: Sequence[Sequence[object]], ids: Sequence[str] = ()
) -> Any:
    made = upi.messages().Table(name="t")
    for name, kind in columns:
        made.columns.add(name=name, type=kind)
    for number, row in enumerate(rows):
        row_id = ids[number] if ids else ""
        made.rows.add(row_id=row_id, values=[value(cell) for cell in row])
    return made


COLUMNS = [("d", upi.DOUBLE), ("i", upi.INTEGER), ("s", upi.STRING)]


def test_table_as_a_frame() -> None:
    frame = upi.frame_of(table(COLUMNS, [[1.5, 2, "x"], [0.0, -(2**63), ""]]))
    assert frame.dtypes.astype(str).to_dict() == {"d": "float64", "i": "int64", "s": "object"}
    assert frame.to_dict("list") == {"d": [1.5, 0.0], "i": [2, -(2**63)], "s": ["x", ""]}
    assert list(frame.index) == [0, 1]


def test_nulls() -> None:
    frame = upi.frame_of(table(COLUMNS, [[None, None, None], [1.0, 2**63 - 1, "x"]]))
    assert frame.dtypes.astype(str).to_dict() == {"d": "float64", "i": "Int64", "s": "object"}
    assert math.isnan(frame["d"][0])
    assert frame["i"][0] is pd.NA
    assert frame["s"][0] is None
    assert frame["i"][1] == 2**63 - 1, "not rounded on its way through a float"


def test_row_ids_are_the_index() -> None:
    frame = upi.frame_of(table([("d", 1)], [[1.0], [2.0]], ids=["b", "a"]))
    assert list(frame.index) == ["b", "a"]
    assert frame["d"].tolist() == [1.0, 2.0]


def test_columns_of_one_name_are_all_there() -> None:
    frame = upi.frame_of(table([("x", 1), ("x", 3)], [[1.0, "a"]]))
    assert list(frame.columns) == ["x", "x"]
    assert frame.iloc[0].tolist() == [1.0, "a"]


@pytest.mark.parametrize("width", [0, 1, 2, 4])
def test_row_of_another_width(width: int) -> None:
    rows = [[1.5, 2, "x"], [1.0] * width]
    with pytest.raises(ValueError, match=f"row 1 has {width} values for 3 columns"):
        upi.frame_of(table(COLUMNS, rows))


def test_column_without_a_type_is_named() -> None:
    with pytest.raises(ValueError, match="'who'"):
        upi.frame_of(table([("who", 0)], [[1.0]]))


def test_empty_tables() -> None:
    assert upi.frame_of(table([], [])).shape == (0, 0)
    assert upi.frame_of(table([], [[], []])).shape == (2, 0)
    frame = upi.frame_of(table(COLUMNS, []))
    assert frame.shape == (0, 3)
    assert frame.dtypes.astype(str).to_dict() == {"d": "float64", "i": "int64", "s": "object"}


# Answer to response

TYPE_NAMES = {1: "double", 2: "integer", 3: "string"}
FIELDS = {1: "double_value", 2: "integer_value", 3: "string_value"}


def request(ids: Sequence[str] = ()) -> Any:
    made = upi.messages().PredictValuesRequest(target_name="target")
    made.metadata.prediction_id = "p-1"
    made.prediction_table.CopyFrom(table([("d", 1)], [[1.0]] * len(ids), ids))
    return made


def columns_of(response: Any) -> dict[str, str]:
    return {column.name: TYPE_NAMES[column.type] for column in _table(response).columns}


def rows_of(response: Any) -> list[list[object]]:
    kinds = [FIELDS[column.type] for column in _table(response).columns]
    return [
        [
            None if cell.is_null else getattr(cell, kind)
            for cell, kind in zip(row.values, kinds, strict=True)
        ]
        for row in _table(response).rows
    ]


def _table(response: Any) -> Any:
    return response.prediction_result_table


DAY = datetime.date(2024, 2, 29)
FRAME = pd.DataFrame({"d": [0.5, math.nan], "i": [1, 2], "s": ["x", None], "b": [True, False]})

ANSWERS: dict[str, tuple[Any, dict[str, str], list[list[object]]]] = {
    "frame": (
        FRAME,
        {"d": "double", "i": "integer", "s": "string", "b": "integer"},
        [[0.5, 1, "x", 1], [None, 2, None, 0]],
    ),
    "integers with NA": (
        pd.DataFrame({"i": pd.array([1, None], dtype="Int64")}),
        {"i": "integer"},
        [[1], [None]],
    ),
    "numbered columns": (pd.DataFrame([[1.5]]), {"0": "double"}, [[1.5]]),
    "categories": (pd.DataFrame({"c": pd.Categorical(["a"])}), {"c": "string"}, [["a"]]),
    "named series": (pd.Series([1.5], name="y"), {"y": "double"}, [[1.5]]),
    "series": (pd.Series(["a"]), {"output_0": "string"}, [["a"]]),
    "1-d array": (np.array([1, 2]), {"output_0": "integer"}, [[1], [2]]),
    "2-d array": (
        np.array([[0.5, 1.5]]),
        {"output_0": "double", "output_1": "double"},
        [[0.5, 1.5]],
    ),
    "0-d array": (np.array(1.5), {"output_0": "double"}, [[1.5]]),
    "float32": (np.array([0.5], dtype="f4"), {"output_0": "double"}, [[0.5]]),
    "big-endian": (np.array([258], dtype=">i2"), {"output_0": "integer"}, [[258]]),
    "infinity": (np.array([math.inf]), {"output_0": "double"}, [[math.inf]]),
    "list": ([1.5, 2], {"output_0": "double"}, [[1.5], [2.0]]),
    "list with None": ([1, None], {"output_0": "integer"}, [[1], [None]]),
    "list of rows": (
        [[1, 2], [3, 4]],
        {"output_0": "integer", "output_1": "integer"},
        [[1, 2], [3, 4]],
    ),
    "rows of several types": (
        [[1, "a"], [2, "b"]],
        {"output_0": "integer", "output_1": "string"},
        [[1, "a"], [2, "b"]],
    ),
    "dict": (
        {"a": [1, 2], "b": np.array([0.5, 1.5]), "c": ["x", None]},
        {"a": "integer", "b": "double", "c": "string"},
        [[1, 0.5, "x"], [2, 1.5, None]],
    ),
    "bool": (True, {"output_0": "integer"}, [[1]]),
    "bools": ([True, None], {"output_0": "integer"}, [[1], [None]]),
    "string": ("abc", {"output_0": "string"}, [["abc"]]),
    "dates": ([DAY, None], {"output_0": "string"}, [["2024-02-29"], [None]]),
    "datetime64": (
        np.array(["2024-02-29", "NaT"], dtype="M8[s]"),
        {"output_0": "string"},
        [["2024-02-29T00:00:00"], [None]],
    ),
    "bounds": ([2**63 - 1, -(2**63)], {"output_0": "integer"}, [[2**63 - 1], [-(2**63)]]),
    "empty list": ([], {"output_0": "double"}, []),
    "no rows": (
        np.zeros((0, 2)),
        {"output_0": "double", "output_1": "double"},
        [],
    ),
    "frame without rows": (
        pd.DataFrame({"i": pd.Series([], dtype="int64"), "d": pd.Series([], dtype="f8")}),
        {"i": "integer", "d": "double"},
        [],
    ),
    "integers that are all null": (
        pd.DataFrame({"i": pd.array([None], dtype="Int64")}),
        {"i": "integer"},
        [[None]],
    ),
}


@pytest.mark.parametrize(("answer", "columns", "rows"), ANSWERS.values(), ids=ANSWERS)
def test_answer(answer: object, columns: dict[str, str], rows: list[list[object]]) -> None:
    response = upi.response_of(answer, request())
    assert rows_of(response) == rows
    assert columns_of(response) == columns
    assert upi.is_response(response)
    assert upi.messages().PredictValuesResponse.FromString(response.SerializeToString())


def test_columns_of_one_name_are_answered_both() -> None:
    response = upi.response_of(pd.DataFrame([[1, "a"]], columns=["x", "x"]), request())
    assert [column.name for column in _table(response).columns] == ["x", "x"]
    assert rows_of(response) == [[1, "a"]]


def test_response_carries_the_requests_identity() -> None:
    response: Any = upi.response_of([1.0, 2.0], request(ids=["a", "b"]))
    assert response.target_name == "target"
    assert response.metadata.prediction_id == "p-1"
    assert _table(response).name == "t"
    assert [row.row_id for row in _table(response).rows] == ["a", "b"]


def test_rows_of_another_number_than_the_requests_have_ids_of_their_own() -> None:
    response = upi.response_of(pd.Series([1.0], index=["sum"]), request(ids=["a", "b"]))
    assert [row.row_id for row in _table(response).rows] == ["sum"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.zeros((1, 1, 1)), "3 dimensions"),
        ([[1], [1, 2]], "several lengths"),
        ({"a": [1], "b": [1, 2]}, "same length"),
        (np.array([2**63], dtype="u8"), "'output_0' holds an integer beyond 64 bits"),
        ([b"x"], "'output_0' holds a bytes"),
        (np.array([1j]), "complex"),
        ([object()], "'output_0' holds a object"),
    ],
    ids=["3-d", "ragged", "uneven", "uint64", "bytes", "complex", "object"],
)
def test_answer_that_no_table_holds(answer: object, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        upi.response_of(answer, request())


def test_frame_of_an_answer_is_the_answer() -> None:
    frame = upi.frame_of(_table(upi.response_of(FRAME.drop(columns="b"), request(["a", "b"]))))
    assert list(frame.index) == ["a", "b"]
    assert frame["d"].tolist()[0] == 0.5
    assert frame["i"].tolist() == [1, 2]
    assert frame["s"].tolist() == ["x", None]


def test_the_http_mapping_is_annotated() -> None:
    service = messages.pool_of(upi.file_set()).FindServiceByName(upi.SERVICE)
    options = service.methods_by_name[upi.METHOD].GetOptions().SerializeToString()
    assert b"/v1/predict" in options
