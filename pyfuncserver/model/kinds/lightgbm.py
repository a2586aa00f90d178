"""LightGBM's boosters, in the text form that ``Booster.save_model`` writes.

They answer as ``Booster.predict`` does, like KServe's server: a classifier of two classes with the
second's probability. Columns that were categories of pandas are taken as the numbers of those.
https://lightgbm.readthedocs.io/en/stable/pythonapi/lightgbm.Booster.html
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from pyfuncserver.model.kinds import artefact
from pyfuncserver.model.kinds.artefact import Artefact, Options, Params, Unloadable, module
from pyfuncserver.model.kinds.finding import is_lightgbm
from pyfuncserver.model.kinds.table import Table

log = logging.getLogger(__name__)

_WAYS = ("raw_score", "pred_leaf", "pred_contrib")
"""The library's own names for what else a booster can tell; each a param of a call."""
_NUMBERED = re.compile(r"Column_\d+")
"""What the library calls a feature whose name it was not told."""


def load(path: Path, options: Options) -> Artefact:  # noqa: ARG001
    """Load a file. Raises: Unloadable"""
    library = module("lightgbm")
    library.register_logger(log)  # it prints, else
    if not is_lightgbm(path):
        raise Unloadable(f"{path.name} is no LightGBM model: its text does not begin with tree")
    try:
        return Booster(library.Booster(model_file=str(path)))
    except library.basic.LightGBMError as error:
        reason = artefact.reason_of(error)
        raise Unloadable(f"{path.name} cannot be read by LightGBM: {reason}") from error


class Booster(Artefact):
    """A booster; see :class:`~.artefact.Artefact`. Missing values may be null or NaN."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster
        names = booster.feature_name()
        are_told = not all(_NUMBERED.fullmatch(name) for name in names)
        self._table = Table(names if are_told else None, int(booster.num_feature()))

    @property
    def signature(self) -> Any:
        inputs = (
            artefact.tensors([(None, np.float64, (-1, self._table.width or -1))])
            if self._table.names is None
            else artefact.columns(dict.fromkeys(self._table.names, "double"))
        )
        outputs = artefact.tensors([("predict", np.float64, (-1, *self._row()))])
        return artefact.signature(inputs, outputs, dict.fromkeys(_WAYS, ("boolean", False)))

    def _row(self) -> tuple[int, ...]:
        """Give the shape of what it answers to a row."""
        each = int(self._booster.num_model_per_iteration())
        return (each,) if each > 1 else ()

    def read(self, data: Any) -> Any:
        return self._table.array(data, np.float64)

    def predict(self, data: Any, params: Params | None = None) -> Any:
        ways = artefact.way(_WAYS, params)
        if not len(data) and not ways:  # the library gives no columns either
            return np.empty((0, *self._row()))
        return self._booster.predict(data, **ways)
