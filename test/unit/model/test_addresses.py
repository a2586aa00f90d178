from __future__ import annotations

import errno
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from pyfuncserver.errors import StartupError
from pyfuncserver.model import addresses
from pyfuncserver.model.addresses import failure, redaction
from pyfuncserver.model.addresses.address import scheme_of


@pytest.mark.parametrize(
    ("address", "scheme"),
    [
        ("/models/a", ""),
        ("models/a", ""),
        ("a:b/c", ""),
        ("odd:/name", ""),
        ("C:/models", ""),
        ("file:a", "file"),
        ("FILE:///a", "file"),
        ("s3://bucket/a", "s3"),
        ("S3://bucket/a", "s3"),
        ("models:/a/1", "models"),
        ("models:a/1", "models"),
        ("runs:/id/a", "runs"),
        ("mlflow-artifacts:/0/a", "mlflow-artifacts"),
        ("https://host/a", "https"),
        ("any+thing.else-1://a", "any+thing.else-1"),
    ],
)
def test_schemes(address: str, scheme: str) -> None:
    assert scheme_of(address) == scheme
    assert addresses.is_remote(address) is (scheme not in {"", "file"})


@pytest.mark.parametrize(
    "form", ["{}", "file:{}", "file://{}", "file://localhost{}", "file://LOCALHOST{}", "FILE:{}"]
)
def test_local_addresses(tmp_path: Path, form: str) -> None:
    assert addresses.local(form.format(tmp_path)) == tmp_path.resolve()


def test_percent_encoding_is_of_urls_only(tmp_path: Path) -> None:
    for name in ("a b", "a?b#c", "a%20b", "ä"):
        (tmp_path / name).mkdir()
    assert addresses.local(f"file://{tmp_path}/a%20b").name == "a b"
    assert addresses.local(f"file://{tmp_path}/a?b#c").name == "a?b#c"
    assert addresses.local(f"file://{tmp_path}/a%3Fb%23c").name == "a?b#c"
    assert addresses.local(f"file://{tmp_path}/%C3%A4").name == "ä"
    assert addresses.local(f"{tmp_path}/a%20b").name == "a%20b"


def test_relative_paths_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "now").symlink_to("v1")
    monkeypatch.chdir(tmp_path)
    assert addresses.local("now") == addresses.local("file:now") == (tmp_path / "v1").resolve()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("{}/none", "does not exist: no such directory"),
        ("{}/file/inside", "does not exist: a part of the path is a file"),
        ("{}/loop", "cannot be reached"),
        ("file://elsewhere{}", "'elsewhere' stands where a host does"),
        ("file:", "it names no path"),
        ("file:{}/a%00b", "no path may have"),
        ("{}/" + "x" * 300, "cannot be reached: File name too long"),
    ],
)
def test_local_addresses_of_nothing(tmp_path: Path, address: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    address = address.format(tmp_path)
    with pytest.raises(StartupError) as caught:
        addresses.local(address)
    assert str(caught.value).startswith(f"the model {address} ")
    assert reason in str(caught.value)


def test_nothing_heavy_is_imported(run_script: Callable[..., str]) -> None:
    printed = run_script("""
        import sys
        from pyfuncserver.model import addresses
        assert addresses.is_remote("s3://a/b")
        heavy = "mlflow boto3 google.cloud numpy pandas requests click".split()
        print([name for name in heavy if name in sys.modules])
    """)
    assert printed.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("models:/a@champion", "models:/a@champion"),
        ("http://me:se@cret@host/a", "http://***@host/a"),
        ("http://me:se/cret@host/a", "http://***@host/a"),
        ("http://host:80/a@b", "http://host:80/a@b"),
        ("'http://me:secret@host/a' and http://b@c", "'http://***@host/a' and http://***@c"),
        ("https://host/a?X-Amz-Signature=abc&b=c is bad", "https://host/a?*** is bad"),
        ("url: /a?sig=abc (Caused by x)", "url: /a?*** (Caused by x)"),
        ("what? nothing=1", "what? nothing=1"),
        ("key of-the-environment!", "key ***!"),
        ("{'Authorization': 'Bearer abc'}", "{'Authorization': '***'}"),
    ],
)
def test_redaction(monkeypatch: pytest.MonkeyPatch, text: str, shown: str) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-environment")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a")  # too short to be one
    assert addresses.shown(text) == shown


def test_logs_are_redacted(caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    root.addHandler(caplog.handler)
    log = logging.getLogger("some.library")
    try:
        with redaction.redacted_logs():
            log.warning("Retrying %s", "http://me:secret@host/a?b=secret")
            try:
                raise ValueError("http://me:secret@host")
            except ValueError:
                log.exception("failed")
    finally:
        root.removeHandler(caplog.handler)
    assert "Retrying http://***@host/a?***" in caplog.text
    assert "secret" not in caplog.text


def http_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("told by the server", response=response)


class ClientError(Exception):
    """As botocore's."""

    def __init__(self, status: int) -> None:
        super().__init__("told by S3")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class ApiError(Exception):
    """As google.api_core's."""

    def __init__(self, code: int) -> None:
        super().__init__("told by Google")
        self.code = code


class EndpointConnectionError(type("HTTPClientError", (Exception,), {})):  # type: ignore[misc]
    """As botocore's."""


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        requests.ConnectionError(),
        requests.exceptions.ChunkedEncodingError(),
        http_error(503),
        http_error(429),
        ClientError(500),
        ApiError(503),
        EndpointConnectionError(),
        failure.Incomplete(),
        caused(ValueError(), ConnectionResetError()),
    ],
    ids=repr,
)
def test_what_passes_by_itself(error: Exception) -> None:
    assert failure.passes(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        PermissionError(),
        OSError(errno.ENOSPC, "full"),
        http_error(403),
        http_error(404),
        ClientError(403),
        ApiError(404),
        caused(requests.ConnectionError(), ssl.SSLCertVerificationError()),
    ],
    ids=repr,
)
def test_what_does_not_pass(error: Exception) -> None:
    assert not failure.passes(error)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (failure.Unfetchable("because"), "because"),
        (ClientError(403), "access is refused: ClientError: told by S3"),
        (http_error(401), "access is refused: HTTPError: told by the server"),
        (ApiError(404), "it does not exist: ApiError: told by Google"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (ValueError(), "ValueError: no reason given"),
        (OSError(errno.ENOSPC, "x"), "the disk of /cache is full (MODEL_CACHE_DIR)"),
        (caused(ValueError(), OSError(errno.EDQUOT, "x")), "the disk of /cache is full"),
        (ModuleNotFoundError(name="boto3"), "boto3 is needed and not installed: pip install 'py"),
        (ModuleNotFoundError(name="google.cloud"), "pip install 'pyfuncserver[gcs]'"),
        (ModuleNotFoundError(name="azure.x"), "azure.x is needed and not installed: install it"),
        (ValueError("http://me:secret@host"), "ValueError: http://***@host"),
        (ValueError("x" * 10_000), "xxx..."),
    ],
    ids=repr,
)
def test_causes(error: Exception, cause: str) -> None:
    told = failure.cause_of(error, "/cache")
    assert cause in told
    assert len(told.splitlines()) == 1
    assert len(told) < 1000
