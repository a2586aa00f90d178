"""Load the model, once, by ``mlflow.pyfunc``.

Nothing of MLflow is imported before :func:`load` is called: it costs a second and 160 MB.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyfuncserver.errors import StartupError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A loaded pyfunc model, and where it came from."""

    pyfunc: Any
    loader_module: str
    address: str


def load(address: str) -> LoadedModel:
    """Load a local directory that holds an MLmodel file.

    Raises: StartupError with the cause in one line; the traceback is logged at level DEBUG.
    """
    directory = _local_directory(address)
    started = time.monotonic()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow would give its loggers, and some of others, a handler and a format of its own.
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    try:
        import mlflow.pyfunc

        model = mlflow.pyfunc.load_model(str(directory))
    except BaseException as error:  # the user's model: it may call sys.exit, or panic in Rust
        log.debug("loading %s failed", address, exc_info=error)
        raise StartupError(f"the model {address} cannot be loaded: {_cause(error)}") from error
    loader_module = str(model.loader_module)
    log.info("loaded %s (%s) in %.2f s", address, loader_module, time.monotonic() - started)
    return LoadedModel(model, loader_module, address)


def _local_directory(address: str) -> Path:
    path = Path(address.removeprefix("file://") if address.startswith("file://") else address)
    if not path.exists():
        raise StartupError(f"the model {address} does not exist: no such directory")
    if not path.is_dir():
        raise StartupError(f"the model {address} is not a directory")
    if not (path / "MLmodel").is_file():
        raise StartupError(f"the model {address} has no MLmodel file; is it an MLflow model?")
    return path


def _cause(error: BaseException) -> str:
    """Name the error and the last line of code that was not a library's."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and __file__ != frame.filename
    ]
    text = " ".join(str(error).split()) or "no reason given"
    where = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"
