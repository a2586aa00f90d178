"""``pyfuncserver build --model_dir DIR --image NAME``: a model's image by whatever builds here."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pyfuncserver import __version__
from pyfuncserver.errors import StartupError
from pyfuncserver.image import artifacts, context, dependencies
from pyfuncserver.image.context import Context
from pyfuncserver.image.environment import NEWEST_MINOR, OLDEST_MINOR, minor_of
from pyfuncserver.model import addresses

BUILDERS = ("docker", "podman", "buildah")
KANIKO = "kaniko"
KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
PYTHON_IMAGE = "docker.io/library/python:3.{minor}-slim-bookworm"
_DESCRIPTION = """\
Build the image of a model: its own environment with this server in it. Credentials for s3:// and
gs:// are taken from the storage's own variables (AWS_ACCESS_KEY_ID, ...). What follows -- goes to
the builder's build command, e.g. -- --build-arg PIP_INDEX_URL=https://index.example/simple"""


@dataclass(frozen=True)
class Request:
    """What to build, and of what."""

    model: str
    image: str
    builder: str
    base_image: str = ""
    """Taken as it is; empty: one is built first."""
    python_image: str = ""
    """What the base image is built from; empty: the slim image of the model's own Python."""
    extras: str = ""
    options: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """Name the base image: beside the model's, in the same registry."""
        place, _, _ = self.image.rpartition("/")
        minor = _minor_of_model(self.model)
        name = f"pyfuncserver-base:{__version__}-py3.{minor}"
        return self.base_image or (f"{place}/{name}" if place else name)

    @property
    def python(self) -> str:
        return self.python_image or PYTHON_IMAGE.format(minor=_minor_of_model(self.model))


def main(argv: list[str]) -> int:
    """Build as the flags say; give the exit status."""
    try:
        arguments, options = _parse(argv)
        builder = _builder(arguments)
        with _folder(arguments.context, builder) as folder, _located(arguments.model_dir) as model:
            request = Request(
                model=model,
                image=arguments.image,
                builder=builder,
                base_image=arguments.base_image,
                python_image=arguments.python_image,
                extras=arguments.extras,
                options=tuple(options),
            )
            written = context.write(folder, model)
            if arguments.context or request.builder == KANIKO:
                _show(request, written)
                return 0
            return _build(request, written, arguments.push)
    except StartupError as error:
        sys.stderr.write(f"pyfuncserver build: {error}\n")
        return error.status
    except KeyboardInterrupt:
        return 130


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="pyfuncserver build",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model_dir", required=True, help="a path, or an address that the server takes"
    )
    parser.add_argument("--image", required=True, help="the name to give it, e.g. fraud:3")
    parser.add_argument("--base_image", default="", help="a base image that is there already")
    parser.add_argument("--python_image", default="", help="the Python image to build that from")
    parser.add_argument("--extras", default="", help="extras of the server, e.g. upi,parquet")
    parser.add_argument(
        "--builder", default="auto", choices=("auto", *BUILDERS, KANIKO), help="what builds it"
    )
    parser.add_argument(
        "--context", type=Path, help="only write what the builder needs to this folder"
    )
    parser.add_argument("--push", action="store_true", help="push the image when it is built")
    split = argv.index("--") if "--" in argv else len(argv)
    return parser.parse_args(argv[:split]), argv[split + 1 :]


def _builder(arguments: argparse.Namespace) -> str:
    """Give the builder's name, the first that is here for ``auto``. Raises: StartupError"""
    chosen: str = arguments.builder
    if chosen == KANIKO:
        return chosen
    wanted = BUILDERS if chosen == "auto" else (chosen,)
    found = next((name for name in wanted if shutil.which(name)), None)
    if found is None and not arguments.context:
        raise StartupError(
            f"no {', '.join(wanted)} here; --builder kaniko writes what kaniko needs and prints "
            "its command"
        )
    return found or wanted[0]


@contextmanager
def _folder(chosen: Path | None, builder: str) -> Iterator[Path]:
    """Give the folder for the context: one that stays, where somebody else will build from it."""
    if chosen is not None:
        yield chosen
    elif builder == KANIKO:
        yield Path(tempfile.mkdtemp(prefix="pyfuncserver-image-"))
    else:
        with tempfile.TemporaryDirectory(prefix="pyfuncserver-image-") as name:
            yield Path(name)


@contextmanager
def _located(address: str) -> Iterator[str]:
    """Give a local path of the model, or the address where the build downloads it by itself.

    Raises: StartupError where nothing is there, or it cannot be fetched.
    """
    if artifacts.is_downloaded(address):
        yield address
    elif addresses.is_remote(address):
        # A thread that still fetches, when one has failed, may write to it as it is removed.
        with tempfile.TemporaryDirectory(
            prefix="pyfuncserver-model-", ignore_cleanup_errors=True
        ) as cache:
            yield str(addresses.fetch(address, Path(cache)))
    else:
        yield str(addresses.local(address))


def _minor_of_model(model: str) -> int:
    """Give the minor version of the Python that the model was made with, else of this one."""
    if artifacts.is_downloaded(model):
        return sys.version_info.minor
    minor = minor_of(dependencies.of_model(Path(model)).python)
    if minor is None or not OLDEST_MINOR <= minor <= NEWEST_MINOR:
        return sys.version_info.minor
    return minor


def commands(request: Request, written: Context, environ: Mapping[str, str]) -> list[list[str]]:
    """Give what builds the base image, unless there is one, and then the model's."""
    command = _kaniko if request.builder == KANIKO else _build_command
    built = []
    if not request.base_image:
        arguments = {"PYTHON_IMAGE": request.python}
        base = _pairs(arguments)
        built.append(command(request, written.base_dockerfile, request.base, base))
    arguments = {
        "BASE_IMAGE": request.base,
        "MODEL_ARTIFACTS_URL": written.artifacts,
        "PYFUNCSERVER": f"./{written.server}",
        "PYFUNCSERVER_EXTRAS": request.extras,
        "VERSION": __version__,
    }
    # Credentials by their names alone: the builder takes the values from the environment.
    given = [*_pairs(arguments), *_credentials(request, environ)]
    return [*built, command(request, written.dockerfile, request.image, given)]


def _pairs(arguments: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in arguments.items() if value]


def _kaniko(request: Request, dockerfile: Path, image: str, arguments: Sequence[str]) -> list[str]:
    return [
        "/kaniko/executor",
        f"--context=dir://{dockerfile.parent.absolute()}",
        f"--dockerfile={dockerfile.name}",
        f"--destination={image}",
        *(f"--build-arg={argument}" for argument in arguments),
        *request.options,
    ]


def _build_command(
    request: Request, dockerfile: Path, image: str, arguments: Sequence[str]
) -> list[str]:
    # Docker's format: the other one, OCI's, has no HEALTHCHECK.
    form = [] if request.builder == "docker" else ["--format", "docker"]
    given = [word for argument in arguments for word in ("--build-arg", argument)]
    file = os.environ.get(KEY_FILE, "") if KEY_FILE in arguments else ""
    shown = ["--volume", f"{file}:{file}:ro"] if file else []
    what = ["--file", str(dockerfile), "--tag", image, str(dockerfile.parent)]
    return [request.builder, "build", *form, *given, *shown, *request.options, *what]


def _credentials(request: Request, environ: Mapping[str, str]) -> list[str]:
    """Name those that are set and that the model's storage needs.

    Raises: StartupError where the build could not see a file of credentials.
    """
    prefix = {"s3": "AWS_", "gs": "GOOGLE_"}.get(urlsplit(request.model).scheme)
    if prefix is None:
        return []
    names = [name for name in artifacts.CREDENTIALS if name.startswith(prefix)]
    given = [name for name in names if environ.get(name)]
    if KEY_FILE in given and request.builder == "docker":
        raise StartupError(
            f"docker cannot show the file of {KEY_FILE} to the build: download the model first "
            f"(gcloud storage cp -r {request.model} .), or use podman or buildah"
        )
    return given


def _show(request: Request, written: Context) -> None:
    sys.stdout.write(f"The context is in {written.folder}. What builds the image:\n\n")
    for command in commands(request, written, os.environ):
        sys.stdout.write(f"{shlex.join(command)}\n")


def _build(request: Request, written: Context, must_push: bool) -> int:
    steps = commands(request, written, os.environ)
    if must_push:
        steps.append([request.builder, "push", request.image])
    for command in steps:
        sys.stdout.write(f"$ {shlex.join(command)}\n")
        sys.stdout.flush()
        status = subprocess.run(command, check=False).returncode
        if status:
            sys.stderr.write(f"pyfuncserver build: {request.builder} ended with status {status}\n")
            return 1
    sys.stdout.write(f"{request.image} is built: {_size(request)}\n")
    return 0


def _size(request: Request) -> str:
    """Give the image's size as the builder tells it, e.g. ``873 MB``."""
    listing: Sequence[str] = [request.builder, "images", "--format", "{{.Size}}", request.image]
    done = subprocess.run(listing, capture_output=True, text=True, check=False)
    return done.stdout.strip().partition("\n")[0] or f"{request.builder} does not tell its size"
