"""Fetched models: drafts while they arrive, entries once they are whole.

::

    <directory>/<key>            an entry: a model's files, every one of them
    <directory>/<key>.draft/     what has arrived of it so far: files/, and parts-*/ of files
    <directory>/peek-*/          a look at an MLmodel file (see `listing`)
    <directory>/removed-*/       on their way out

A key is a hash of where a model lies and of what lies there, so what has changed has another key.
An entry appears by one rename. Locks (flock) are on the directories themselves, and go with the
process that has them: a draft's is held by the one that fetches it; an entry's is shared by those
that use it (:func:`hold`), and what somebody uses is never removed.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyfuncserver.errors import StartupError
from pyfuncserver.model.addresses.listing import PEEK, Item

VARIABLE = "MODEL_CACHE_DIR"
KEPT_ENTRIES = 3
"""The entries used last stay, in use or not: the model before this one, for a way back."""
KEPT_S = 3600.0
"""How long a draft waits for somebody who goes on with it."""
SETTLED_S = 60.0
"""After it was used so long ago an entry is held by whoever has asked for it, or by nobody."""

_KEY = re.compile(r"[0-9a-f]{32}")
_DRAFT = re.compile(r"[0-9a-f]{32}\.draft")
_REMOVED = "removed-"

log = logging.getLogger(__name__)


def directory(configured: str) -> Path:
    """Give the directory for fetched models, made where it is missing.

    By default ``pyfuncserver`` in the user's cache directory (XDG Base Directory Specification);
    where there is none that can be written, one of the user's own among the temporary files.

    Raises: StartupError
    """
    if configured:
        path = Path(configured).absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise StartupError(f"{VARIABLE}={configured!r} cannot be used: {reason}") from None
        return path
    return _in_users_cache() or _among_temporary_files()


def _in_users_cache() -> Path | None:
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # "If an implementation encounters a relative path [it] should consider [it] invalid".
        parent = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
        if not given and not Path.home().is_dir():
            return None
        path = parent / "pyfuncserver"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # of Path.home: this user has none
        return None
    return path if os.access(path, os.W_OK | os.X_OK) else None


def _among_temporary_files() -> Path:
    """Give a directory that is surely this user's: to load a model is to run its code."""
    try:
        path = Path(tempfile.gettempdir()).absolute() / f"pyfuncserver-{os.getuid()}"
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        reason = error.strerror or error
        raise StartupError(
            f"no place for fetched models can be written ({reason}): set {VARIABLE}"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StartupError(
            f"{path} belongs to somebody else or can be written by others: set {VARIABLE}"
        )
    return path


def hold(path: Path) -> int | None:
    """Keep a fetched model from being removed while this process lives, or the descriptor is open.

    Takes what :func:`fetch` gave; gives the descriptor, which forked processes share, and None
    for a path that is in no cache. Raises: StartupError where the model is gone already.
    """
    entry = next((p for p in (path, *path.parents) if _KEY.fullmatch(p.name)), None)
    if entry is None:
        return None
    try:
        descriptor = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise _gone(path) from None
    except OSError as error:
        log.debug("%s cannot be opened: %s", entry, error)
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # after somebody who is removing it
    except OSError as error:  # a file system without locks
        log.debug("%s cannot be locked: %s", entry, error)
    if not _is_still(descriptor, entry):
        os.close(descriptor)
        raise _gone(path)
    return descriptor


def _gone(path: Path) -> StartupError:
    return StartupError(f"the fetched model {path} is gone: something has removed it")


class Entry:
    """A place in the cache: the whole model, or its draft."""

    def __init__(self, cache: Path, key: str) -> None:
        self._cache = cache
        self.path = cache / key
        self._draft = cache / f"{key}.draft"

    def is_whole(self, items: list[Item]) -> bool:
        """Tell whether every file is there with its size: a disk's cleaner may have been there."""
        return self.path.is_dir() and all(_is_there(self.path, item) for item in items)

    def touch(self) -> None:
        """Count it as used just now."""
        try:
            os.utime(self.path)
        except OSError as error:  # a cache that others fill
            log.debug("%s cannot be touched: %s", self.path, error)

    @contextmanager
    def drafting(self) -> Iterator[Draft]:
        """Hold the draft's lock, after whoever has it now. Raises: OSError."""
        descriptor = self._lock()
        try:
            yield Draft(self._draft)
        finally:
            os.close(descriptor)

    def publish(self) -> None:
        """Let the entry appear, in the place of one that is not whole. Raises: OSError."""
        if self.path.exists():
            _remove(self.path)
        (self._draft / "files").rename(self.path)
        shutil.rmtree(self._draft, ignore_errors=True)
        self.touch()

    def discard(self) -> None:
        """Remove the draft, of which nothing is of use any more."""
        _remove(self._draft)

    def _lock(self) -> int:
        while True:
            self._draft.mkdir(exist_ok=True)
            try:
                descriptor = os.open(self._draft, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # it has just been published, or removed
                continue
            try:
                _wait_for_lock(descriptor)
                if _is_still(descriptor, self._draft):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def tidy(self) -> None:
        """Remove what was not used for long and is not in use, but neither this nor its draft."""
        found = self._others()
        entries = [p for p in found if _KEY.fullmatch(p.name)]
        drafts = [p for p in found if not _KEY.fullmatch(p.name) and _unused_s(p) > KEPT_S]
        for path in [*entries[KEPT_ENTRIES - 1 :], *drafts]:
            _remove_unused(path, "not used for long")

    def make_room(self, needed: int) -> int:
        """Remove what is not in use, the oldest first, while less than so many bytes are free.

        Gives the bytes that are free then.
        """
        for path in reversed(self._others()):
            if shutil.disk_usage(self._cache).free >= needed:
                break
            if _unused_s(path) > SETTLED_S and not path.name.startswith(PEEK):
                _remove_unused(path, "the disk is full")
        return shutil.disk_usage(self._cache).free

    def _others(self) -> list[Path]:
        """List the other entries, drafts and looks, the last used first; empty the trash."""
        try:
            found = sorted(self._cache.iterdir(), key=_unused_s)
        except OSError as error:
            log.warning("%s cannot be tidied: %s", self._cache, error.strerror)
            return []
        for path in found:
            # Not what somebody is about to move something into.
            if path.name.startswith(_REMOVED) and _unused_s(path) > SETTLED_S:
                shutil.rmtree(path, ignore_errors=True)
        kinds = re.compile(f"{_KEY.pattern}|{_DRAFT.pattern}|{PEEK}.*")
        return [p for p in found if kinds.fullmatch(p.name) and p not in (self.path, self._draft)]


class Draft:
    """What has arrived of a model so far. Files are put in their places when they are whole.

    Its methods may be called by several threads.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = path / "files"
        self._files.mkdir(exist_ok=True)
        for left in path.glob("parts-*"):  # by one who was interrupted
            shutil.rmtree(left, ignore_errors=True)
        self._parts = Path(tempfile.mkdtemp(prefix="parts-", dir=path))

    def has(self, item: Item) -> bool:
        """Tell whether a file has arrived, be it at an earlier attempt."""
        return _is_there(self._files, item)

    def part(self, number: int) -> Path:
        """Give the path of a file that is still arriving."""
        return self._parts / str(number)

    def put(self, part: Path, item: Item) -> None:
        """Put a file that is whole in its place. Raises: OSError."""
        target = self._files / item.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        os.utime(self._path)

    def arriving_bytes(self) -> int:
        """Measure the files that are still arriving, by the blocks that they have on the disk.

        Not by their lengths: some downloaders make a file of full length first, and fill it.
        """
        total = 0
        for part in self._parts.iterdir():
            try:
                found = part.stat()
            except FileNotFoundError:  # it is whole
                continue
            total += min(found.st_size, found.st_blocks * 512)
        return total


def _wait_for_lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("another process fetches this model; waiting for it")
        # Without a timeout: the one that is waited for makes progress, or fails, or dies.
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_there(root: Path, item: Item) -> bool:
    try:
        found = (root / item.path).stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and item.size in {None, found.st_size}


def _unused_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:  # somebody has removed it
        return math.inf


def _remove_unused(path: Path, why: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # somebody else has removed it
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
        log.info("removed %s from the models' cache: %s", path.name, why)
    except OSError as error:  # in use; or it cannot be locked
        log.debug("%s is left where it is: %s", path, error)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Let it vanish at once, and then remove its files. Raises: OSError."""
    trash = Path(tempfile.mkdtemp(prefix=_REMOVED, dir=path.parent))
    path.rename(trash / path.name)
    shutil.rmtree(trash, ignore_errors=True)
