"""What other versions of MLflow have not, and what is not installed; the rest is in
``test_scoring_differential.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.types import ColSpec, DataType, Schema

from pyfuncserver.errors import InvalidInput, UnsupportedMediaType
from pyfuncserver.model import scoring
from pyfuncserver.model.call import ScoringInput


class Metadata:
    """A model's, as MLflow before 2.6 has it: without params and type hints."""

    def __init__(self, schema: Any = None) -> None:
        self.schema = schema

    def get_input_schema(self) -> Any:
        return self.schema


def hide(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)


def test_an_old_mlflow_knows_no_llm_input(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "mlflow.pyfunc.utils.serving_data_parser")
    read = scoring.ScoringReader(Metadata())
    with pytest.raises(InvalidInput, match="exactly one of the input fields"):
        read(ScoringInput(scoring.JSON, {"prompt": "x"}))
    body = {"inputs": [1], "prompt": "x", "params": {"k": 1}}
    assert read(ScoringInput(scoring.JSON, body)) == ("inputs", [1], {"k": 1})


@pytest.mark.parametrize("field", ["dataframe_records", "dataframe_split"])
def test_an_old_mlflow_makes_no_frames(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    import mlflow.utils.proto_json_utils

    monkeypatch.delattr(mlflow.utils.proto_json_utils, "dataframe_from_parsed_json")
    parse = scoring.frame_parser()
    schema = Schema([ColSpec(DataType.binary, "a"), ColSpec(DataType.double, "b")])
    records = [{"a": "AP8=", "b": 1.5}]
    split = {"columns": ["a", "b"], "data": [["AP8=", 1.5]]}
    data = records if field == "dataframe_records" else split
    expected = pd.DataFrame({"a": [b"\0\xff"], "b": [1.5]})
    pd.testing.assert_frame_equal(scoring.parsed(parse, field, data, schema), expected)
    assert scoring.parsed(parse, field, data, None)["a"].tolist() == ["AP8="]
    with pytest.raises(InvalidInput, match=field):
        scoring.parsed(parse, field, 5, None)


def test_parquet_that_nobody_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "pyarrow.parquet")
    read = scoring.ScoringReader(Metadata())
    with pytest.raises(UnsupportedMediaType, match="pyarrow is not installed"):
        read(ScoringInput(scoring.PARQUET, b"PAR1"))


def test_a_csv_is_refused_by_its_column() -> None:
    schema = Schema([ColSpec(DataType.double, "a"), ColSpec(DataType.long, "b")])
    read = scoring.ScoringReader(Metadata(schema))
    with pytest.raises(InvalidInput, match="Column 'b' holds what cannot be read as long"):
        read(ScoringInput(scoring.CSV, b"a,b\n1.5,mine\n"))
    with pytest.raises(InvalidInput, match="Expected 2 fields in line 3, saw 4"):
        read(ScoringInput(scoring.CSV, b"a,b\n1.5,2\n1,2,3,4\n"))


def test_reading_a_request_imports_no_web_framework(run_script: Any, echo_model: Path) -> None:
    script = """
        import sys, warnings
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
        before = set(sys.modules)
        from pyfuncserver.model.plain import PlainModel
        PlainModel(mlflow.pyfunc.load_model(sys.argv[1] if sys.argv[1:] else MODEL))
        frameworks = {"flask", "fastapi", "uvicorn", "mlflow.pyfunc.scoring_server"}
        print(sorted((set(sys.modules) - before) & frameworks))
    """
    out = run_script(script.replace("MODEL", repr(str(echo_model))))
    assert out.splitlines()[-1] == "[]"
