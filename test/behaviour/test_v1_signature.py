"""V1 for a model with a signature: rows, columns, every type of column, and binary values."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

KINDS = {kind.name: kind for kind in DataType}
DAY = "2024-02-29T12:30:15"
MOMENT = f"Timestamp({datetime.datetime.fromisoformat(DAY).isoformat(' ')!r})"
IMAGE = b"\x89PNG\0\0"
B64 = {"b64": base64.b64encode(IMAGE).decode()}

GOOD: dict[str, tuple[Any, str]] = {
    "boolean": (True, "True"),
    "integer": (-7, "-7"),
    "long": (2**53 + 1, "9007199254740993"),
    "float": (0.5, "0.5"),
    "double": (0.1, "0.1"),
    "string": ("\N{SNOWMAN}", "'\N{SNOWMAN}'"),
    "binary": (B64, repr(IMAGE)),
    "datetime": (DAY, MOMENT),
}
"""For each type a value as a client sends it, and as the model sees it in its frame."""


def save_typed(models: Any, path: Path) -> Path:
    import scoring_models

    columns = [ColSpec(kind, name) for name, kind in KINDS.items()]
    columns += [ColSpec(kind, f"{name}?", required=False) for name, kind in KINDS.items()]
    signature = ModelSignature(inputs=Schema(columns))
    return Path(models.save(scoring_models.Typed(), path, signature=signature))


@pytest.fixture(scope="module")
def daemon(save_model: Callable[..., Path]) -> Iterator[Daemon]:
    with Daemon(save_model("typed", save_typed)) as running:
        yield running


ROW = {name: GOOD[name][0] for name in KINDS}
SEEN = {name: ["list", *[GOOD[name][1]] * 2] for name in KINDS}


@pytest.mark.parametrize("form", ["instances", "inputs", "records"])
def test_every_type_by_row_and_by_column(daemon: Daemon, form: str) -> None:
    columns = {name: [value, value] for name, value in ROW.items()}
    body: dict[str, Any] = {
        "instances": {"instances": [ROW, ROW]},
        "inputs": {"inputs": columns},
        "records": {"inputs": [ROW, ROW]},
    }[form]
    answer = daemon.predict(body)
    assert answer.status == 200, answer.text
    assert answer.json()["predictions"] == SEEN


def test_optional_columns_may_be_there_or_not(daemon: Daemon) -> None:
    extra = {f"{name}?": value for name, value in ROW.items()}
    answer = daemon.predict({"instances": [{**ROW, **extra}]}).json()["predictions"]
    assert answer == {
        **{name: ["list", GOOD[name][1]] for name in KINDS},
        **{f"{name}?": ["list", GOOD[name][1]] for name in KINDS},
    }
    some = {"double?": [0.5, 1.5], **{name: [value, value] for name, value in ROW.items()}}
    answer = daemon.predict({"inputs": some}).json()["predictions"]
    assert list(answer) == [*KINDS, "double?"]


NULLS = {"double": "nan", "float": "nan", "datetime": "NaT", "binary": "None", "boolean": "False"}
"""What MLflow makes of a null, by the type of its column; it refuses one of any other number."""


@pytest.mark.parametrize("name", ["double", "float", "datetime"])
def test_a_null_in_an_optional_column(daemon: Daemon, name: str) -> None:
    rows = [{**ROW, f"{name}?": None}, {**ROW, f"{name}?": GOOD[name][0]}]
    answer = daemon.predict({"instances": rows})
    assert answer.json()["predictions"][f"{name}?"] == ["list", NULLS[name], GOOD[name][1]]


def test_a_null_beside_binary_values(daemon: Daemon) -> None:
    rows = [{**ROW, "binary?": None}, {**ROW, "binary?": B64}]
    answer = daemon.predict({"instances": rows})
    assert answer.json()["predictions"]["binary?"] == ["list", "None", repr(IMAGE)]


@pytest.mark.parametrize("name", ["long", "integer"])
def test_a_null_that_no_integer_can_be(daemon: Daemon, name: str) -> None:
    answer = daemon.predict({"instances": [{**ROW, f"{name}?": None}]})
    assert answer.status == 400
    assert f"'{name}?'" in answer.json()["reason"]


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"string", "boolean"}))
def test_a_value_of_another_type(daemon: Daemon, name: str) -> None:
    bad: Any = {"b64": "mine!"} if name == "binary" else "mine"
    for body in ({"instances": [{**ROW, name: bad}]}, {"inputs": [{**ROW, name: bad}]}):
        answer = daemon.predict(body)
        assert answer.status == 400, answer.text
        assert answer.json().keys() == {"status_code", "reason"}
        assert "mine" not in answer.text


def test_bytes_come_and_go(echo_model: Path) -> None:
    with Daemon(echo_model) as daemon:
        for body in ({"instances": [B64, B64]}, {"inputs": [B64, B64]}):
            assert daemon.predict(body).json() == {"predictions": [B64, B64]}
        named = {"image": [B64], "key": [1]}
        assert daemon.predict({"instances": [{"image": B64, "key": 1}]}).json() == {
            "predictions": named
        }
        assert daemon.predict({"inputs": named}).json() == {"predictions": named}
        answer = daemon.predict({"instances": [{"b64": "mine!"}]})
        assert (answer.status, "base64" in answer.text, "mine" in answer.text) == (400, True, False)
