from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfuncserver.errors import StartupError
from pyfuncserver.model.repository import has, sources


def made(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def found(root: Path) -> list[tuple[str, str, str]]:
    """Give the full name, the version and the folder of each."""
    return [
        (s.identity.full_name, s.identity.version, str(Path(s.address).relative_to(root)))
        for s in sources(root)
    ]


def test_folders_and_versions(tmp_path: Path) -> None:
    made(
        tmp_path, "b/MLmodel", "b/artifacts/7/x", "a/10/MLmodel", "a/9/model.joblib", "a/v2/MLmodel"
    )
    made(tmp_path, ".git/x/MLmodel", "README.md", "a/.cache/MLmodel", "a/.hidden")
    (tmp_path / "empty").mkdir()
    assert found(tmp_path) == [
        ("a-v2", "v2", "a/v2"),
        ("a-9", "9", "a/9"),
        ("a-10", "10", "a/10"),
        ("b-1", "1", "b"),
        ("empty-1", "1", "empty"),
    ]


def test_folders_with_names_that_no_request_could_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path, "a b/MLmodel", "c/1 2/MLmodel", "c/3/MLmodel")
    assert found(tmp_path) == [("c-3", "3", "c/3")]
    assert "'" not in caplog.text
    assert "a b is left out" in caplog.text


def test_numbers_are_newer_than_words(tmp_path: Path) -> None:
    made(tmp_path, *(f"a/{version}/MLmodel" for version in ("2", "old", "10", "01", "1", "v3")))
    versions = [version for _, version, _ in found(tmp_path)]
    assert versions == ["old", "v3", "01", "1", "2", "10"]


def test_files_beside_versions(tmp_path: Path) -> None:
    made(tmp_path, "a/README.md", "a/config.pbtxt", "a/1/model.onnx", "a/2/model.onnx")
    made(tmp_path, "b/MLmodel", "b/1/data")
    assert found(tmp_path) == [("a-1", "1", "a/1"), ("a-2", "2", "a/2"), ("b-1", "1", "b")]


@pytest.fixture
def nobody() -> Iterator[Path]:
    """Give a directory in which we may do no more than its files' modes say, root or not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            yield Path(directory)
        finally:
            if is_root:
                os.seteuid(0)


def test_a_model_that_may_not_be_read_stops_no_other(nobody: Path) -> None:
    made(nobody, "a/MLmodel", "b/MLmodel")
    (nobody / "a").chmod(0)
    assert found(nobody) == [("a-1", "1", "a"), ("b-1", "1", "b")]
    (nobody / "a").chmod(0o700)


def test_links_are_followed(tmp_path: Path) -> None:
    made(tmp_path, "there/MLmodel")
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "there")
    assert found(root) == [("a-1", "1", "a")]


@pytest.mark.parametrize(
    "files",
    [
        ("a/1/MLmodel", "a-1/MLmodel"),  # the folder a-1, and the full name of a in version 1
        ("a/b-1/MLmodel", "a-b/1/MLmodel"),  # two full names
    ],
)
def test_two_models_of_one_name(tmp_path: Path, files: tuple[str, ...]) -> None:
    with pytest.raises(StartupError, match=r"two models have the name a(-b)?-1: .* and "):
        sources(made(tmp_path, *files))


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="nowhere cannot be read: No such file"):
        sources(tmp_path / "nowhere")


def test_which_names_there_are(tmp_path: Path) -> None:
    made(tmp_path, "a/MLmodel", ".git/MLmodel", "file")
    assert has(tmp_path, "a")
    for name in ("b", "..", ".", ".git", "file", "a/..", "", "a" * 300):
        assert not has(tmp_path, name)
