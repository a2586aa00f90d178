"""What a model asks of its server, said in its metadata when it was logged.

>>> mlflow.pyfunc.log_model(..., metadata={"pyfuncserver": {"threads": "1 fixed"}})
"""

from __future__ import annotations

import logging
from typing import Any

from pyfuncserver.config import FIXED_THREAD

KEY = "pyfuncserver"
THREADS = "threads"

log = logging.getLogger(__name__)


def belongs_to_thread(model: Any) -> bool:
    """Tell whether a loaded pyfunc model wants each prediction on one and the same thread."""
    wishes = _wishes(model)
    for key in set(wishes) - {THREADS}:
        log.warning("the model's metadata wish for %s.%s, which is not known", KEY, key)
    threads = wishes.get(THREADS)
    if threads not in (None, FIXED_THREAD):
        log.warning("the model's metadata wish for threads=%r; known is %r", threads, FIXED_THREAD)
    return bool(threads == FIXED_THREAD)


def _wishes(model: Any) -> dict[str, Any]:
    # MLflow before 2.5 keeps no metadata of that kind, and a model may have none.
    metadata = getattr(getattr(model, "metadata", None), "metadata", None)
    wishes = metadata.get(KEY) if isinstance(metadata, dict) else None
    if wishes is None or isinstance(wishes, dict):
        return wishes or {}
    log.warning("the model's metadata wish for %s=%r, which is no mapping", KEY, wishes)
    return {}
