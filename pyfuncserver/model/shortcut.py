"""From a request to what a model takes, by a shorter way than MLflow's to the same result.

MLflow converts cell by cell, builds a frame, checks each column of it, and builds another. Where
the schema is of simple types and every value already is of the Python type that JSON has for it,
NumPy gives the same result at once. A shortcut gives None for all else, and MLflow decides; so it
does about everything that it would refuse, in its own words.

Each shortcut is tried at load, beside MLflow, on samples that fit the schema, or a smaller one of
the same types; one that gives anything else, with the versions of MLflow, pandas and NumPy at
hand, is not taken.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from pyfuncserver.model import arrays, dataframes, tables

log = logging.getLogger(__name__)

Shortcut = Callable[[str, Any], Any]
"""Takes what a request holds, by the name it has there; gives what the model takes, or None."""
Oracle = Callable[[Any, str, Any], Any]
"""Takes a schema beside them; gives what MLflow makes of them, enforced."""


def shortcut_of(schema: Any, oracle: Oracle) -> Shortcut:
    """Choose the shortcut for an input schema, or for a model without one."""
    return _chosen(_tried, schema, oracle)


def frame_shortcut_of(schema: Any, oracle: Oracle) -> Shortcut:
    """Choose the shortcut for the data frames that MLflow's scoring protocol has in JSON."""
    return _chosen(_tried_with_frames, schema, oracle)


def _chosen(tried: Callable[[Any, Oracle], Shortcut], schema: Any, oracle: Oracle) -> Shortcut:
    try:
        found = tried(schema, oracle)
    except Exception as error:  # whatever it is: MLflow's own way is always right
        log.debug("inputs are converted by MLflow alone", exc_info=error)
        return no_shortcut
    if found is no_shortcut:
        log.debug("inputs are converted by MLflow alone: %s has no shortcut", schema)
    return found


def no_shortcut(_key: str, _data: Any) -> Any:
    """Leave all to MLflow."""


def _tried(schema: Any, oracle: Oracle) -> Shortcut:
    if schema is None:
        return _proved(arrays.untyped, None, arrays.UNTYPED_SAMPLES, oracle)
    if schema.is_tensor_spec():
        if not arrays.are_simple(schema):
            return no_shortcut
        small = arrays.small(schema)
        _proved(arrays.tensors(small), small, arrays.samples(small), oracle)
        return arrays.tensors(schema)
    if not tables.is_simple(schema):
        return no_shortcut
    small = tables.small(schema)
    samples = tables.samples(small)
    kept = tables.dtypes_of(small, oracle(small, *samples[0]))
    _proved(tables.table(small, kept), small, samples, oracle)
    return tables.table(schema, kept)


def _tried_with_frames(schema: Any, oracle: Oracle) -> Shortcut:
    if schema is None or schema.is_tensor_spec() or not tables.is_simple(schema):
        return no_shortcut  # without a schema pandas alone makes the frame, which is short enough
    small = tables.small(schema)
    samples = dataframes.samples(small)
    kept = tables.dtypes_of(small, oracle(small, *samples[0]))
    _proved(dataframes.frame(small, kept), small, samples, oracle)
    return dataframes.frame(schema, kept)


def _proved(
    shortcut: Shortcut, schema: Any, samples: Iterable[tuple[str, Any]], oracle: Oracle
) -> Shortcut:
    for key, data in samples:
        expected = oracle(schema, key, data)
        if not is_same(shortcut(key, data), expected):
            raise ValueError(f"the shortcut gives something else for {key} of {schema}")
    return shortcut


def is_same(one: Any, other: Any) -> bool:
    """Compare two inputs of a model by all that a model can see: types, order, labels, values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(is_same(one[name], other[name]) for name in one)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and _is_equal(one, other)
    if isinstance(one, pd.DataFrame):
        return (
            all(is_same(*axes) for axes in zip(one.axes, other.axes, strict=True))
            and one.dtypes.tolist() == other.dtypes.tolist()
            and all(_is_equal(one[name], other[name]) for name in one)
        )
    return isinstance(one, pd.Index) and one.dtype == other.dtype and _is_equal(one, other)


def _is_equal(one: Any, other: Any) -> bool:
    # The representation tells the type of a cell, and a NaN from a None.
    return repr(one.tolist()) == repr(other.tolist())
