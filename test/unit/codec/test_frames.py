from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pyfuncserver.codec.frames import frame_from

ARRAYS = [
    np.array([1.5, 2.5]),
    np.array([1, 2]),
    np.array(["a", "b"], dtype=object),
    pd.array([1, None], "Int64"),
    np.array([3.5, 4.5]),
]
LABELS = pd.Index(["d", "i", "s", "n", "d"], dtype=object)
INDEX = pd.Index(["r", "r"], dtype=object)


@pytest.mark.parametrize("is_short", [True, False])
def test_types_and_labels_are_kept(is_short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_short:
        monkeypatch.delattr(pd.DataFrame, "_from_arrays")
    frame = frame_from(ARRAYS, LABELS, INDEX)
    assert [str(dtype) for dtype in frame.dtypes] == [
        "float64",
        "int64",
        "object",
        "Int64",
        "float64",
    ]
    assert frame.columns.tolist() == LABELS.tolist()
    assert frame.index.tolist() == INDEX.tolist()
    assert frame.columns.dtype == frame.index.dtype == np.dtype(object)
    assert frame.to_numpy().tolist() == [[1.5, 1, "a", 1, 3.5], [2.5, 2, "b", pd.NA, 4.5]]


@pytest.mark.parametrize("is_short", [True, False])
@pytest.mark.parametrize("rows", [0, 2])
def test_frames_without_rows_or_columns(
    rows: int, is_short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_short:
        monkeypatch.delattr(pd.DataFrame, "_from_arrays")
    index, nothing = pd.RangeIndex(rows), pd.Index([], dtype=object)
    assert frame_from([], nothing, index).shape == (rows, 0)
    assert frame_from([array[:rows] for array in ARRAYS], LABELS, index).shape == (rows, 5)


def test_a_frame_can_be_changed() -> None:
    frame = frame_from(ARRAYS, LABELS, INDEX)
    frame["more"] = 1
    frame.iloc[0, 0] = 9.0
    assert frame["more"].tolist() == [1, 1]
    assert frame.iloc[:, 0].tolist() == [9.0, 2.5]
    assert frame.iloc[:, 4].tolist() == [3.5, 4.5]
