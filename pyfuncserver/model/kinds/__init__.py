"""Models that were saved by their own library and not by MLflow; one module a kind.

What is loaded is handed on as a ``mlflow.pyfunc.PyFuncModel``, so all that follows treats it as any
other; only its input is read by its own class (:class:`~.artefact.Artefact`), which so takes what
clients of other servers of such models send, and what MLflow's conversion has no way for.
"""

from pyfuncserver.model.kinds.artefact import Artefact, Options, Unloadable, artefact_of
from pyfuncserver.model.kinds.finding import MLFLOW, Found, find
from pyfuncserver.model.kinds.loading import load

__all__ = ["MLFLOW", "Artefact", "Found", "Options", "Unloadable", "artefact_of", "find", "load"]
