"""The directory in which the metrics of all processes meet.

``prometheus_client`` decides when it is imported whether there are several processes, by one
variable; so this runs first of all, and imports none of it.

A process writes under an identity that outlives it: the number of its slot, not its pid. A worker
that replaces another goes on counting where that one stopped, and the files never grow in number.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import glob
import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pyfuncserver.errors import StartupError

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SHARED_MEMORY = "/dev/shm"
FILE_BYTES = 1 << 16
_SMALLEST_FILE_BYTES = 8  # prometheus_client's file begins with its length and four empty bytes
_DRAFT = ".new"
_NO_SUCH_CALL = (errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.ENOSYS)

log = logging.getLogger(__name__)


@contextmanager
def prepared(path: str) -> Iterator[Path]:
    """Give an empty metrics directory: ``path``, or a private one that is removed at the end."""
    directory = _given(path) if path else _private()
    os.environ[VARIABLE] = str(directory)
    with _claimed(directory) as is_ours:
        if path and is_ours:
            _clear(directory)
        try:
            yield directory
        finally:
            if not path:
                shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _claimed(directory: Path) -> Iterator[bool]:
    """Hold a lock on a directory; False where another daemon has it, whose files are spared."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:  # one may write there, and not look around
        log.debug("%s cannot be locked: %s", directory, error)
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = True
    except BlockingIOError:
        log.error("another daemon uses %s=%s, too: figures will be mixed", VARIABLE, directory)
        is_ours = False
    except OSError as error:  # a file system without locks
        log.debug("%s cannot be locked: %s", directory, error)
        is_ours = True
    try:
        yield is_ours
    finally:
        os.close(descriptor)


def _given(path: str) -> Path:
    if glob.escape(path) != path:
        raise StartupError(f"{VARIABLE}={path!r} cannot be used: it holds one of * ? [")
    # Absolute, for the user's code may go elsewhere.
    directory = Path(path).absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"{VARIABLE}={path!r} cannot be used: {error}") from None
    return directory


def _clear(directory: Path) -> None:
    _remove(_found(directory, "*.db") + _found(directory, f"*.db{_DRAFT}"))
    try:
        _try_out(directory)
    except OSError as error:
        log.error("metrics will not be told, for %s=%s: %s", VARIABLE, directory, error.strerror)


def _private() -> Path:
    reasons = []
    for parent in _temporary_places():
        try:
            directory = Path(tempfile.mkdtemp(prefix="pyfuncserver-metrics-", dir=parent))
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
            continue
        try:
            _try_out(directory)
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
            shutil.rmtree(directory, ignore_errors=True)
        else:
            return directory.absolute()
    raise StartupError(
        f"no place for metrics can be written ({'; '.join(reasons)}): "
        f"set {VARIABLE} to a directory that can"
    )


def _temporary_places() -> list[str]:
    try:
        return [tempfile.gettempdir(), SHARED_MEMORY]
    except FileNotFoundError:  # none can be written
        return [SHARED_MEMORY]


def _try_out(directory: Path) -> None:
    """Make and map a file as metrics need it. Raises: OSError."""
    file = directory / "try.db"
    make_file(file)
    try:
        with file.open("r+b") as opened, closing(mmap.mmap(opened.fileno(), FILE_BYTES)) as mapped:
            mapped[0] = 0
    finally:
        file.unlink()


def make_file(path: Path) -> None:
    """Make, or replace, a file of zeros whose blocks exist; nobody sees it before it is whole.

    Raises: OSError.
    """
    draft = path.with_name(path.name + _DRAFT)
    try:
        with draft.open("w+b") as file:
            allocate(file.fileno(), 0, FILE_BYTES)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def allocate(descriptor: int, size: int, wanted: int) -> None:
    """Let a file of that size grow; its blocks exist, so that no write to a mapping can fail.

    Raises: OSError where there is no room.
    """
    try:
        os.posix_fallocate(descriptor, size, wanted - size)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise
        while size < wanted:
            size += os.pwrite(descriptor, bytes(wanted - size), size)


def retire(directory: Path, identity: str) -> None:
    """Forget what was only true while the process of this identity lived."""
    _remove(_found(directory, f"gauge_live*_{identity}.db"))
    _remove(_found(directory, f"*_{identity}.db{_DRAFT}"))
    # A file without a header nobody could read.
    _remove([file for file in _found(directory, f"*_{identity}.db") if _is_torn(file)])


def _found(directory: Path, pattern: str) -> list[Path]:
    try:
        return list(directory.glob(pattern))
    except OSError as error:  # the disk fails, or this process may open no more files
        complain(f"metric files cannot be looked for in {directory}: {error.strerror}")
        return []


def _remove(files: list[Path]) -> None:
    """Remove what can be; predictions do not depend on it."""
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            complain(f"metric files cannot be removed from {file.parent}: {error.strerror}")


@functools.cache
def complain(text: str) -> None:
    """Log it once."""
    log.error(text)


def _is_torn(file: Path) -> bool:
    try:
        return file.stat().st_size < _SMALLEST_FILE_BYTES
    except OSError:
        return False
