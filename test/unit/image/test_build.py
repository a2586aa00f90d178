"""What ``pyfuncserver build`` writes and calls; test/image has a real builder do it."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pyfuncserver import __version__
from pyfuncserver.errors import StartupError
from pyfuncserver.image import build, context, slim, wheel
from pyfuncserver.image.context import Context

ROOT = Path(__file__).parents[3]
WRITTEN = Context(Path("/ctx"), "pyfuncserver-0.1.0-py3-none-any.whl", "model")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "echo"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "python_env.yaml").write_text("python: 3.12.4\ndependencies: []\n")
    return folder


@pytest.fixture
def builders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put scripts in front that write down how they were called; delete what must not be there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in build.BUILDERS:
        script = folder / name
        script.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\necho 12.5MB\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def calls(builders: Path) -> list[list[str]]:
    return [shlex.split(line) for line in (builders / "calls").read_text().splitlines()]


def test_it_builds_the_base_and_the_model(
    builders: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model_dir", str(model), "--image", "reg.example/team/echo:3", "--push"]
    assert build.main([*flags, "--extras", "upi", "--", "--network", "host"]) == 0
    base, made, pushed, _ = calls(builders)
    name = f"reg.example/team/pyfuncserver-base:{__version__}-py3.12"
    assert base[:2] == ["docker", "build"]
    assert "PYTHON_IMAGE=docker.io/library/python:3.12-slim-bookworm" in base
    assert base[base.index("--tag") + 1] == name
    for argument in (f"BASE_IMAGE={name}", "MODEL_ARTIFACTS_URL=model", "PYFUNCSERVER_EXTRAS=upi"):
        assert made[made.index(argument) - 1] == "--build-arg"
    assert made[made.index("--network") + 1] == "host"
    assert pushed == ["docker", "push", "reg.example/team/echo:3"]
    assert capfd.readouterr().out.endswith("reg.example/team/echo:3 is built: 12.5MB\n")


def test_a_base_image_of_ones_own(builders: Path, model: Path) -> None:
    flags = ["--model_dir", str(model), "--image", "echo", "--base_image", "mine:1"]
    assert build.main([*flags, "--builder", "podman"]) == 0
    made, _ = calls(builders)
    assert made[:4] == ["podman", "build", "--format", "docker"]
    assert "BASE_IMAGE=mine:1" in made


def test_a_builder_that_fails(
    builders: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (builders / "docker").write_text("#!/bin/sh\nexit 7\n")
    assert build.main(["--model_dir", str(model), "--image", "echo"]) == 1
    assert "docker ended with status 7" in capfd.readouterr().err


def test_no_builder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.main(["--model_dir", str(model), "--image", "echo"]) == 1
    assert capsys.readouterr().err == (
        "pyfuncserver build: no docker, podman, buildah here; --builder kaniko writes what kaniko "
        "needs and prints its command\n"
    )


def test_kaniko_is_printed(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "ctx"
    flags = ["--model_dir", str(model), "--image", "r.example/echo:1", "--builder", "kaniko"]
    assert build.main([*flags, "--context", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    base, made = (shlex.split(line) for line in lines if line.startswith("/kaniko/executor"))
    assert base[1:4] == [
        f"--context=dir://{folder}",
        "--dockerfile=base.Dockerfile",
        f"--destination=r.example/pyfuncserver-base:{__version__}-py3.12",
    ]
    assert "--build-arg=MODEL_ARTIFACTS_URL=model" in made
    assert {path.name for path in folder.iterdir()} == {
        "Dockerfile",
        "base.Dockerfile",
        "run.sh",
        "model",
        f"pyfuncserver-{__version__}-py3-none-any.whl",
    }


def request(builder: str, url: str) -> build.Request:
    return build.Request(url, "echo", builder, base_image="base")


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "hush",
    "AWS_ENDPOINT_URL": "",
    "GOOGLE_APPLICATION_CREDENTIALS": "/secret/key.json",
}


@pytest.mark.parametrize("builder", ["docker", "podman", "buildah", "kaniko"])
def test_credentials_are_handed_on_by_name(builder: str) -> None:
    (command,) = build.commands(request(builder, "s3://b/m"), WRITTEN, SECRETS)
    assert "hush" not in shlex.join(command)
    assert "AWS_SECRET_ACCESS_KEY" in shlex.join(command)
    assert "AWS_ENDPOINT_URL" not in shlex.join(command)
    assert "GOOGLE" not in shlex.join(command)


def test_a_file_of_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/secret/key.json")
    (command,) = build.commands(request("podman", "gs://b/m"), WRITTEN, SECRETS)
    assert command[command.index("--volume") + 1] == "/secret/key.json:/secret/key.json:ro"
    with pytest.raises(StartupError, match="docker cannot show the file of GOOGLE_APPLICATION"):
        build.commands(request("docker", "gs://b/m"), WRITTEN, SECRETS)


def test_no_credentials_for_a_local_model() -> None:
    (command,) = build.commands(request("podman", "/models/echo"), WRITTEN, SECRETS)
    assert "AWS" not in shlex.join(command)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "the model missing does not exist: no such directory"),
        ("ftp2://a/b", "ftp2"),
    ],
)
def test_what_is_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    flags = ["--model_dir", name, "--image", "echo", "--context", str(tmp_path / "ctx")]
    assert build.main(flags) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_another_address_is_fetched_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(address: str, cache: Path) -> Path:
        asked.append((address, cache.is_dir()))
        return model

    monkeypatch.setattr(build.addresses, "fetch", fetch)
    flags = [
        "--model_dir",
        "models:/fraud/1",
        "--image",
        "echo",
        "--context",
        str(tmp_path / "ctx"),
    ]
    assert build.main(flags) == 0
    assert asked == [("models:/fraud/1", True)]
    assert (tmp_path / "ctx" / "model" / "MLmodel").is_file()


def test_a_model_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"onnx")
    flags = ["--model_dir", f"file://{tmp_path}/m.onnx", "--image", "echo"]
    assert build.main([*flags, "--context", str(tmp_path / "ctx")]) == 0
    assert (tmp_path / "ctx" / "model").read_bytes() == b"onnx"


def test_a_context_that_is_there(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model_dir", str(model), "--image", "echo", "--context", str(model)]
    assert build.main(flags) == 1
    assert "is there already and is no empty folder" in capsys.readouterr().err


def test_the_wheel_is_the_server_that_runs(tmp_path: Path) -> None:
    path = wheel.write(tmp_path)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        own = archive.read("pyfuncserver/image/wheel.py")
        told = archive.read(f"pyfuncserver-{__version__}.dist-info/METADATA").decode()
    assert own == Path(wheel.__file__).read_bytes()
    assert "pyfuncserver/codec/upi.binpb" in names
    assert not any("__pycache__" in name or name.startswith("test") for name in names)
    assert "Requires-Dist: tornado" in told
    target = tmp_path / "site"
    flags = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, str(path)], check=True)
    script = target / "bin" / "pyfuncserver"
    done = subprocess.run(
        [str(script), "build", "--help"],
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Build the image of a model" in done.stdout, done.stderr


def test_an_installed_package_has_the_images_files(tmp_path: Path) -> None:
    """It is built as pip builds it, of links, since setuptools leaves folders of its own behind."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("setup.py", "pyproject.toml", "run.sh", "LICENSE", "docker", "pyfuncserver"):
        (checkout / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(checkout)], check=True)
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        for name, source in context._IN_CHECKOUT.items():
            assert archive.read(f"pyfuncserver/image/files/{name}") == source.read_bytes()


def test_slim(tmp_path: Path) -> None:
    for name in ("numpy/_core/tests/__pycache__/a.pyc", "numpy/tests/b.py", "astropy/tests/c.py"):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_bytes(b"1234")
    (tmp_path / "numpy" / "version.py").touch()
    assert slim.slim(tmp_path) == 8
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"numpy/version.py", "astropy/tests/c.py"}
