"""Fetching through MLflow's own interface for repositories, from one that does what it is told."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import FileInfo
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from pyfuncserver.errors import StartupError
from pyfuncserver.model import addresses, loader
from pyfuncserver.model.addresses import cache as caches
from pyfuncserver.model.addresses import download, progress, source

ADDRESS = "shelf://shop/model"


class Store:
    """What the repository has, and what befalls it."""

    def __init__(self) -> None:
        self.files = {"MLmodel": b"id: 1", "data/model.pkl": b"weights", "empty": b""}
        self.fetched: Counter[str] = Counter()
        self.before: Callable[[str, Path], None] = lambda name, path: None
        """Called with the name and the target of each file that is fetched."""
        self.odd_names: list[str] = []
        self.sizes_are_told = True


class ShelfRepository(ArtifactRepository):
    store: Store

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        raise NotImplementedError

    log_artifacts = log_artifact

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        start = "model/" + (f"{path}/" if path else "")
        if self.artifact_uri == "shelf://shop":  # the directory above it
            start = ""
        names = {f"model/{name}": len(data) for name, data in self.store.files.items()}
        infos: dict[str, FileInfo] = {}
        for name, size in names.items():
            if name.startswith(start) and not self.artifact_uri.endswith(("MLmodel", "nothing")):
                head, slash, _ = name.removeprefix(start).partition("/")
                whole = (start + head).removeprefix("model/" if start else "")
                told = size if self.store.sizes_are_told else None
                infos[whole] = FileInfo(whole, bool(slash), None if slash else told)
        infos.update({name: FileInfo(name, False, 1) for name in self.store.odd_names})
        return list(infos.values())

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        name = remote_file_path.removeprefix("model/")
        self.store.fetched[name] += 1
        self.store.before(name, Path(local_path))
        Path(local_path).write_bytes(self.store.files[name])


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    registry = artifact_repository_registry._artifact_repository_registry
    made = Store()
    monkeypatch.setattr(ShelfRepository, "store", made, raising=False)
    monkeypatch.setattr(registry, "_registry", {**registry._registry, "shelf": ShelfRepository})
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.001)
    return made


def contents(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def refusal(address: str, cache: Path) -> str:
    with pytest.raises(StartupError) as caught:
        addresses.fetch(address, cache)
    text = str(caught.value)
    assert text.splitlines() == [text]
    assert text.startswith(f"the model {address} cannot be fetched: ")
    return text


def test_all_files_are_there(store: Store, tmp_path: Path) -> None:
    path = addresses.fetch(ADDRESS, tmp_path)
    assert contents(path) == store.files
    assert list(tmp_path.iterdir()) == [path]


def test_sizes_need_not_be_told(store: Store, tmp_path: Path) -> None:
    store.sizes_are_told = False
    assert contents(addresses.fetch(ADDRESS, tmp_path)) == store.files


def test_same_model_is_fetched_once(store: Store, tmp_path: Path) -> None:
    path = addresses.fetch(ADDRESS, tmp_path)
    store.fetched.clear()
    assert addresses.fetch(ADDRESS, tmp_path) == path
    assert set(store.fetched) == {"MLmodel"}, "which tells one model from another"


def test_changed_model_is_fetched(store: Store, tmp_path: Path) -> None:
    first = addresses.fetch(ADDRESS, tmp_path)
    store.files |= {"MLmodel": b"id: 2", "data/model.pkl": b"WEIGHTS"}
    second = addresses.fetch(ADDRESS, tmp_path)
    assert contents(second) == store.files
    assert contents(first)["data/model.pkl"] == b"weights"


def test_repository_of_models_is_fetched_once(store: Store, tmp_path: Path) -> None:
    store.files = {"a/1/MLmodel": b"id: 1", "a/1/data/x": b"x", "b/MLmodel": b"id: 2"}
    first = addresses.fetch(ADDRESS, tmp_path)
    assert addresses.fetch(ADDRESS, tmp_path) == first
    store.files["b/MLmodel"] = b"id: 3"
    second = addresses.fetch(ADDRESS, tmp_path)
    assert contents(second) == store.files
    store.files["b.joblib"] = b"of another kind"
    third, fourth = addresses.fetch(ADDRESS, tmp_path), addresses.fetch(ADDRESS, tmp_path)
    assert len({first, second, third, fourth}) == 4


def test_what_cannot_be_told_apart_is_fetched_each_time(store: Store, tmp_path: Path) -> None:
    del store.files["MLmodel"]
    first = addresses.fetch(ADDRESS, tmp_path)
    store.files["data/model.pkl"] = b"WEIGHTS"
    second = addresses.fetch(ADDRESS, tmp_path)
    assert contents(first)["data/model.pkl"] == b"weights"
    assert contents(second)["data/model.pkl"] == b"WEIGHTS"


def test_single_file(store: Store, tmp_path: Path) -> None:
    store.files = {"one.joblib": b"1", "two": b"2"}
    repository = artifact_repository_registry.get_artifact_repository(ADDRESS)
    found = source.parent_of(source.Source(repository, f"{ADDRESS}/one.joblib"))
    assert found is not None
    parent, name = found
    assert (parent.location, name) == (ADDRESS, "one.joblib")
    assert source.parent_of(source.Source(None, "s3://bucket")) is None
    assert (
        source.parent_of(source.Source(None, "http://h/api/2.0/mlflow-artifacts/artifacts")) is None
    )


def test_incomplete_entry_is_fetched_again(store: Store, tmp_path: Path) -> None:
    path = addresses.fetch(ADDRESS, tmp_path)
    (path / "data" / "model.pkl").unlink()  # by a cleaner of temporary files
    assert addresses.fetch(ADDRESS, tmp_path) == path
    assert contents(path) == store.files
    assert list(tmp_path.iterdir()) == [path]


def failing(store: Store, error: Exception, times: int) -> None:
    left = [times]

    def fail(name: str, path: Path) -> None:
        if name == "data/model.pkl" and left[0]:
            left[0] -= 1
            path.write_bytes(b"wei")
            raise error

    store.before = fail


def test_broken_connection_is_tried_again(store: Store, tmp_path: Path) -> None:
    failing(store, ConnectionResetError("gone"), download.ATTEMPTS - 1)
    assert contents(addresses.fetch(ADDRESS, tmp_path)) == store.files


def test_broken_each_time(store: Store, tmp_path: Path) -> None:
    failing(store, ConnectionResetError("gone"), 1000)
    assert "ConnectionResetError: gone" in refusal(ADDRESS, tmp_path)
    assert store.fetched["data/model.pkl"] == download.ATTEMPTS
    (draft,) = tmp_path.iterdir()
    assert draft.name.endswith(".draft")
    failing(store, ConnectionResetError("gone"), 0)
    store.fetched.clear()
    assert contents(addresses.fetch(ADDRESS, tmp_path)) == store.files
    assert store.fetched["empty"] == 0, "it was there from the attempt before"


def test_refused_file_is_not_tried_again(store: Store, tmp_path: Path) -> None:
    failing(store, PermissionError("not yours"), 1000)
    assert "PermissionError: not yours" in refusal(ADDRESS, tmp_path)
    assert store.fetched["data/model.pkl"] == 1


def test_full_disk(store: Store, tmp_path: Path) -> None:
    failing(store, OSError(errno.ENOSPC, "No space left on device"), 1000)
    assert f"the disk of {tmp_path} is full (MODEL_CACHE_DIR)" in refusal(ADDRESS, tmp_path)


def test_disk_that_is_too_small(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 0, 3))
    text = refusal(ADDRESS, tmp_path)
    assert "it needs 0.0 MB more" in text
    assert set(store.fetched) == {"MLmodel"}


def test_old_models_make_room(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = addresses.fetch(ADDRESS, tmp_path)
    long_ago = time.time() - 2 * caches.SETTLED_S
    os.utime(old, (long_ago, long_ago))

    def usage(path: Path) -> Any:
        return shutil._ntuple_diskusage(20, 0, 0 if old.exists() else 20)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    store.files["MLmodel"] = b"id: 2"
    assert contents(addresses.fetch(ADDRESS, tmp_path)) == store.files
    assert not old.exists()


def test_server_that_is_down_is_given_up_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's library would try seven times more, with pauses that add up to four minutes."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    calls: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, caller = listener.accept()
                    calls.append(caller)
                    connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        port = listener.getsockname()[1]
        try:
            refusal(f"http://127.0.0.1:{port}/api/2.0/mlflow-artifacts/artifacts/0/x", tmp_path)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert len(calls) == 4


def test_changed_while_it_is_fetched(store: Store, tmp_path: Path) -> None:
    """Once in a way that shows in a length, once in an id."""
    changes = iter(
        [{"data/model.pkl": b"longer weights", "MLmodel": b"id: 2"}, {"MLmodel": b"ID3"}]
    )

    def change(name: str, path: Path) -> None:
        if name == "data/model.pkl":
            store.files |= next(changes, {})

    store.before = change
    path = addresses.fetch(ADDRESS, tmp_path)
    assert contents(path) == store.files
    assert store.files["MLmodel"] == b"ID3"
    assert list(tmp_path.iterdir()) == [path]


def test_changing_all_the_time(store: Store, tmp_path: Path) -> None:
    def change(name: str, path: Path) -> None:
        store.files["MLmodel"] = b"id: %d" % (100 + store.fetched.total())

    store.before = change
    assert "changed each time" in refusal(ADDRESS, tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".draft")]


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../../b", "a\nb", "a/./b", "a//b"]
)
def test_names_that_lead_elsewhere(store: Store, tmp_path: Path, name: str) -> None:
    store.odd_names = [name]
    assert "whose name cannot be used" in refusal(ADDRESS, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("shelf://shop/nothing", "nothing is there: it does not exist, or is empty"),
        ("strange://a/b", "the scheme 'strange' is unknown; known are abfss, "),
        ("http://host/model.zip", "it is not the URL of artifacts of an MLflow server"),
        ("models:/a/1", "MLFLOW_TRACKING_URI or MLFLOW_REGISTRY_URI has to be set"),
        ("runs:/a/b", "MLFLOW_TRACKING_URI has to be set"),
        ("mlflow-artifacts:/a", "MLFLOW_TRACKING_URI has to be set"),
    ],
)
def test_refused_addresses(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, cause: str
) -> None:
    for name in (source.TRACKING, source.REGISTRY):
        monkeypatch.delenv(name, raising=False)
    assert cause in refusal(address, tmp_path)


@pytest.mark.parametrize(("address", "extra"), [("s3://bucket/a", "s3"), ("gs://bucket/a", "gcs")])
def test_missing_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, extra: str
) -> None:
    for name in ("boto3", "google.cloud"):
        monkeypatch.setitem(sys.modules, name, None)
    assert f"pip install 'pyfuncserver[{extra}]'" in refusal(address, tmp_path)


def test_progress_in_a_log(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0)
    store.files["data/model.pkl"] = b"x" * 2_000_000
    addresses.fetch(ADDRESS, tmp_path)
    assert "fetching the model: 2.0 of 2.0 MB (100 %)" in caplog.text
    assert f"fetched {ADDRESS}: 3 files, 2.0 MB, in " in caplog.text


def test_progress_on_a_terminal(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    store.files["data/model.pkl"] = b"x" * 2_000_000
    addresses.fetch(ADDRESS, tmp_path)
    assert "fetching the model" in terminal.getvalue()
    assert "100%" in terminal.getvalue()


def test_variables_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with source.variables(source.PATIENCE):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_loader_fetches(
    store: Store, echo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Any] = []
    monkeypatch.setattr(addresses, "hold", held.append)
    store.files = contents(echo_model)
    loaded = loader.load("shelf://me:secret@shop/model", cache_dir=str(tmp_path))
    assert loaded.pyfunc.predict([1]) == [1]
    assert loaded.address == "shelf://***@shop/model"
    (path,) = held
    assert path.parent == tmp_path


def test_no_room_is_left_for_old_models(store: Store, tmp_path: Path) -> None:
    for number in range(caches.KEPT_ENTRIES + 2):
        store.files["MLmodel"] = b"id: %d" % number
        addresses.fetch(ADDRESS, tmp_path)
    assert len(list(tmp_path.iterdir())) == caches.KEPT_ENTRIES


@pytest.mark.filterwarnings("ignore")  # of SQLAlchemy and MLflow, about their own code
def test_registry_whose_artifacts_are_on_this_machine(
    echo_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import mlflow

    caplog.set_level("INFO", "pyfuncserver")
    monkeypatch.setenv(source.TRACKING, str(tmp_path / "mlruns"))  # a database takes ten seconds
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))
    run = client.create_run(experiment)
    client.log_artifacts(run.info.run_id, str(echo_model), "model")
    client.create_registered_model("echo")
    location = f"{run.info.artifact_uri}/model"
    client.create_model_version("echo", location, run.info.run_id)
    client.set_registered_model_alias("echo", "champion", "1")
    cache = tmp_path / "cache"
    cache.mkdir()
    forms = [f"runs:/{run.info.run_id}/model", "models:/echo/1", "models:/echo@champion"]
    for address in forms:
        path = addresses.fetch(address, cache)
        assert contents(path) == contents(echo_model)
        assert path == Path(location).resolve()
    assert f"models:/echo@champion is version 1, at {path}" in caplog.text
    assert list(cache.iterdir()) == []
    shutil.rmtree(tmp_path / "artifacts")
    assert "this machine has no such path" in refusal("models:/echo/latest", cache)
