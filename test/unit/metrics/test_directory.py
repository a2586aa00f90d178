from __future__ import annotations

import os
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


def test_nothing_to_retire(tmp_path: Path) -> None:
    directory.retire(tmp_path, "1")
    assert list(tmp_path.iterdir()) == []
