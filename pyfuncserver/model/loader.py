"""Load the model, once: by ``mlflow.pyfunc``, or by the module of its kind.

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

from pyfuncserver.config import Config
from pyfuncserver.errors import StartupError
from pyfuncserver.model import addresses, kinds
from pyfuncserver.utils import heap

log = logging.getLogger(__name__)

_OURS = str(Path(__file__).parent)


@dataclass(frozen=True)
class LoadedModel:
    """A loaded pyfunc model, and where it came from."""

    pyfunc: Any
    loader_module: str
    address: str
    example: Any = None
    """The input example that was logged with the model, or None."""


def options_of(config: Config) -> kinds.Options:
    """Give what the settings say of how the model is loaded."""
    trusted = tuple(name.strip() for name in config.skops_trusted.split(",") if name.strip())
    return kinds.Options(
        config.model_kind.value,
        config.predict_proba,
        trusted,
        config.model_task,
        config.parameters,
    )


def load(
    address: str, *, title: str = "", cache_dir: str = "", options: kinds.Options | None = None
) -> LoadedModel:
    """Load a directory that holds an MLmodel file, or a model of another kind.

    What is elsewhere is fetched first. ``title`` is what the user calls it, if not by its address.
    Raises: StartupError with the cause in one line; the traceback is logged at level DEBUG.
    """
    options = options or kinds.Options()
    path, address = locate(address, cache_dir), addresses.shown(title or address)
    found = _found(address, path, options)
    started = time.monotonic()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow would give its loggers, and some of others, a handler and a format of its own.
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    try:
        with heap.no_collections():
            import mlflow.pyfunc

        if found.kind == kinds.MLFLOW:
            config = _config_of(found.path, options.parameters) if options.parameters else {}
            model = mlflow.pyfunc.load_model(str(found.path), **config)
        else:
            if options.parameters:
                log.warning("MODEL_CONFIG has no effect: it is for models of MLflow's")
            model = kinds.load(found, options)
    except BaseException as error:  # the user's model: it may call sys.exit, or panic in Rust
        log.debug("loading %s failed", address, exc_info=error)
        raise StartupError(f"the model {address} cannot be loaded: {_cause(error)}") from error
    loader_module = str(model.loader_module)
    log.info("loaded %s (%s) in %.2f s", address, loader_module, time.monotonic() - started)
    example = _example(model, found.path) if found.kind == kinds.MLFLOW else None
    return LoadedModel(model, loader_module, address, example)


def _found(address: str, path: Path, options: kinds.Options) -> kinds.Found:
    try:
        return kinds.find(path, options.kind)
    except kinds.Unloadable as error:
        raise StartupError(f"the model {address} {error}") from error
    except OSError as error:
        raise StartupError(f"the model {address} cannot be read: {error.strerror}") from error


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


def locate(address: str, cache_dir: str = "") -> Path:
    """Give where a model, or a repository, is on this machine; what is elsewhere is fetched.

    Raises: StartupError
    """
    if not addresses.is_remote(address):
        return addresses.local(address)
    path = addresses.fetch(address, addresses.directory(cache_dir))
    addresses.hold(path)  # as long as this process, or one that it forks, lives
    return path


def _cause(error: BaseException) -> str:
    """Name the error and the last line of code that was not a library's."""
    if isinstance(error, kinds.Unloadable):
        return str(error)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not frame.filename.startswith(_OURS)
    ]
    text = " ".join(str(error).split()) or "no reason given"
    where = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"
