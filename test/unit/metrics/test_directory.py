from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from pyfuncserver.errors import StartupError
from pyfuncserver.metrics import directory


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the variable back, which the process under test would keep."""
    monkeypatch.setenv(directory.VARIABLE, "")


def test_private_directory_is_removed_at_the_end() -> None:
    with directory.prepared("") as path:
        assert path.is_dir()
        assert path.stat().st_mode & 0o077 == 0, "nobody else may read it"
        assert os.environ[directory.VARIABLE] == str(path)
        (path / "counter_0.db").touch()
    assert not path.exists()


def test_private_directory_is_removed_after_an_error() -> None:
    with pytest.raises(RuntimeError), directory.prepared("") as path:
        raise RuntimeError
    assert not path.exists()


def test_given_directory_is_made_and_kept(tmp_path: Path) -> None:
    wanted = tmp_path / "a" / "b"
    with directory.prepared(str(wanted)) as path:
        assert path == wanted
        assert os.environ[directory.VARIABLE] == str(wanted)
    assert wanted.is_dir()


def test_only_metric_files_are_removed(tmp_path: Path) -> None:
    for name in ("counter_0.db", "gauge_livesum_1.db", "notes.txt", "a.db.bak", "db"):
        (tmp_path / name).write_text("x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "counter_0.db").write_text("x")
    with directory.prepared(str(tmp_path)):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"notes.txt", "a.db.bak", "db", "sub/counter_0.db"}


def test_file_in_its_place_is_a_startup_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(StartupError) as caught, directory.prepared(str(file)):
        pass
    assert directory.VARIABLE in str(caught.value)
    assert str(file) in str(caught.value)
    assert file.read_text() == "mine"


def test_retired_identity_leaves_its_counts_and_its_neighbours(tmp_path: Path) -> None:
    kept = ["counter_1.db", "histogram_1.db", "gauge_max_1.db", "gauge_livesum_11.db"]
    kept += ["gauge_livesum_0.db", "gauge_livemax_host1.db"]
    gone = ["gauge_livesum_1.db", "gauge_livemax_1.db", "gauge_liveall_1.db"]
    gone += ["counter_1.db.new"]
    for name in kept + gone:
        (tmp_path / name).write_bytes(b"\0" * 16)
    directory.retire(tmp_path, "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_torn_files_of_the_identity_are_removed(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").write_bytes(b"")
    (tmp_path / "histogram_1.db").write_bytes(b"\0" * 7)
    (tmp_path / "counter_0.db").write_bytes(b"")
    (tmp_path / "summary_1.db").write_bytes(b"\0" * 8)
    directory.retire(tmp_path, "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counter_0.db", "summary_1.db"]


def test_private_directory_is_where_a_file_can_be_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full, roomy = tmp_path / "full", tmp_path / "roomy"
    full.mkdir()
    roomy.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    monkeypatch.setattr(directory, "SHARED_MEMORY", str(roomy))
    make = directory.make_file

    def refuse(path: Path) -> None:
        if full in path.parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        make(path)

    monkeypatch.setattr(directory, "make_file", refuse)
    with directory.prepared("") as path:
        assert path.parent == roomy
        assert list(path.iterdir()) == []
    assert list(full.iterdir()) == []

    monkeypatch.setattr(directory, "SHARED_MEMORY", str(tmp_path / "missing"))
    with pytest.raises(StartupError) as caught, directory.prepared(""):
        pass
    for words in (directory.VARIABLE, str(full), "No space left", "missing"):
        assert words in str(caught.value)
    assert list(full.iterdir()) == []


def test_given_directory_that_cannot_be_written_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "counter_0.db").touch()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    # As root one may write anywhere, so the file system's answer is given in its place.
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with directory.prepared(str(tmp_path)) as path:
        assert path == tmp_path
        directory.retire(tmp_path, "0")
        directory.retire(tmp_path, "0")
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    removal, use = (record.getMessage() for record in caplog.records)
    assert str(tmp_path) in removal
    assert directory.VARIABLE in use
    assert "Read-only file system" in use


def test_a_disk_that_fails_does_not_stop_the_supervisor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "glob", fail)
    directory.retire(tmp_path, "0")
    directory.retire(tmp_path, "1")
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_directory_that_is_gone_needs_no_retiring(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory.retire(tmp_path / "gone", "1")
    assert caplog.records == []


def test_nothing_to_retire(tmp_path: Path) -> None:
    directory.retire(tmp_path, "1")
    assert list(tmp_path.iterdir()) == []


def test_another_daemons_files_are_spared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with directory.prepared(str(tmp_path)):
        (tmp_path / "counter_0.db").write_bytes(b"figures")
        with directory.prepared(str(tmp_path)):
            assert (tmp_path / "counter_0.db").exists()
        assert "another daemon" in caplog.text
    with directory.prepared(str(tmp_path)):
        assert not (tmp_path / "counter_0.db").exists()
