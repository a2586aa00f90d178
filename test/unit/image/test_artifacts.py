from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyfuncserver.errors import StartupError
from pyfuncserver.image import __main__ as steps
from pyfuncserver.image import artifacts
from pyfuncserver.image.artifacts import Item


@pytest.fixture
def context(tmp_path: Path) -> Path:
    model = tmp_path / "context" / "models" / "echo"
    (model / "data").mkdir(parents=True)
    (model / "MLmodel").write_text("flavors: {}\n")
    (model / "data" / "a.bin").write_bytes(b"\x00\x01")
    (tmp_path / "secret").mkdir()
    return tmp_path / "context"


def fetch(context: Path, *flags: str) -> tuple[int, Path]:
    out = context.parent / "out"
    status = steps.main(["fetch", "--context", str(context), "--out", str(out), *flags])
    return status, out


def test_a_folder_of_the_context(context: Path) -> None:
    status, out = fetch(context, "--artifacts", "models/echo")
    assert status == 0
    assert (out / "model" / "data" / "a.bin").read_bytes() == b"\x00\x01"
    assert not (out / "dependencies").exists()


def test_a_model_that_mlflow_did_not_save(
    context: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (context / "models" / "m.onnx").write_bytes(b"onnx")
    status, out = fetch(context, "--artifacts", "models")
    assert status == 0
    assert (out / "model" / "m.onnx").exists()
    assert "models holds no MLmodel file" in capsys.readouterr().out


def test_a_model_of_one_file(context: Path) -> None:
    (context / "m.onnx").write_bytes(b"onnx")
    status, out = fetch(context, "--artifacts", "m.onnx")
    assert status == 0
    assert (out / "model").read_bytes() == b"onnx"


def test_a_file_of_dependencies(context: Path) -> None:
    (context / "r.txt").write_text("numpy\n")
    status, out = fetch(context, "--artifacts", "models/echo", "--dependencies", "r.txt")
    assert status == 0
    assert (out / "dependencies").read_text() == "numpy\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "MODEL_ARTIFACTS_URL is not set"),
        (("--artifacts", "models/other"), "there is no 'models/other' in the build's context"),
        (("--artifacts", "../secret"), "'../secret' is not inside the build's context"),
        (("--artifacts", "/etc"), "'/etc' is not inside the build's context"),
        (("--artifacts", "http://a.example/m"), "http:// is no address that an image's build can"),
        (("--artifacts", "s3://b/m", "--storage_type", "gcs"), "gcs does not fit s3://b/m"),
        (("--artifacts", "s3://b/m", "--storage_type", "ftp"), "'ftp' is none of s3, gcs"),
    ],
)
def test_what_is_refused(
    context: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    status, _ = fetch(context, *flags)
    said = capsys.readouterr().err
    assert status == 1
    assert message in said
    assert said.count("\n") == 1


def listed(*keys: str) -> Iterator[Item]:
    for key in keys:
        yield key, lambda file, key=key: file.write_text(key) and None  # type: ignore[misc]


def test_objects_below_an_address(
    context: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = ("runs/1/model/MLmodel", "runs/1/model/data/a", "runs/1/model/", "runs/1/model2/x")
    monkeypatch.setitem(artifacts._OBJECTS, "s3", lambda bucket, prefix: listed(*keys))
    artifacts.fetch("s3://bucket/runs/1/model/", context, tmp_path / "model")
    found = {str(p.relative_to(tmp_path / "model")) for p in (tmp_path / "model").rglob("*")}
    assert found == {"MLmodel", "data", "data/a"}


def test_one_object(context: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = ("deps/9f86", "deps/9f86d0")
    monkeypatch.setitem(artifacts._OBJECTS, "gs", lambda bucket, prefix: listed(*keys))
    artifacts.fetch("gs://bucket/deps/9f86", context, tmp_path / "dependencies")
    assert (tmp_path / "dependencies").read_text() == "deps/9f86"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ((), "there is nothing at s3://bucket/m"),
        (("m/../../etc/x",), "'m/../../etc/x' is named out of its folder"),
    ],
)
def test_objects_that_will_not_do(
    context: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    keys: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setitem(artifacts._OBJECTS, "s3", lambda bucket, prefix: listed(*keys))
    with pytest.raises(StartupError, match=message):
        artifacts.fetch("s3://bucket/m", context, tmp_path / "model")


def test_empty_credentials_are_none() -> None:
    environ = {"AWS_ENDPOINT_URL": "", "AWS_ACCESS_KEY_ID": "a", "OTHER": ""}
    artifacts.forget_empty(environ)
    assert environ == {"AWS_ACCESS_KEY_ID": "a", "OTHER": ""}
