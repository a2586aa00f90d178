"""How large a data frame becomes, beside what a client has sent for it.

A frame has a cell for each row in each column. So 50,000 labels of columns and as many of rows,
which are a megabyte, ask for 20 GB, and so does a column that Parquet has written as one value and
how often it comes. What is far larger than its request is refused before pandas makes it.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pyfuncserver.errors import InvalidInput

MOST_UNSENT_CELLS = 2**25
"""Cells of a frame that its request does not hold: a null, or a value that fills a column."""
MOST_COLUMNS = 2**18
"""Each costs pandas microseconds, whatever it holds."""
MOST_CSV_COLUMNS = 2**15
"""Reading one costs a tenth of a millisecond."""
MOST_NAMESAKES = 1000
"""Columns of one name in CSV: pandas tries a new name for each from the first on."""
MOST_UNPACKED_BYTES = 2**28
"""What a Parquet file may become, however small it is."""
UNPACKED_RATIO = 32
"""So many times its own size a larger one may become."""
SMALL = 2**12
"""Bytes of CSV whose cells cannot be too many."""


def check(rows: int, columns: int, sent: int, widest: int = MOST_COLUMNS) -> None:
    """Refuse a frame that is too wide, or mostly not sent. Raises: InvalidInput"""
    if columns > widest:
        raise InvalidInput(f"A data frame of {columns} columns is too wide: there may be {widest}")
    if rows * columns - sent > MOST_UNSENT_CELLS:
        raise InvalidInput(
            f"A data frame of {rows} rows and {columns} columns is too large for what the request "
            f"holds, which is {sent} of its {rows * columns} cells"
        )


def check_records(records: Any) -> None:
    """Check ``dataframe_records``. Raises: InvalidInput"""
    if isinstance(records, list):
        check(len(records), *_width(records))


def check_split(split: Mapping[str, Any]) -> None:
    """Check ``dataframe_split``, whose labels need not fit its data. Raises: InvalidInput"""
    data = split["data"]
    rows, width, sent = 1, 1, 1
    if isinstance(data, list):
        rows, (width, sent) = len(data), _width(data)
    elif isinstance(data, dict):
        rows, width, sent = _by_column(data)
    check(max(rows, _labels(split.get("index"))), max(width, _labels(split.get("columns"))), sent)


def check_columns(columns: Any) -> None:
    """Check values by column, of which a single one fills all rows. Raises: InvalidInput"""
    if isinstance(columns, dict):
        check(*_by_column(columns))


def _width(rows: Sequence[Any]) -> tuple[int, int]:
    """Tell how many columns rows have, and how many cells."""
    names = set().union(*(row for row in rows if isinstance(row, dict)))
    lengths = [len(row) if isinstance(row, list | dict) else 1 for row in rows]
    widest = max(map(_length, rows), default=0)
    return max(len(names), widest), sum(lengths)


def _length(row: Any) -> int:
    return len(row) if isinstance(row, list) else 1


def _by_column(columns: Mapping[str, Any]) -> tuple[int, int, int]:
    """Tell how many rows and columns a dict makes, and how many cells it has."""
    parts = columns.values()
    named = set().union(*(part for part in parts if isinstance(part, dict)))
    lengths = [len(part) if _is_many(part) or isinstance(part, dict) else 1 for part in parts]
    rows = max((len(part) for part in parts if _is_many(part)), default=1)
    return max(len(named), rows), len(columns), sum(lengths)


def _is_many(part: Any) -> bool:
    return isinstance(part, list) or (isinstance(part, np.ndarray) and part.ndim > 0)


def _labels(labels: Any) -> int:
    """Count labels; those of several levels are lists of them."""
    if not isinstance(labels, list):
        return 0
    return max(len(labels), max(map(_length, labels), default=0))


# CSV


def check_csv(text: str) -> None:
    """Check a table: pandas fills short rows up to the width of the header. Raises: InvalidInput"""
    if len(text) <= SMALL:
        return
    commas, ends = text.count(","), text.count("\n") + text.count("\r")
    header = _header(text)
    width = len(header) if header else commas + 1
    if width > MOST_NAMESAKES:
        _check_names(header)
    if width > MOST_CSV_COLUMNS or (ends + 1) * width > MOST_UNSENT_CELLS:
        rows, sent = _counted(text) or (ends + 1, commas + ends + 1)
        check(rows, width, sent, MOST_CSV_COLUMNS)


def _check_names(header: Sequence[str]) -> None:
    counts = Counter(name for name in header if name)
    _, most = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if most > MOST_NAMESAKES:
        raise InvalidInput(
            f"The table has {most} columns of one name: there may be {MOST_NAMESAKES}"
        )


def _rows(text: str) -> Iterator[list[str]]:
    return (row for row in csv.reader(io.StringIO(text, newline="")) if row)


def _header(text: str) -> list[str]:
    """Give the first row, or the second if it is longer, as that of a frame with an index is."""
    try:
        rows = _rows(text)
        return max(next(rows, []), next(rows, []), key=len)
    except csv.Error:  # pandas reads more than this module does
        return []


def _counted(text: str) -> tuple[int, int] | None:
    """Tell how many rows and cells a table has."""
    try:
        lengths = [len(row) for row in _rows(text)]
    except csv.Error:
        return None
    return len(lengths), sum(lengths)


# Parquet


def check_parquet(data: bytes) -> None:
    """Check a Parquet file. Raises: InvalidInput, or ImportError; or what pyarrow makes of it"""
    parquet = _module("pyarrow.parquet")
    file = parquet.ParquetFile(io.BytesIO(data))
    metadata = file.metadata
    most = max(MOST_UNPACKED_BYTES, UNPACKED_RATIO * len(data))
    check(0, metadata.num_columns, 0)
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    values = sum(chunk.num_values for chunk in chunks)
    _check_unpacked(8 * max(metadata.num_rows, values), most)
    _check_unpacked(sum(chunk.total_uncompressed_size for chunk in chunks), most)
    texts = [chunk for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"]
    if sum(chunk.num_values * chunk.total_uncompressed_size for chunk in texts) > most:
        _check_unpacked(_bytes_of_texts(data, {chunk.path_in_schema for chunk in texts}), most)


def _module(name: str) -> Any:
    """Import a module of pyarrow's, which not every installation has, and no type checker."""
    return importlib.import_module(name)


def _check_unpacked(size: int, most: int) -> None:
    if size > most:
        raise InvalidInput(
            f"The Parquet file is too large: it unpacks to {size} bytes or more, and may to {most}"
        )


def _bytes_of_texts(data: bytes, paths: set[str]) -> int:
    """Tell how many bytes texts have, each counted as often as it comes."""
    roots = list({path.partition(".")[0] for path in paths})
    table = _module("pyarrow.parquet").read_table(
        io.BytesIO(data), columns=roots, read_dictionary=list(paths)
    )
    return sum(_spread(chunk) for column in table.columns for chunk in column.chunks)


def _spread(array: Any) -> int:
    """Give the bytes of an Arrow array whose texts are in dictionaries, as those of all values."""
    if hasattr(array, "dictionary"):
        compute = _module("pyarrow.compute")
        lengths = compute.binary_length(array.dictionary)
        return int(compute.sum(lengths.take(array.indices)).as_py() or 0)
    if hasattr(array, "values"):  # of lists, and maps
        return _spread(array.values)
    if array.type.num_fields:
        return sum(_spread(part) for part in array.flatten())
    return int(array.nbytes)
