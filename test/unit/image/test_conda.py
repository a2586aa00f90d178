"""Real conda environments, by rattler, from channels of small packages and a Python that runs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import small_wheels
from harness import free_port
from image import conda_channel
from image.conda_channel import NATIVE, PYTHON, Package, module

from pyfuncserver.errors import StartupError
from pyfuncserver.image import __main__ as image
from pyfuncserver.image import conda, dependencies
from pyfuncserver.image.environment import Environment

Make = Callable[..., Environment]
OWN = f"python=3.{sys.version_info.minor}"
FAILING = Package(
    "failing",
    "1.0",
    {"bin/.failing-post-link.sh": b"#!/bin/sh\nexit 3\n"},
    executables=frozenset({"bin/.failing-post-link.sh"}),
)
PIP = Package(
    "pip",
    "23.3",
    {
        "site-packages/pip/__init__.py": b"",
        "site-packages/pip-23.3.dist-info/METADATA": b"Name: pip\nVersion: 23.3\n",
    },
    ["python"],
    is_noarch=True,
)


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the channels `main`, which has nearly everything, and `other`."""
    folder = tmp_path_factory.mktemp("channels")
    main = folder / "main"
    conda_channel.write(main, conda_channel.python(), PIP, module("shared", "1.0"))
    conda_channel.write(main, module("tornado", "5.1"), module("old", "1.0", ["python <3.9"]))
    conda_channel.write(main, NATIVE, FAILING, form=".tar.bz2")
    conda_channel.write(folder / "other", module("shared", "1.5"), module("shared", "2.0"))
    return folder


@pytest.fixture
def make(channels: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Give `make(text)`, which makes and fills what a conda.yaml that ends so asks for."""
    monkeypatch.delenv("CONDA_CHANNEL_ALIAS", raising=False)

    def make(text: str, *urls: str) -> Environment:
        lines = "".join(f"- {url}\n" for url in urls or (f"file://{channels}/main",))
        file = tmp_path / "conda.yaml"
        file.write_text(f"channels:\n{lines}dependencies:\n{text}")
        asked = dependencies.read(file)
        made = Environment(tmp_path / "merlin-model", io.StringIO())
        made.make(asked)
        made.install_model(asked, tmp_path)
        return made

    return make


@pytest.fixture
def wheel(index: Path) -> Callable[..., Path]:
    return partial(small_wheels.make, index)


@pytest.fixture
def address(channels: Path) -> Iterator[str]:
    """Serve the channels."""
    with conda_channel.serve(channels) as url:
        yield url


def run(environment: Environment, code: str) -> str:
    done = subprocess.run(
        [str(environment.python), "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_conda_then_pip_then_the_server(make: Make, wheel: Callable[..., Path]) -> None:
    wheel("more", "1.0", ["shared"])
    made = make(f"- {OWN}\n- native=1.0\n- pip<=23.3\n- shared\n- pip: [more]\n")
    made.install_server(wheel("pyfuncserver", "0.1.0", ["shared>=1", "more"]))
    made.check()
    assert made.packages() == {
        "pip": "23.3",
        "shared": "1.0",
        "more": "1.0",
        "pyfuncserver": "0.1.0",
    }
    assert run(made, "import sys, ssl, shared; print(sys.prefix)") == str(made.prefix)
    native = made.prefix / "share" / "native"
    assert (native / "data.txt").read_text() == "42"
    assert (native / "where.txt").read_text() == f"{native}\n"
    library = (made.prefix / "lib" / "libnative.so").read_bytes()
    assert library.startswith(b"\x7fELF\0" + bytes(made.prefix / "share") + b"\0")
    assert library.endswith(b"\0end")
    assert (native / "linked.txt").read_text() == "linked\n"
    assert "WARNING" not in told(made)
    assert "not all packages" not in told(made)


def told(environment: Environment) -> str:
    assert isinstance(environment.out, io.StringIO)
    return environment.out.getvalue()


def test_what_serving_does_not_read(make: Make) -> None:
    made = make("- native\n- pip\n")
    assert made.slim() > 0
    made.compile()
    there = {path.relative_to(made.prefix).as_posix() for path in made.prefix.rglob("*")}
    packages = f"lib/{PYTHON}/site-packages"
    for path in ("include", "lib/libnative.a", "share/man", f"{packages}/pip"):
        assert path not in there
    for path in ("lib/libnative.so", "share/doc/native/COPYING", "conda-meta/history"):
        assert path in there
    assert not list(made.prefix.glob("conda-meta/*.json"))
    assert list(made.prefix.glob(f"lib/{PYTHON}/__pycache__/os.*.pyc"))
    assert run(made, "import encodings; print(encodings.__cached__ is not None)") == "True"


def test_a_compiler_keeps_what_it_reads(make: Make) -> None:
    made = make("- native\n")
    (made.prefix / "bin" / "x86_64-conda-linux-gnu-gcc").touch()
    made.slim()
    assert (made.prefix / "include" / "native.h").exists()
    assert (made.prefix / "lib" / "libnative.a").exists()


def test_the_server_cannot_do_with_what_conda_brought(
    make: Make, wheel: Callable[..., Path]
) -> None:
    wheel("tornado", "6.4")
    wheel("notebook", "1.0", ["tornado"])
    made = make("- tornado\n- pip: [notebook]\n")
    with pytest.raises(StartupError) as raised:
        made.install_server(wheel("pyfuncserver", "0.1.0", ["tornado>=6.2"]))
    assert str(raised.value) == (
        "tornado==5.1, which the model's notebook needs, and pyfuncserver 0.1.0, which needs "
        "tornado>=6.2, cannot be installed together: the model has to be logged with another "
        "version of tornado"
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("shared==2.0", "shared==2.0 and shared==1.0 cannot"),
        ("needy", "shared==1.0 and needy 1.0, which needs shared>=2, cannot"),
    ],
)
def test_pip_replaces_nothing_of_condas(
    make: Make, wheel: Callable[..., Path], asked: str, message: str
) -> None:
    wheel("shared", "2.0")
    wheel("needy", "1.0", ["shared>=2"])
    with pytest.raises(StartupError) as raised:
        make(f"- shared\n- pip: [{asked}]\n")
    assert str(raised.value) == (
        f"{message} be installed together: change one of them in the model's conda.yaml, where pip "
        "leaves what conda has installed"
    )


@pytest.mark.parametrize(
    ("specs", "cause"),
    [
        (["nowhere"], "No candidates were found for nowhere *."),
        (
            ["old", "shared"],
            "no viable options: old 1.0 would require: python <3.9, for which no candidates were",
        ),
        (["shared", "native>="], "unable to parse version spec: >="),
        (["failing"], "the post-link script of failing failed"),
        (["shared", "python>=3.14"], "No candidates were found for python >=3.14."),
    ],
)
def test_what_conda_cannot_install(make: Make, specs: list[str], cause: str) -> None:
    with pytest.raises(StartupError) as raised:
        make("".join(f"- {spec!r}\n" for spec in specs))
    message = str(raised.value)
    begin = f"what the model's conda.yaml asks conda for ({', '.join(specs)}) cannot be installed: "
    assert message.startswith(begin)
    assert cause in message
    assert "\n" not in message
    assert "see above" not in message


def test_a_python_that_the_server_does_not_know(make: Make) -> None:
    with pytest.raises(StartupError) as raised:
        make("- python=3.9.7\n- native\n")
    assert str(raised.value) == (
        "the model's conda.yaml asks for Python 3.9.7, and the server runs on Python 3.10 to 3.13"
    )


# Channels


def test_channels_by_their_order_and_by_name(
    make: Make, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDA_CHANNEL_ALIAS", f"{address}/")
    assert make("- shared\n- native\n", "main", "other").packages() == {"shared": "1.0"}
    assert make("- shared\n- native\n", "other", "main").packages() == {"shared": "2.0"}
    # The first channel has a version, but none that will do.
    assert make("- shared<2,>1\n- native\n", "main", "other").packages() == {"shared": "1.5"}
    assert make("- other::shared=1\n- native\n", "main").packages() == {"shared": "1.5"}


@pytest.mark.parametrize(
    ("path", "status"), [("nowhere", "404 File not found"), ("broken", "500 Internal Server Error")]
)
def test_a_channel_that_is_not_there(make: Make, address: str, path: str, status: str) -> None:
    with pytest.raises(StartupError) as raised:
        make("- native\n", f"{address}/{path}")
    message = str(raised.value)
    assert message.startswith("what the model's conda.yaml asks conda for (native) cannot be ")
    assert f"({status}) for url ({address}/{path}/" in message
    assert "\n" not in message


def test_a_channel_that_cannot_be_reached(make: Make) -> None:
    url = f"http://127.0.0.1:{free_port()}/main"
    with pytest.raises(StartupError, match=rf"for url \({url}/.*: Connection refused"):
        make("- native\n", url)


def test_a_package_that_is_gone(make: Make, address: str, channels: Path) -> None:
    package = next(channels.glob("main/*/tornado-5.1-0.conda"))
    gone = package.rename(package.with_suffix(".gone"))
    try:
        with pytest.raises(StartupError, match=rf"404 .* for url \({address}/main/noarch/tornado"):
            make("- tornado\n", f"{address}/main")
    finally:
        gone.rename(package)


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ("conda-forge", ["https://a.example/conda-forge"]),
        ("https://b.example/c", ["https://b.example/c"]),
        ("file:///srv/c", ["file:///srv/c"]),
        ("pkgs/main", ["https://repo.anaconda.com/pkgs/main"]),
        (
            "defaults",
            ["https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r"],
        ),
        ("nodefaults", []),
    ],
)
def test_where_channels_are(channel: str, expected: list[str]) -> None:
    assert list(conda.urls([channel], "https://a.example/")) == expected


# The steps around it


@pytest.mark.parametrize(("spec", "is_needed"), [("native", True), ("pip<=23.3", False)])
def test_rattler_is_asked_for_only_where_it_is_needed(
    tmp_path: Path, spec: str, is_needed: bool
) -> None:
    model = tmp_path / "context" / "model"
    model.mkdir(parents=True)
    (model / "MLmodel").touch()
    (model / "conda.yaml").write_text(f"dependencies: [python=3.11, '{spec}']\n")
    where = ["--context", str(tmp_path / "context"), "--out", str(tmp_path / "out")]
    assert image.main(["fetch", *where, "--artifacts", "model"]) == 0
    tools = tmp_path / "out" / "tools.txt"
    assert tools.exists() == is_needed
    assert not is_needed or "py-rattler" in tools.read_text()


def test_run_script_activates_as_conda_does(make: Make, tmp_path: Path) -> None:
    """The server here only tells what it finds."""
    made = make("- native\n")
    server = made.prefix / "lib" / PYTHON / "site-packages" / "pyfuncserver"
    server.mkdir(parents=True)
    (server / "__main__.py").write_text(
        "import os, sys\n"
        "names = 'CONDA_PREFIX', 'CONDA_DEFAULT_ENV', 'NATIVE_DATA', 'OTHER'\n"
        "print(sys.prefix, *sys.argv[1:], *(f'{n}={os.environ.get(n)}' for n in names), sep='\\n')"
    )
    script = Path(__file__).parents[3] / "run.sh"
    done = subprocess.run(
        ["bash", str(script), "--dry_run"],
        cwd=tmp_path,
        env={"PATH": os.defpath, "HOME": str(tmp_path), "MODEL_DIR": "/m"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        str(made.prefix),
        *("--model_dir", "/m", "--dry_run"),
        f"CONDA_PREFIX={made.prefix}",
        "CONDA_DEFAULT_ENV=merlin-model",
        f"NATIVE_DATA={made.prefix}/share/native",
        "OTHER=",
    ]
    assert "activate.d/other.sh ended with status 1" in done.stderr
