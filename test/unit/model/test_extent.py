"""Frames that would be far larger than their requests are refused; others, however odd, are not."""

from __future__ import annotations

import importlib
import io
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model import extent, scoring
from pyfuncserver.model.call import Call, Form, ScoringInput
from pyfuncserver.model.plain import PlainModel

pa: Any = importlib.import_module("pyarrow")
pq: Any = importlib.import_module("pyarrow.parquet")

PLAIN = {"use_dictionary": False, "compression": "zstd", "write_statistics": False}
MANY = 30_000
LABELS = [f"c{number}" for number in range(MANY)]
NUMBERS = list(range(MANY))
ROOM = 2 * 2**30
"""Memory that a case may ask for; most would ask for 20 GB."""

Refused = tuple[str, Callable[[], Call]]


@pytest.fixture(scope="module")
def model(echo_model: Path) -> PlainModel:
    import mlflow.pyfunc

    loaded = mlflow.pyfunc.load_model(str(echo_model))
    loaded.metadata.signature = ModelSignature(Schema([ColSpec(DataType.long, "n")]))
    return PlainModel(loaded)


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def scored(data: Any, key: str = "dataframe_split") -> Call:
    return Call(Form.SCORING, ScoringInput(scoring.JSON, {key: data}))


def csv(text: str) -> Call:
    return Call(Form.SCORING, ScoringInput(scoring.CSV, text.encode()))


def parquet(columns: dict[str, Any], **options: Any) -> Call:
    """Write a table without Arrow's own schema, which would have texts read as categories."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, store_schema=False, **options)
    return Call(Form.SCORING, ScoringInput(scoring.PARQUET, file.getvalue()))


def repeated(value: Any, count: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, "i4")), [value])


def nested(value: Any, count: int) -> Any:
    return pa.ListArray.from_arrays(pa.array([0, count], "i4"), repeated(value, count))


LARGE: list[Refused] = [
    ("labels", lambda: scored({"data": [], "columns": LABELS, "index": NUMBERS})),
    ("a text", lambda: scored({"data": "a", "columns": LABELS, "index": NUMBERS})),
    ("a null", lambda: scored({"data": None, "columns": LABELS, "index": NUMBERS})),
    ("levels", lambda: scored({"data": "a", "columns": [LABELS], "index": [NUMBERS]})),
    ("columns", lambda: scored({"data": dict.fromkeys(LABELS, 1), "index": NUMBERS})),
    ("cells", lambda: scored({"data": {name: {name: 1} for name in LABELS}})),
    ("rows", lambda: scored({"data": [{}] * MANY, "columns": LABELS})),
    ("a long row", lambda: scored({"data": [[1]] * MANY + [NUMBERS]})),
    ("records", lambda: scored([{name: 1} for name in LABELS], "dataframe_records")),
    (
        "one value for all rows",
        lambda: Call(Form.JSON, {"inputs": {"n": NUMBERS, **dict.fromkeys(LABELS, 1)}}),
    ),
    ("a header", lambda: csv("," * MANY + "\n" + "1\n" * MANY)),
    ("a header in two lines", lambda: csv('"\n' + '",' + "," * MANY + "\n" + "1\n" * MANY)),
    ("lines of a Macintosh", lambda: csv("," * MANY + "\r" + "1\r" * MANY)),
]


@pytest.mark.parametrize("call", [case[1] for case in LARGE], ids=[case[0] for case in LARGE])
def test_a_frame_that_was_hardly_sent_is_refused(
    model: PlainModel, call: Callable[[], Call]
) -> None:
    with pytest.raises(InvalidInput, match="is too large for what the request holds"):
        model.prepare(call())


WIDE: list[Refused] = [
    ("a split row", lambda: scored({"data": [list(range(extent.MOST_COLUMNS + 1))]})),
    ("CSV", lambda: csv("," * extent.MOST_CSV_COLUMNS + "\n1\n")),
]


@pytest.mark.parametrize("call", [case[1] for case in WIDE], ids=[case[0] for case in WIDE])
def test_a_frame_of_too_many_columns_is_refused(
    model: PlainModel, call: Callable[[], Call]
) -> None:
    with pytest.raises(InvalidInput, match=r"columns is too wide: there may be (262144|32768)$"):
        model.prepare(call())


def test_columns_of_one_name_are_not_renamed_for_minutes(model: PlainModel) -> None:
    with pytest.raises(InvalidInput, match="100000 columns of one name: there may be 1000"):
        model.prepare(csv(",".join(["n"] * 100_000) + "\n1\n"))


PACKED: list[Refused] = [
    ("zeros", lambda: parquet({"n": np.zeros(60_000_000, "i1")})),
    ("nulls", lambda: parquet({"n": pa.nulls(40_000_000, pa.int8())})),
    ("a text", lambda: parquet({"n": repeated("x" * 10_000, 1_000_000)})),
    ("bytes", lambda: parquet({"n": repeated(b"x" * 10_000, 1_000_000)})),
    ("texts in a list", lambda: parquet({"n": nested("x" * 10_000, 1_000_000)})),
    ("a page", lambda: parquet({"n": pa.repeat("x" * 1_000_000, 280)}, **PLAIN)),
]


@pytest.mark.parametrize("call", [case[1] for case in PACKED], ids=[case[0] for case in PACKED])
def test_a_small_parquet_file_is_not_unpacked_to_gigabytes(
    model: PlainModel, call: Callable[[], Call]
) -> None:
    request = call()
    assert len(request.payload.data) < 2_000_000
    with pytest.raises(InvalidInput, match="The Parquet file is too large: it unpacks to"):
        model.prepare(request)


FINE: list[Refused] = [
    ("records with a column each", lambda: scored(_sparse(1000), "dataframe_records")),
    ("a wide row", lambda: scored({"data": [[1, *NUMBERS]], "columns": ["n", *LABELS]})),
    ("an index", lambda: scored({"data": [[1]] * MANY, "columns": ["n"], "index": NUMBERS})),
    ("a value in all rows", lambda: scored({"data": 1, "columns": ["n"], "index": NUMBERS})),
    ("CSV with an index", lambda: csv("n\n" + "7,1\n" * MANY)),
    ("CSV with long texts", lambda: csv("n,t\n" + ('1,"' + ",\n" * 50 + '"\n') * 20_000)),
    ("CSV of one row", lambda: csv(",".join(["n", *LABELS[:5000]]) + "\n1" + ",1" * 5000)),
    ("Parquet", lambda: parquet({"n": NUMBERS, "t": repeated("x" * 1000, MANY)})),
]


def _sparse(count: int) -> list[dict[str, int]]:
    return [{"n": 1, f"c{number}": 1} for number in range(count)]


@pytest.mark.parametrize("call", [case[1] for case in FINE], ids=[case[0] for case in FINE])
def test_what_is_only_large_is_taken(model: PlainModel, call: Callable[[], Call]) -> None:
    assert len(model.prepare(call()).data) >= 1


def test_what_is_no_parquet_file_is_refused_as_such(model: PlainModel) -> None:
    with pytest.raises(InvalidInput, match="valid Parquet-formatted"):
        model.prepare(Call(Form.SCORING, ScoringInput(scoring.PARQUET, b"PAR1" * 100)))
