"""Load what :mod:`finding` has found, by the module of its kind."""

from __future__ import annotations

import importlib
from typing import Any

from pyfuncserver.model.kinds.artefact import Artefact, Options, Unloadable, missing, pyfunc_of
from pyfuncserver.model.kinds.finding import Found


def load(found: Found, options: Options) -> Any:
    """Give a ``PyFuncModel`` of a kind that is not MLflow's own.

    Raises: Unloadable; what the artefact's own code raises, as it is.
    """
    module = importlib.import_module(f"{__package__}.{found.kind}")
    try:
        artefact: Artefact = module.load(found.path, options)
    except ModuleNotFoundError as error:  # what a pickle, or a library, asks for
        raise Unloadable(missing(error)) from error
    return pyfunc_of(artefact, found.kind)
