"""Load the model, once, by ``mlflow.pyfunc``.

Nothing of MLflow is imported before :func:`load` is called: it costs a second and 160 MB.
"""

from __future__ import annotations

import copy
import inspect
import logging
import os
import time
import traceback
from collections.abc import Mapping
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


def load(address: str, parameters: Mapping[str, Any] | None = None) -> LoadedModel:
    """Load a local directory that holds an MLmodel file.

    ``parameters`` (MODEL_CONFIG) take the place of what the model was saved with.
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

        config = _config_of(directory, parameters) if parameters else {}
        model = mlflow.pyfunc.load_model(str(directory), **config)
    except BaseException as error:  # the user's model: it may call sys.exit, or panic in Rust
        log.debug("loading %s failed", address, exc_info=error)
        raise StartupError(f"the model {address} cannot be loaded: {_cause(error)}") from error
    loader_module = str(model.loader_module)
    log.info("loaded %s (%s) in %.2f s", address, loader_module, time.monotonic() - started)
    return LoadedModel(model, loader_module, address, _example(model, directory))


def _config_of(directory: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Give ``load_model``'s arguments for the parameters; log those that are without effect.

    MLflow takes only what the model was saved with a default for, whichever its flavour, and drops
    the rest; before 2.8 it takes none at all.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    if "model_config" not in inspect.signature(mlflow.pyfunc.load_model).parameters:
        log.warning("MODEL_CONFIG has no effect: MLflow %s has no model_config", mlflow.__version__)
        return {}
    flavours = Model.load(str(directory / "MLmodel")).flavors or {}
    known = flavours.get(mlflow.pyfunc.FLAVOR_NAME, {}).get("config") or {}
    unknown = ", ".join(name for name in parameters if name not in known)
    if unknown:
        log.warning(
            "MODEL_CONFIG: %s without effect, for the model was saved with %s",
            unknown,
            f"a model_config of {', '.join(known)} only" if known else "no model_config",
        )
    taken = {name: value for name, value in parameters.items() if name in known}
    return {"model_config": copy.deepcopy(taken)} if taken else {}


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
