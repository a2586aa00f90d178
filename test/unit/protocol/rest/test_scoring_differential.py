"""Whatever is asked of ``/invocations``, MLflow's own scoring server gives the same answer.

Requests are drawn with a fixed seed; ``PYFUNCSERVER_DIFF=N`` draws N of them. What may differ is
in ``scoring_oracle.difference``, and nowhere else.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pydantic
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from scoring_oracle import NOTHING, Pair, check
from scoring_requests import ODD_TYPES, request_of, signature_of

REQUESTS = int(os.environ.get("PYFUNCSERVER_DIFF", "2500"))
REQUESTS_PER_MODEL = 40
SEED = int(os.environ.get("PYFUNCSERVER_DIFF_SEED", "20240229"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    log = logging.getLogger("mlflow")
    level = log.level
    log.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    log.setLevel(level)


Load = Callable[[ModelSignature | None], Any]


@pytest.fixture(scope="module")
def load(save_model: Callable[..., Path]) -> Load:
    """Give `load(signature)`: the recorder with a signature as MLflow loads it."""

    def save(models: Any, path: Path) -> Path:
        import scoring_oracle

        return Path(models.save(scoring_oracle.Recorder(), path))

    path = str(save_model("recorder", save))

    def loaded(signature: ModelSignature | None) -> Any:
        model = mlflow.pyfunc.load_model(path)
        if signature is not None:
            model.metadata.signature = ModelSignature.from_dict(signature.to_dict())
        return model

    return loaded


MODELS = max(1, REQUESTS // REQUESTS_PER_MODEL)
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_is_asked(load: Load, part: int) -> None:
    statuses: Counter[int] = Counter()
    short = 0
    for number in range(part, MODELS, PARTS):
        draw = random.Random(SEED + number)
        signature = signature_of(draw)
        with Pair(load(signature)) as pair:
            for _ in range(REQUESTS_PER_MODEL):
                statuses[check(pair, *request_of(draw, signature)).status] += 1
            short += pair.shortcuts
    assert statuses[200] > statuses.total() / 3, "many of the requests are good"
    assert statuses[400] > statuses.total() / 20, "some are not"
    assert short > statuses.total() / 10, "many take the shortcut"
    assert statuses.keys() <= {200, 400, 415}


JSON = "application/json"
DATA = b'{"inputs": [%b]}'
TEXTS_OF_JSON = [
    *(DATA % number for number in (b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-0", b"-0.0")),
    *(DATA % number for number in (b"2.0", b"1E5", b"18446744073709551616", b"1" * 30, b"1" * 19)),
    *(DATA % number for number in (b"-9223372036854775809", b"9223372036854775808", b"01", b"+1")),
    *(DATA % text for text in (b'"\\ud800"', b'"\xff"', b'"a\nb"', b'"\\u0000"', b"'a'", b"true")),
    DATA % (b"[" * 500 + b"]" * 500),
    b"[" * 100_000,
    b'{"inputs": [1], "inputs": [2]}',
    b'{"inputs": [1]} {}',
    b"\xef\xbb\xbf" + DATA % b"1",
    *(
        (DATA % b'"x"').decode().encode(name)
        for name in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig")
    ),
    *(
        b"",
        b" ",
        b"null",
        b"NaN",
        b"[]",
        b"{}",
        b'"x"',
        b"\0",
        b"{'inputs': [1]}",
        b'{"inputs": [1],}',
    ),
]


@pytest.mark.parametrize("body", TEXTS_OF_JSON, ids=lambda body: repr(body[:40]))
def test_what_json_may_be(load: Load, body: bytes) -> None:
    with Pair(load(None)) as pair:
        check(pair, body, JSON)


ODD_LABELS: list[Any] = [
    *([None], [True], [1], ["a", None], [1.5, True, 1], ["a", "a"], [True, "true"], [math.nan]),
    *([["a"], ["b"]], [["a", "a"], ["b", "c"]], [[1]], [[]], [], "a", {}, 5, True),
]


@pytest.mark.parametrize("schema", [None, [("double", "a")], [("double", None)]])
def test_what_labels_may_be(load: Load, schema: list[tuple[str, str | None]] | None) -> None:
    specs = [ColSpec(*spec) for spec in schema or ()]
    with Pair(load(ModelSignature(Schema(specs)) if specs else None)) as pair:
        pair.recorder.answer = lambda: 1  # of a frame with some of them there is no JSON
        for labels in ODD_LABELS:
            width = len(labels) if isinstance(labels, list) else 1
            split = {"columns": labels, "data": [[1.5] * width]}
            frames = [split, {**split, "data": [[1.5, 2.5]]}, {"data": [[1.5]], "index": labels}]
            for frame in frames:
                ours = check(pair, json.dumps({"dataframe_split": frame}).encode(), JSON)
                assert ours.status != 500
        for table in ODD_TABLES:
            assert check(pair, table, "text/csv").status != 500


ODD_TABLES = [b",\n1,2\n", b"a,a\n1,2\n", b"a\n", b"\n", b",a\n1,2\n", b"a.1,a,a\n1,2,3\n"]
NO_LABELS: list[Any] = [[{}], ["a", {}], ["a", []], ["a", [1]], ["a", [{}]], [{"k": 1}, {"k": 1}]]


@pytest.mark.parametrize("labels", NO_LABELS, ids=str)
@pytest.mark.parametrize("schema", [None, [("double", "a")], [("double", None)]])
def test_what_has_no_hash_is_no_label(load: Load, labels: Any, schema: Any) -> None:
    """MLflow hands such a frame to a model without a signature, and fails where there is one."""
    specs = [ColSpec(*spec) for spec in schema or ()]
    split = {"columns": labels, "data": [[1.5] * len(labels)]}
    body = json.dumps({"dataframe_split": split}).encode()
    with Pair(load(ModelSignature(Schema(specs)) if specs else None)) as pair:
        theirs, ours = pair.by_mlflow(body, JSON), pair.by_us(body, JSON)
    assert theirs.status == 500
    assert (ours.status, ours.seen) == (400, NOTHING)
    assert "not a valid dataframe representation" in ours.message


NULLS: list[Any] = [
    *([[None, None]], [[None]], [None, None], [[None, True]], [["x", None]], None, []),
    *({"a": [None], "b": [None]}, {"a": None, "b": None}, [{"a": None, "b": None}]),
    *([{"a": True, "b": None}, {"a": None, "b": "x"}], {"a": [[None]], "b": [[None]]}),
]


BOOLEAN, STRING = DataType.boolean, DataType.string
NULLABLE: dict[str, list[ColSpec]] = {
    "a boolean": [ColSpec(BOOLEAN, "a")],
    "a string": [ColSpec(STRING, "a")],
    "both": [ColSpec(BOOLEAN, "a"), ColSpec(STRING, "b")],
    "both, optional": [ColSpec(BOOLEAN, "a", False), ColSpec(STRING, "b", False)],
    "both, without names": [ColSpec(BOOLEAN), ColSpec(STRING)],
}


@pytest.mark.parametrize("name", NULLABLE)
def test_what_a_null_may_be(load: Load, name: str) -> None:
    """MLflow hands on some as False or "None", and a list as a cell: so do we."""
    with Pair(load(ModelSignature(Schema(NULLABLE[name])))) as pair:
        for data in NULLS:
            for field in ("instances", "inputs", "dataframe_records"):
                check(pair, json.dumps({field: data}).encode(), JSON)
            for split in ({"data": data}, {"columns": list("ab"), "data": data}):
                check(pair, json.dumps({"dataframe_split": split}).encode(), JSON)


@pytest.mark.parametrize("content_type", ODD_TYPES)
def test_what_a_content_type_may_be(load: Load, content_type: str | None) -> None:
    with Pair(load(None)) as pair:
        for body in (DATA % b"1", b"a,b\n1,2\n", b""):
            check(pair, body, content_type)


class Point(pydantic.BaseModel):
    x: float
    at: datetime.datetime


MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, 7, tzinfo=datetime.timezone.utc)
DAYS = np.array(["2024-02-29", "NaT"], "datetime64[D]")
FRAME = pd.DataFrame(
    {
        "n": [1, 2],
        "f": [0.1, math.nan],
        "s": ["x", None],
        "b": [b"\0\xff" * 40, b""],
        "t": pd.to_datetime(["2024-02-29T12:00:00.000000001", None]),
        "l": [[1, np.float32(0.1)], {"k": np.int64(1)}],
    }
)


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


ANSWERS: dict[str, Any] = {
    "scalar": 1.5,
    "text": "\N{SNOWMAN}",
    "none": None,
    "numpy scalars": [
        np.float32(0.1),
        np.int8(1),
        np.bool_(True),
        np.float64(math.nan),
        np.str_("x"),
    ],
    "numpy dates": [
        np.datetime64("2024-02-29T12:30:15.5"),
        np.datetime64(1, "ns"),
        np.datetime64(1, "D"),
    ],
    **{
        f"array of {kind}": np.array([[0, 1], [1, 0]], kind)
        for kind in ("f2", "f4", "f8", "i1", "i8", "u8", "?", ">f8", "O", "U3", "S3")
    },
    "array of floats": np.array([0.1, 1e-7, 1e22, math.nan, math.inf], "f4"),
    "nested arrays": {"a": np.array([0.1], "f4"), "b": [np.array([[1], [2]])], "c": np.array(5)},
    "array of objects": np.array([b"\0", None, MOMENT, "x", np.float32(0.1)], object),
    "nested array of objects": [np.array([b"\0", MOMENT, np.float32(0.1)], object)],
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "empty array": np.empty((0, 2)),
    "scalar array": np.array(1.5),
    "days": DAYS,
    "nested days": [DAYS],
    "nanoseconds": DAYS.astype("datetime64[ns]"),
    "nested nanoseconds": {"a": DAYS.astype("datetime64[ns]")},
    "bytes": b"\0\xff" * 100,
    "bytearray": [bytearray(b"\0\xff")],
    "array of bytes": np.array([b"a", b"bc"]),
    "dates": [
        MOMENT,
        MOMENT.date(),
        MOMENT.time(),
        MOMENT.replace(tzinfo=None),
        pd.Timestamp(MOMENT),
        pd.NaT,
    ],
    "frame": FRAME,
    "series": FRAME["f"],
    "series without a name": pd.Series([1, 2]),
    "series of dates": FRAME["t"],
    "frame with numbers as names": pd.DataFrame([[1, 2.5]]),
    "frame with an index": FRAME.set_index("n"),
    "frame without columns": pd.DataFrame(index=[1, 2]),
    "frame without rows": FRAME[:0],
    "frame of categories": pd.DataFrame({"c": pd.Categorical(["a", "b"])}),
    "frame of nullable types": pd.DataFrame(
        {"c": pd.array([1, 2], "Int64"), "d": pd.array([True, False], "boolean")}
    ),
    "frame of float32": pd.DataFrame({"c": np.array([0.1, 2], "f4")}),
    "large frame": pd.DataFrame({"c": np.arange(500) / 7, "d": ["x"] * 500}),
    "frame with names that are equal": pd.DataFrame([[1, 2, 3, 4]], columns=[True, 1, "a", "a"]),
    "keys": {1: "a", 2.5: "b", None: "c", False: "d"},
    "large numbers": [10**30, -(10**20), 1e300],
    "surrogates": ["\ud800"],
    "pydantic": [Point(x=0.1, at=MOMENT)],
    "tuple": (1, (2, 3)),
    "a set": {1},
    "not available": [pd.NA],
    "a nested frame": {"frame": FRAME},
    "an object": object(),
    "what contains itself": endless(),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_a_model_may_answer(load: Load, name: str) -> None:
    for body in (DATA % b"1", b'{"prompt": "x"}'):
        with Pair(load(None)) as pair:
            pair.recorder.answer = lambda: ANSWERS[name]
            check(pair, body, JSON)


HINTED = {
    "HintedInts": [[1, 2], ["x"], [1.5], [], 1, "x", None, [None], {"a": 1}, [True]],
    "HintedRecords": [[{"a": "x"}], [{"a": 1}], [{}], {"a": "x"}, [["x"]]],
    "HintedMoments": [["2024-02-29T12:00:00"], ["x"], [1]],
    "HintedBytes": [["AP8="], [1], ["\N{SNOWMAN}"]],
}


@pytest.mark.parametrize("name", HINTED)
def test_signatures_from_type_hints(save_model: Callable[..., Path], name: str) -> None:
    def save(models: Any, path: Path) -> Path:
        import scoring_oracle

        return Path(models.save(getattr(scoring_oracle, name)(), path))

    with Pair(mlflow.pyfunc.load_model(str(save_model(name, save)))) as pair:
        assert pair.runner.description.signature is not None
        for data in HINTED[name]:
            for field in ("inputs", "instances", "dataframe_records", "dataframe_split", "input"):
                check(pair, json.dumps({field: data}).encode(), JSON)
            check(pair, json.dumps({"inputs": data, "instances": [1], "params": {}}).encode(), JSON)
        check(pair, b"a,b\n1,2\n", "text/csv")
        check(pair, FRAME[["n"]].to_parquet(), "application/vnd.apache.parquet")
