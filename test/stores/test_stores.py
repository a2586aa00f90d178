"""Models that are elsewhere: real stores, connections that break, processes that are killed."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import shelves
from harness import Daemon, daemon_environment, run_daemon_expecting_exit, wait_until
from servers import CHUNK, FaultyProxy
from shelves import BUCKET, KEY, Registry, Shelf, files_of

from pyfuncserver.errors import StartupError
from pyfuncserver.model import addresses
from pyfuncserver.model.addresses import download

FETCH = """
import sys
from pathlib import Path
from pyfuncserver.model import addresses
from pyfuncserver.utils import logs
logs.configure("INFO")
print(addresses.fetch(sys.argv[1], Path(sys.argv[2])), flush=True)
"""
WEIGHTS = "artifacts/weights.bin"
MEGABYTE = 1_000_000

# Of the stores' libraries, about one another.
pytestmark = [pytest.mark.filterwarnings("ignore::ImportWarning:google")]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.01)


@contextlib.contextmanager
def variables(wanted: Mapping[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", *filter(_is_aws, os.environ)):
            patch.delenv(name, raising=False)
        for name, text in wanted.items():
            patch.setenv(name, text)
        yield


def _is_aws(name: str) -> bool:
    return name.startswith("AWS_")


def fetched(address: str, cache: Path, env: Mapping[str, str]) -> Path:
    with variables(env):
        return addresses.fetch(address, cache)


def refusal(address: str, cache: Path, env: Mapping[str, str]) -> str:
    with variables(env), pytest.raises(StartupError) as caught:
        addresses.fetch(address, cache)
    text = str(caught.value)
    assert text.splitlines() == [text]
    assert text.startswith(f"the model {addresses.shown(address)} cannot be fetched: ")
    assert shelves.S3_KEYS["aws_secret_access_key"] not in text
    assert "geheim" not in text
    return text


def entries(cache: Path) -> list[str]:
    """List what could be taken for a model."""
    return sorted(path.name for path in cache.iterdir() if "." not in path.name)


def test_each_file_comes_as_it_is(shelf: Shelf, model: Path, cache: Path) -> None:
    path = fetched(shelf.address, cache, shelf.env())
    assert files_of(path) == files_of(model)
    assert entries(cache) == [path.name]


@pytest.mark.parametrize("form", ["1", "latest", "@champion", "id", "run", "artifacts", "url"])
def test_forms_of_addresses_of_a_tracking_server(
    registry: Registry, model: Path, cache: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plain = f"0/{registry.run_id}/artifacts/plain"
    url = registry.shelf.url
    address = {
        "1": f"models:/{registry.name}/1",
        "latest": f"models:/{registry.name}/latest",
        "@champion": f"models:/{registry.name}@champion",
        "id": f"models:/{registry.model_id}",
        "run": f"runs:/{registry.run_id}/weighty",
        "artifacts": f"mlflow-artifacts:/{plain}",
        "url": f"http://me:geheim@{url[7:]}/api/2.0/mlflow-artifacts/artifacts/{plain}",
    }[form]
    path = fetched(address, cache, {} if form == "url" else registry.shelf.env())
    assert (path / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    assert (path / "MLmodel").is_file()
    assert "geheim" not in caplog.text
    if form in {"1", "latest", "@champion"}:
        assert f"{address} is version 1, at {url}/" in caplog.text


def test_directory_with_one_file_of_its_name(registry: Registry, cache: Path) -> None:
    from mlflow import MlflowClient

    names = ["MLmodel", "artifacts/vocab/vocab", "a b/a b/a b"]
    client = MlflowClient(registry.shelf.url)
    for name in names:
        client.log_text(registry.run_id, name, f"odd/{name}")
    path = fetched(f"runs:/{registry.run_id}/odd", cache, registry.shelf.env())
    assert files_of(path) == {name: name.encode() for name in names}


class ServerBeforeLoggedModels(FaultyProxy):
    """MLflow 2, as far as it matters: it has no page for the models of MLflow 3."""

    @staticmethod
    def _up(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(CHUNK):
                server.sendall(data.replace(b"/mlflow/logged-models/", b"/mlflow/none/"))
            server.shutdown(socket.SHUT_WR)


def test_a_run_of_an_older_tracking_server(registry: Registry, model: Path, cache: Path) -> None:
    with ServerBeforeLoggedModels(registry.shelf.url) as proxy:
        path = fetched(registry.shelf.address, cache, registry.shelf.env(proxy.url))
        assert files_of(path) == files_of(model)
        none = f"runs:/{registry.run_id}/nothing"
        assert "nothing is there" in refusal(none, cache, registry.shelf.env(proxy.url))


@pytest.mark.parametrize("kind", ["s3", "gs", "runs"])
def test_a_single_file(kind: str, request: pytest.FixtureRequest, cache: Path) -> None:
    if kind == "runs":
        registry: Registry = request.getfixturevalue("registry")
        path = fetched(f"runs:/{registry.run_id}/one.json", cache, registry.shelf.env())
        assert path.name == "one.json"
        assert path.read_bytes().split() == [b"{", b'"one":', b"1", b"}"]
        return
    shelf: Shelf = request.getfixturevalue("s3_shelf" if kind == "s3" else "gcs_shelf")
    path = fetched(f"{kind}://{BUCKET}/files/one.bin", cache, shelf.env())
    assert (path.name, path.read_bytes()) == ("one.bin", b"one")


def test_only_what_has_changed_is_fetched_again(shelf: Shelf, model: Path, cache: Path) -> None:
    """The new model's files have the sizes of the old one's, as those of one kind often do."""
    with FaultyProxy(shelf.url) as proxy:
        first = fetched(shelf.address, cache, shelf.env(proxy.url))
        before = proxy.bytes_down
        assert before > 3 * MEGABYTE
        assert fetched(shelf.address, cache, shelf.env(proxy.url)) == first
        assert proxy.bytes_down - before < MEGABYTE
        original = (model / "MLmodel").read_bytes()
        changed = original.replace(b"utc_time_created: '2", b"utc_time_created: '3")
        assert changed != original
        shelf.overwrite("MLmodel", changed)
        try:
            second = fetched(shelf.address, cache, shelf.env(proxy.url))
        finally:
            shelf.overwrite("MLmodel", original)
    assert (second / "MLmodel").read_bytes() == changed
    assert (first / "MLmodel").read_bytes() == original


def test_broken_connections_are_survived(shelf: Shelf, model: Path, cache: Path) -> None:
    with FaultyProxy(shelf.url) as proxy:
        proxy.cut(after=MEGABYTE, times=3)
        path = fetched(shelf.address, cache, shelf.env(proxy.url))
        assert proxy.cuts == 3
    assert files_of(path) == files_of(model)


@pytest.mark.parametrize("shelf", ["s3", "artifacts"], indirect=True)  # Google's resumes for ever
def test_a_connection_that_breaks_each_time(shelf: Shelf, cache: Path) -> None:
    with FaultyProxy(shelf.url) as proxy:
        proxy.cut(after=MEGABYTE, times=1000)
        refusal(shelf.address, cache, shelf.env(proxy.url))
        assert proxy.cuts >= download.ATTEMPTS
    assert entries(cache) == []


@contextlib.contextmanager
def fetching(address: str, env: Mapping[str, str], cache: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FETCH, address, str(cache)],
        env=daemon_environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("shelf", ["s3", "artifacts"], indirect=True)
def test_killed_in_the_middle_of_a_file(shelf: Shelf, model: Path, cache: Path) -> None:
    """What had arrived is not fetched again, and nothing of it can be taken for a model."""
    small = [name for name in files_of(model) if name != WEIGHTS]

    def small_ones_are_there() -> bool:
        return all(list(cache.glob(f"*.draft/files/{name}")) for name in small)

    with FaultyProxy(shelf.url) as proxy:
        proxy.stall(after=MEGABYTE)
        with fetching(shelf.address, shelf.env(proxy.url), cache) as process:
            wait_until(lambda: proxy.stalled and small_ones_are_there(), 60)
            process.send_signal(signal.SIGKILL)
            process.wait()
        proxy.go_on()
        assert entries(cache) == []
        with fetching(shelf.address, shelf.env(proxy.url), cache) as process:
            output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "are there from an earlier attempt" in output
    path = Path(output.splitlines()[-1])
    assert files_of(path) == files_of(model)
    assert [p.name for p in cache.iterdir()] == [path.name]


def test_two_at_once_fetch_it_once(s3_shelf: Shelf, model: Path, cache: Path) -> None:
    with FaultyProxy(s3_shelf.url) as proxy:
        proxy.stall(after=MEGABYTE)
        with fetching(s3_shelf.address, s3_shelf.env(proxy.url), cache) as first:
            wait_until(lambda: proxy.stalled, 60)
            come = proxy.bytes_down
            with fetching(s3_shelf.address, s3_shelf.env(), cache) as second:
                assert second.stdout is not None
                for line in second.stdout:
                    if "another process fetches this model" in line:
                        break
                else:
                    pytest.fail("the second one did not wait")
                proxy.go_on()
                ours, _ = first.communicate(timeout=60)
                theirs, _ = second.communicate(timeout=60)
    assert proxy.bytes_down > come
    assert ours.splitlines()[-1] == theirs.splitlines()[-1]
    assert "fetched s3" in ours
    assert "fetched s3" not in theirs


def test_changed_while_it_was_fetched(s3_shelf: Shelf, model: Path, cache: Path) -> None:
    """A mixture of the old and the new model is never to be had."""
    with FaultyProxy(s3_shelf.url) as proxy:
        proxy.stall(after=MEGABYTE)
        paths: list[Path] = []
        with variables(s3_shelf.env(proxy.url)):
            thread = threading.Thread(
                target=lambda: paths.append(addresses.fetch(s3_shelf.address, cache))
            )
            thread.start()
            try:
                wait_until(lambda: proxy.stalled, 60)
                s3_shelf.overwrite("requirements.txt", b"numpy\n")
            finally:
                proxy.go_on()
                thread.join()
                s3_shelf.overwrite("requirements.txt", (model / "requirements.txt").read_bytes())
    (path,) = paths
    assert (path / "requirements.txt").read_bytes() == b"numpy\n"
    assert [p.name for p in cache.iterdir()] == [path.name]


class PackedObject(BaseHTTPRequestHandler):
    """Google's storage with one object that was uploaded packed; the emulator has none such."""

    protocol_version = "HTTP/1.1"
    content = gzip.compress(b"x" * 1000)

    def do_GET(self) -> None:
        if "/o?" in self.path:
            item = {"name": "packed/MLmodel", "generation": "1", "contentEncoding": "gzip"}
            body = json.dumps({"items": [{**item, "size": str(len(self.content))}]}).encode()
            header = ("Content-Type", "application/json")
        else:
            body, header = self.content, ("Content-Encoding", "gzip")
        self.send_response(200)
        self.send_header(*header)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Leave the tests' output alone."""


def test_object_that_comes_unpacked(cache: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), PackedObject) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            env = shelves.gcs_variables(f"http://127.0.0.1:{server.server_port}")
            path = fetched("gs://shelf/packed", cache, env)
            assert fetched("gs://shelf/packed", cache, env) == path
        finally:
            server.shutdown()
            thread.join()
    assert files_of(path) == {"MLmodel": b"x" * 1000}


S3_NOTHING = f"s3://{BUCKET}/nothing"


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("s3://no-such-bucket/model", "it does not exist: NoSuchBucket"),
        (S3_NOTHING, "nothing is there: it does not exist, or is empty"),
        (f"s3://{BUCKET}/files/one", "nothing is there"),
        (f"s3://{BUCKET}/{KEY}#2", "holds a ? or a #"),
        (f"s3://{BUCKET}/{KEY}?version=2", "holds a ? or a #"),
        (f"s3://{BUCKET}//{KEY}", "nothing is there"),
        (f"s3://{BUCKET}/{KEY}//", "nothing is there"),
        ("s3:///model", "it names no bucket (s3://BUCKET/PATH)"),
        (f"s3://me:geheim@{BUCKET}/{KEY}", "credentials cannot be a part of it"),
    ],
)
def test_what_s3_does_not_have(s3_shelf: Shelf, cache: Path, address: str, cause: str) -> None:
    assert cause in refusal(address, cache, s3_shelf.env())


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("gs://no-such-bucket/model", "it does not exist: NotFound"),
        (f"gs://{BUCKET}/nothing", "nothing is there"),
        (f"gs://{BUCKET}/{KEY}#2", "holds a ? or a #"),
        (f"gs://{BUCKET}//{KEY}", "nothing is there"),
        ("gs://", "it names no bucket (gs://BUCKET/PATH)"),
    ],
)
def test_what_gcs_does_not_have(gcs_shelf: Shelf, cache: Path, address: str, cause: str) -> None:
    assert cause in refusal(address, cache, gcs_shelf.env())


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("models:/weighty/7", "version=7) not found"),
        ("models:/weighty@none", "alias none not found"),
        ("models:/none/1", "name=none not found"),
        ("models:/none/latest", "not found"),
        (f"models:/m-{'f' * 32}", "not found"),
        (f"runs:/{'f' * 32}/model", "not found"),
        ("runs:/RUN/nothing", "nothing is there"),
        ("mlflow-artifacts:/0/nothing", "nothing is there"),
    ],
)
def test_what_the_tracking_server_does_not_have(
    registry: Registry, cache: Path, address: str, cause: str
) -> None:
    address = address.replace("RUN", registry.run_id)
    assert cause in refusal(address, cache, registry.shelf.env())


def test_refused_credentials(s3_shelf: Shelf, cache: Path) -> None:
    import requests

    def authenticate(after: str) -> None:
        url = f"{s3_shelf.url}/moto-api/reset-auth"
        requests.post(url, data=after, timeout=30).raise_for_status()

    authenticate("0")
    try:
        text = refusal(s3_shelf.address, cache, s3_shelf.env())
    finally:
        authenticate("inf")
    assert "access is refused: " in text


def test_missing_credentials(urls: dict[str, str], cache: Path) -> None:
    env = {
        "MLFLOW_S3_ENDPOINT_URL": urls["s3"],
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
    }
    with fetching(S3_NOTHING, env, cache) as process:
        output, _ = process.communicate(timeout=60)
    assert "Unable to locate credentials" in output.splitlines()[-1]


def test_servers_that_are_down(cache: Path) -> None:
    down = "http://127.0.0.1:1"
    assert "Could not connect" in refusal(S3_NOTHING, cache, shelves.s3_variables(down))
    env = {
        "MLFLOW_TRACKING_URI": "http://me:geheim@127.0.0.1:1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }
    text = refusal("models:/weighty/1", cache, env)
    assert "Connection refused" in text


@pytest.mark.parametrize("shelf", ["s3", "gcs"], indirect=True)
def test_the_daemon_serves_it(shelf: Shelf, cache: Path) -> None:
    address = shelf.address
    env = {**shelf.env(), "MODEL_CACHE_DIR": str(cache)}
    status, output = run_daemon_expecting_exit(["--model_dir", address, "--dry_run"], env)
    assert status == 0, output
    assert f"the model {address} can be loaded and served" in output
    with Daemon(address, env=env) as daemon:
        answer = daemon.predict({"instances": [[1.5, 2.0]]})
        assert (answer.status, answer.json()) == (200, {"predictions": [[1.5, 2.0]]})
        assert "has not changed since it was fetched" in daemon.log()
        assert shelves.S3_KEYS["aws_secret_access_key"] not in daemon.log()


@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow")
def test_a_reload_asks_again_what_an_alias_means(registry: Registry, cache: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(registry.shelf.url)
    client.create_registered_model("moving")
    location = f"mlflow-artifacts:/0/{registry.run_id}/artifacts/plain"
    for _ in range(2):
        client.create_model_version("moving", location, registry.run_id)
    client.set_registered_model_alias("moving", "now", "1")
    env = {**registry.shelf.env(), "MODEL_CACHE_DIR": str(cache)}
    with Daemon("models:/moving@now", env=env) as daemon:
        assert "models:/moving@now is version 1, at " in daemon.log()
        client.set_registered_model_alias("moving", "now", "2")
        daemon.terminate(signal.SIGHUP)
        wait_until(lambda: "generation 2 has taken over" in daemon.log(), 60)
        assert "models:/moving@now is version 2, at " in daemon.log()
        client.delete_registered_model_alias("moving", "now")
        daemon.terminate(signal.SIGHUP)
        refused = "the model models:/moving@now cannot be fetched: "
        wait_until(lambda: refused in daemon.log(), 60)
        assert daemon.predict({"instances": [[1.5]]}).json() == {"predictions": [[1.5]]}


def test_the_daemon_says_in_one_line_what_is_not_there(s3_shelf: Shelf, cache: Path) -> None:
    env = {**s3_shelf.env(), "MODEL_CACHE_DIR": str(cache)}
    status, output = run_daemon_expecting_exit(["--model_dir", S3_NOTHING], env)
    assert status == 1
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("pyfuncserver: ")]
    assert f"the model {S3_NOTHING} cannot be fetched: nothing is there" in line
