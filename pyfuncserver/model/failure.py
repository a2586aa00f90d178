"""What a client is told of a model's fault, and what the log keeps of it."""

from __future__ import annotations

import logging
import uuid

from pyfuncserver.errors import ModelFailed

log = logging.getLogger("pyfuncserver.model")


def model_failed(what: str, error: BaseException) -> ModelFailed:
    """Log a model's fault with its traceback, once; give the error that names only its id."""
    error_id = uuid.uuid4().hex
    said = f"{type(error).__name__}: {error}"
    log.error("%s, error_id=%s: %s", what, error_id, said, exc_info=error)
    return ModelFailed(what, error_id)
