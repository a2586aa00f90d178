"""XGBoost's boosters, in JSON or UBJSON, whatever the file's name ends with.

They answer as ``Booster.predict`` does, like KServe's and Seldon's servers: a classifier of two
classes with the second's probability.
https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.kinds import artefact
from pyfuncserver.model.kinds.artefact import Artefact, Options, Params, Unloadable, module
from pyfuncserver.model.kinds.finding import is_xgboost
from pyfuncserver.model.kinds.table import Table

_WAYS = ("output_margin", "pred_leaf", "pred_contribs")
"""The library's own names for what else a booster can tell; each a param of a call."""


def load(path: Path, options: Options) -> Artefact:  # noqa: ARG001
    """Load a file. Raises: Unloadable"""
    library = module("xgboost")
    if not is_xgboost(path):
        raise Unloadable(f"{path.name} is no XGBoost model: it is neither JSON nor UBJSON of one")
    try:
        # From memory: the library would go by the name's ending, which may be anything.
        return Booster(library, library.Booster(model_file=bytearray(path.read_bytes())))
    except library.core.XGBoostError as error:
        reason = artefact.reason_of(error)
        raise Unloadable(f"{path.name} cannot be read by XGBoost: {reason}") from error


class Booster(Artefact):
    """A booster; see :class:`~.artefact.Artefact`. Missing values may be null or NaN."""

    def __init__(self, library: Any, booster: Any) -> None:
        self._matrix = library.DMatrix
        self._refused = library.core.XGBoostError
        self._booster = booster
        self._table = Table(booster.feature_names, int(booster.num_features()))
        self._types = booster.feature_types
        self._is_categorical = "c" in (self._types or ())

    @property
    def signature(self) -> Any:
        inputs = (
            artefact.tensors([(None, np.float32, (-1, self._table.width or -1))])
            if self._table.names is None
            else artefact.columns(dict.fromkeys(self._table.names, "float"))
        )
        outputs = artefact.tensors([("predict", np.float32, (-1, *self._row()))])
        return artefact.signature(inputs, outputs, dict.fromkeys(_WAYS, ("boolean", False)))

    def _row(self) -> tuple[int, ...]:
        """Give the shape of what it answers to a row."""
        learner = json.loads(self._booster.save_config())["learner"]
        sizes = learner["learner_model_param"]
        classes, targets = int(sizes.get("num_class", 0)), int(sizes.get("num_target", 1))
        if learner["objective"]["name"] == "multi:softmax":
            return ()
        return (max(classes, targets),) if max(classes, targets) > 1 else ()

    def read(self, data: Any) -> Any:
        rows = self._table.array(data, np.float32)
        if np.isinf(rows).any():  # which no matrix of the library's holds
            raise InvalidInput("The input has an infinite value, which this model does not take")
        return rows

    def predict(self, data: Any, params: Params | None = None) -> Any:
        ways = artefact.way(_WAYS, params)
        if not len(data) and not ways:  # the library gives no columns either
            return np.empty((0, *self._row()), np.float32)
        matrix = self._matrix(
            data,
            feature_names=self._booster.feature_names,
            feature_types=self._types,
            enable_categorical=self._is_categorical,
        )
        try:
            return self._booster.predict(matrix, **ways)
        except self._refused as error:
            if ways:  # as leaves, which a linear model does not have
                raise InvalidInput(f"This booster does not tell {', '.join(ways)}") from error
            raise
