from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from pyfuncserver.errors import StartupError
from pyfuncserver.model import addresses
from pyfuncserver.model.addresses import cache
from pyfuncserver.model.addresses.cache import Entry
from pyfuncserver.model.addresses.listing import Item

KEYS = [letter * 32 for letter in "abcdef"]
ITEM = Item("sub/file", 4)
LONG_AGO = 2 * cache.KEPT_S


def fill(root: Path, key: str, age_s: float = 0) -> Entry:
    entry = Entry(root, key)
    with entry.drafting() as draft:
        part = draft.part(0)
        part.write_bytes(b"data")
        draft.put(part, ITEM)
        entry.publish()
    then = time.time() - age_s
    os.utime(entry.path, (then, then))
    return entry


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_configured_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert addresses.directory("a/b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="MODEL_CACHE_DIR='file/x' cannot be used: Not a dir"):
        addresses.directory("file/x")


def test_users_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert addresses.directory("") == tmp_path / ".cache" / "pyfuncserver"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert addresses.directory("") == tmp_path / ".cache" / "pyfuncserver"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert addresses.directory("") == tmp_path / "xdg" / "pyfuncserver"
    assert (tmp_path / "xdg" / "pyfuncserver").stat().st_mode & 0o077 == 0


def test_without_a_home(no_home: None, tmp_path: Path) -> None:
    path = addresses.directory("")
    assert path == tmp_path / f"pyfuncserver-{os.getuid()}"
    assert path.stat().st_mode & 0o777 == 0o700
    assert addresses.directory("") == path
    assert not Path("/nonexistent").exists()


def test_a_cache_directory_that_cannot_be_written(
    no_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert addresses.directory("").parent == tmp_path


@pytest.mark.parametrize("how", ["open", "link", "file"])
def test_temporary_directory_of_somebody_else(no_home: None, tmp_path: Path, how: str) -> None:
    path = tmp_path / f"pyfuncserver-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    if how == "open":
        path.mkdir()
        path.chmod(0o777)
    elif how == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.touch()
    with pytest.raises(StartupError, match="set MODEL_CACHE_DIR"):
        addresses.directory("")


def test_entry_appears_whole(tmp_path: Path) -> None:
    entry = Entry(tmp_path, KEYS[0])
    assert not entry.is_whole([ITEM])
    with entry.drafting() as draft:
        assert not draft.has(ITEM)
        part = draft.part(0)
        part.write_bytes(b"da")
        assert not draft.has(ITEM)
        part.write_bytes(b"data")
        assert draft.arriving_bytes() in {0, 4}, "a file system may keep it in no block"
        draft.put(part, ITEM)
        assert draft.has(ITEM)
        assert draft.arriving_bytes() == 0
        assert not entry.path.exists()
        entry.publish()
    assert entry.is_whole([ITEM])
    assert not entry.is_whole([ITEM, Item("other", 1)])
    assert not entry.is_whole([Item("sub/file", 5)])
    assert entry.is_whole([Item("sub/file", None)])
    assert [p.name for p in tmp_path.iterdir()] == [KEYS[0]]


def test_draft_is_gone_on_with(tmp_path: Path) -> None:
    entry = Entry(tmp_path, KEYS[0])
    with entry.drafting() as draft:
        part = draft.part(0)
        part.write_bytes(b"data")
        draft.put(part, ITEM)
        draft.part(1).write_bytes(b"half of anoth")
    with entry.drafting() as draft:
        assert draft.has(ITEM)
        assert draft.arriving_bytes() == 0
        assert not draft.part(1).exists()


def test_last_ones_are_kept(tmp_path: Path) -> None:
    for age, key in enumerate(KEYS):
        fill(tmp_path, key, age_s=age)
    fill(tmp_path, KEYS[0]).tidy()
    assert sorted(p.name for p in tmp_path.iterdir()) == KEYS[: cache.KEPT_ENTRIES]


def test_what_is_in_use_is_kept(tmp_path: Path) -> None:
    used, unused = fill(tmp_path, KEYS[0], LONG_AGO + 1), fill(tmp_path, KEYS[1], LONG_AGO)
    descriptor = addresses.hold(used.path / "sub" / "file")
    assert descriptor is not None
    try:
        for key in KEYS[2:]:
            fill(tmp_path, key)
        fill(tmp_path, KEYS[2]).tidy()
        assert used.path.exists()
        assert not unused.path.exists()
    finally:
        os.close(descriptor)
    fill(tmp_path, KEYS[2]).tidy()
    assert not used.path.exists()


def test_room_is_made_by_what_nobody_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has room for as many entries as are there."""
    used, old, draft = (fill(tmp_path, key, LONG_AGO - age) for age, key in enumerate(KEYS[:3]))
    draft.path.rename(tmp_path / f"{KEYS[2]}.draft")
    recent = fill(tmp_path, KEYS[3])

    def usage(path: Path) -> Any:
        free = 4 * (4 - len(list(path.iterdir())))
        return shutil._ntuple_diskusage(16, 16 - free, free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    descriptor = addresses.hold(used.path)
    assert descriptor is not None
    try:
        assert Entry(tmp_path, KEYS[4]).make_room(4) == 4
        assert {p.name for p in tmp_path.iterdir()} == {
            used.path.name,
            f"{KEYS[2]}.draft",
            recent.path.name,
        }
        assert not old.path.exists()
        assert Entry(tmp_path, KEYS[4]).make_room(12) == 8, "the one in use, and the new one, stay"
    finally:
        os.close(descriptor)


def test_what_is_being_removed_cannot_be_held(tmp_path: Path) -> None:
    entry = fill(tmp_path, KEYS[0])
    remover = os.open(entry.path, os.O_RDONLY)
    fcntl.flock(remover, fcntl.LOCK_EX)
    with ThreadPoolExecutor() as pool:
        held = pool.submit(addresses.hold, entry.path)
        assert not wait([held], 0.1).done
        entry.path.rename(tmp_path / "removed-x")
        os.close(remover)
        with pytest.raises(StartupError, match="is gone: something has removed it"):
            held.result()


def test_what_is_in_no_cache_needs_no_hold(tmp_path: Path) -> None:
    assert addresses.hold(tmp_path) is None
    with pytest.raises(StartupError, match="is gone: something has removed it"):
        addresses.hold(tmp_path / KEYS[0])


@pytest.fixture
def leftovers(tmp_path: Path) -> Iterator[dict[str, Path]]:
    names = {
        "old draft": f"{KEYS[1]}.draft",
        "draft at work": f"{KEYS[2]}.draft",
        "new draft": f"{KEYS[3]}.draft",
        "old peek": "peek-x",
        "removed": "removed-x",
        "new trash": "removed-y",
        "a stranger's": "notes",
    }
    paths = {what: tmp_path / name for what, name in names.items()}
    for what, path in paths.items():
        (path / "files").mkdir(parents=True)
        if not what.startswith("new"):
            os.utime(path, (time.time() - LONG_AGO,) * 2)
    descriptor = os.open(paths["draft at work"], os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield paths
    os.close(descriptor)


def test_leftovers_are_removed(tmp_path: Path, leftovers: dict[str, Path]) -> None:
    fill(tmp_path, KEYS[0]).tidy()
    kept = {what for what, path in leftovers.items() if path.exists()}
    assert kept == {"draft at work", "new draft", "new trash", "a stranger's"}
