"""Writes all that an image's build reads into one folder: its context."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pyfuncserver.errors import StartupError
from pyfuncserver.image import artifacts, wheel

DOCKERFILE, BASE_DOCKERFILE, RUN_SCRIPT = "Dockerfile", "base.Dockerfile", "run.sh"
MODEL = "model"
_PACKAGED = Path(__file__).parent / "files"
_CHECKOUT = wheel.PACKAGE.parent
_IN_CHECKOUT = {
    DOCKERFILE: _CHECKOUT / "docker" / DOCKERFILE,
    BASE_DOCKERFILE: _CHECKOUT / "docker" / BASE_DOCKERFILE,
    RUN_SCRIPT: _CHECKOUT / RUN_SCRIPT,
}


@dataclass(frozen=True)
class Context:
    """A folder that a builder is handed, and what it holds."""

    folder: Path
    server: str
    """The server's wheel, by its name in the folder."""
    artifacts: str
    """What MODEL_ARTIFACTS_URL is to be: the model in the folder, or the address it was given."""

    @property
    def dockerfile(self) -> Path:
        return self.folder / DOCKERFILE

    @property
    def base_dockerfile(self) -> Path:
        return self.folder / BASE_DOCKERFILE


def write(folder: Path, model: str) -> Context:
    """Write Dockerfiles, the server and the model, unless the build is to download that itself.

    Raises: StartupError where the folder is not empty.
    """
    is_remote = artifacts.is_downloaded(model)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StartupError(f"--context={str(folder)!r} is there already and is no empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name in _IN_CHECKOUT:
        shutil.copyfile(_source(name), folder / name)
    server = wheel.write(folder)
    if not is_remote:
        copy = shutil.copytree if Path(model).is_dir() else shutil.copyfile
        copy(model, folder / MODEL)
    return Context(folder, server.name, model if is_remote else MODEL)


def _source(name: str) -> Path:
    """Find a file of the image: in the installed package, or where the checkout keeps it."""
    for path in (_PACKAGED / name, _IN_CHECKOUT[name]):
        if path.is_file():
            return path
    raise StartupError(f"{name} is missing: neither installed with the server nor in a checkout")
