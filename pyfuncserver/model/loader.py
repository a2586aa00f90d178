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
from pyfuncserver.utils import heap

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A loaded pyfunc model, and where it came from."""

    pyfunc: Any
    loader_module: str
    address: str
    example: Any = None
    """The input example that was logged with the model, or None."""


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
        with heap.no_collections():
            import mlflow.pyfunc

        model = mlflow.pyfunc.load_model(str(directory))
    except BaseException as error:  # the user's model: it may call sys.exit, or panic in Rust
        log.debug("loading %s failed", address, exc_info=error)
        raise StartupError(f"the model {address} cannot be loaded: {_cause(error)}") from error
    loader_module = str(model.loader_module)
    log.info("loaded %s (%s) in %.2f s", address, loader_module, time.monotonic() - started)
    return LoadedModel(model, loader_module, address, _example(model, directory))


def _example(model: Any, directory: Path) -> Any:
    """Read the model's input example; None where it has none, or none that can be read."""
    try:
        return model.metadata.load_input_example(str(directory))
    except Exception as error:  # noqa: BLE001  whatever it is that MLflow cannot read back
        log.warning("the model's input example cannot be read: %s", error)
        return None


def _local_directory(address: str) -> Path:
    path = Path(address.removeprefix("file://") if address.startswith("file://") else address)
    if not path.exists():
        raise StartupError(f"the model {address} does not exist: no such directory")
    if not path.is_dir():
        raise StartupError(f"the model {address} is not a directory")
    if not (path / "MLmodel").is_file():
        raise StartupError(f"the model {address} has no MLmodel file; is it an MLflow model?")
    # MLflow refuses artifacts that a link leads to out of the directory it was given; and a link is
    # how a new version is put in place at once (Kubernetes does so).
    return path.resolve()


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
