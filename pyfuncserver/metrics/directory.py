"""The directory in which the metrics of all processes meet.

``prometheus_client`` decides when it is imported whether there are several processes, by one
variable; so this runs first of all, and imports none of it.

A process writes under an identity that outlives it: the number of its slot, not its pid. A worker
that replaces another goes on counting where that one stopped, and the files never grow in number.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyfuncserver.errors import StartupError

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_SMALLEST_FILE_BYTES = 8  # prometheus_client's file begins with its length and four empty bytes


@contextmanager
def prepared(path: str) -> Iterator[Path]:
    """Give an empty metrics directory: ``path``, or a private one that is removed at the end."""
    if glob.escape(path) != path:
        raise StartupError(f"{VARIABLE}={path!r} cannot be used: it holds one of * ? [")
    try:
        made = path or tempfile.mkdtemp(prefix="pyfuncserver-metrics-")
        # Absolute, for the user's code may go elsewhere.
        directory = Path(made).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        _remove(directory.glob("*.db"))
    except OSError as error:
        raise StartupError(f"{VARIABLE}={path!r} cannot be used: {error}") from None
    os.environ[VARIABLE] = str(directory)
    try:
        yield directory
    finally:
        if not path:
            shutil.rmtree(directory, ignore_errors=True)


def retire(directory: Path, identity: str) -> None:
    """Forget what was only true while the process of this identity lived."""
    _remove(directory.glob(f"gauge_live*_{identity}.db"))
    # A process killed while it made a file leaves one without a header, which nobody could read.
    torn = [f for f in directory.glob(f"*_{identity}.db") if _size(f) < _SMALLEST_FILE_BYTES]
    _remove(iter(torn))


def _remove(files: Iterator[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _size(file: Path) -> int:
    return file.stat().st_size
