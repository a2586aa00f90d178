"""Makes the environment ``merlin-model``: first what the model asks for, then the server.

All that is there once the model's requirements are installed becomes a constraint of the server's
installation. So the model has what it was tested with, and where the server cannot do with that,
the build ends and says which two packages are in each other's way.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TextIO

from pyfuncserver.errors import StartupError
from pyfuncserver.image import conflict, slim
from pyfuncserver.image.dependencies import Dependencies, name_of, without_other_servers

OLDEST_MINOR, NEWEST_MINOR = 10, 13
# What lies on PYTHONPATH is not in the environment, though pip would take it for installed.
_VARIABLES = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PYTHONPATH": "",
}
_MINOR = re.compile(r"3\.(\d+)")


def minor_of(version: str) -> int | None:
    """Give the 11 of ``3.11.7``; None for what is no version of Python 3."""
    matched = _MINOR.match(version)
    return int(matched[1]) if matched else None


@dataclass(frozen=True)
class Environment:
    """A virtual environment without pip, which is worked on from outside of it."""

    prefix: Path
    out: TextIO

    @property
    def python(self) -> Path:
        return self.prefix / "bin" / "python"

    def make(self) -> None:
        command = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(self.prefix)]
        status, _ = self._run(command, None)
        if status:
            raise StartupError(f"the environment {self.prefix} cannot be made: see above")

    def install_model(self, dependencies: Dependencies, model: Path) -> None:
        """Install what the model asks for. Raises: StartupError"""
        _refuse_conda(dependencies)
        self._compare_python(dependencies)
        lines, notes = without_other_servers(dependencies.requirements)
        for note in notes:
            self._say(note)
        if not lines:
            self._say("the model asks for no package")
            return
        source = dependencies.source
        # Paths in a requirement are meant from the model's folder on, as MLflow does it.
        status, output = self._pip_install(["--requirement", _file(lines)], model)
        if status:
            found = conflict.find(output)
            raise StartupError(
                f"{found.package} and {found.other}, which needs {found.needs}, cannot be "
                f"installed together: change one of them in the model's {source}"
                if found
                else f"what the model's {source} asks for cannot be installed: "
                f"{conflict.last_error(output) or 'see above'}"
            )

    def install_server(self, wheel: Path, extras: str = "") -> None:
        """Install the server and leave every package as it is. Raises: StartupError"""
        server = f"{wheel}[{extras}]" if extras else str(wheel)
        constraints = _file(_constraints(self.packages()))
        status, output = self._pip_install(["--constraint", constraints, server], None)
        if not status:
            return
        found = conflict.find(output)
        if found is None:
            what = conflict.last_error(output) or "see above"
            raise StartupError(f"the server cannot be installed beside the model: {what}")
        raise StartupError(
            f"{found.package}, which {self._who_needs(found.name)}, and {found.other}, which needs "
            f"{found.needs}, cannot be installed together: the model has to be logged with another "
            f"version of {found.name}"
        )

    def packages(self) -> Mapping[str, str]:
        """Give the version of each package by its name."""
        return {one.metadata["Name"]: one.version for one in self._distributions()}

    def check(self) -> None:
        """Say which packages are without what they need; the model may do without it."""
        status, output = self._run([*self._pip, "check"], None, quiet=True)
        if status:
            self._say(f"not all packages have what they need: {'; '.join(output.splitlines())}")

    def slim(self) -> int:
        """Remove what serving does not read; give the bytes that were saved."""
        return sum(slim.slim(folder) for folder in self._site_packages())

    def compile(self) -> None:
        """Compile what is left, on all CPUs: the container's root cannot be written.

        By the files' content and not their times, which a builder may change as it copies them.
        A file that does not compile, such as a template, is nobody's fault.
        """
        options = ["-q", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
        folders = [str(folder) for folder in self._site_packages()]
        self._run([str(self.python), "-m", "compileall", *options, *folders], None, quiet=True)

    @property
    def _pip(self) -> list[str]:
        return [sys.executable, "-m", "pip", "--python", str(self.python)]

    def _pip_install(self, what: Sequence[str], folder: Path | None) -> tuple[int, str]:
        options = ["--progress-bar", "off", "--no-warn-script-location", "--no-compile"]
        return self._run([*self._pip, "install", *options, *what], folder)

    def _who_needs(self, package: str) -> str:
        """Say of a package that is there whether it is the model's own, or who brought it."""
        users = [
            one.metadata["Name"]
            for one in self._distributions()
            if any(name_of(line) == package for line in one.requires or ())
        ]
        return f"the model's {', '.join(sorted(users))} needs" if users else "the model asks for"

    def _distributions(self) -> Iterable[metadata.Distribution]:
        return metadata.distributions(path=[str(folder) for folder in self._site_packages()])

    def _site_packages(self) -> list[Path]:
        return list(self.prefix.glob("lib/python3.*/site-packages"))

    def _compare_python(self, dependencies: Dependencies) -> None:
        wanted, own = minor_of(dependencies.python), sys.version_info.minor
        if wanted is not None and wanted != own:
            image = f"docker.io/library/python:3.{wanted}-slim-bookworm"
            self._say(
                f"WARNING: the model's {dependencies.source} says Python {dependencies.python}, "
                f"and this image has 3.{own}: a pickled model may not load, or fail later; "
                f"build the base image with PYTHON_IMAGE={image}"
            )

    def _say(self, line: str) -> None:
        self.out.write(f"pyfuncserver: {line}\n")
        self.out.flush()

    def _run(
        self, command: Sequence[str], folder: Path | None, quiet: bool = False
    ) -> tuple[int, str]:
        """Run it; give its status and what it wrote, which is shown meanwhile unless quiet."""
        lines = []
        with subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **_VARIABLES},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if not quiet:
                    self.out.write(line)
                    self.out.flush()
        return process.returncode, "".join(lines)


def _refuse_conda(dependencies: Dependencies) -> None:
    if dependencies.conda:
        raise StartupError(
            f"the model's {dependencies.source} asks conda for {', '.join(dependencies.conda)}, "
            "and this image is made by pip: list under pip what pip can install and put the rest "
            "into a base image of your own (BASE_IMAGE), or name a requirements.txt "
            "(MODEL_DEPENDENCIES_URL)"
        )


def _constraints(packages: Mapping[str, str]) -> list[str]:
    lines = [f"{name}=={version}" for name, version in packages.items()]
    # The server needs mlflow, of which mlflow-skinny is a part that has to be of its version.
    if "mlflow" not in packages and "mlflow-skinny" in packages:
        lines.append(f"mlflow=={packages['mlflow-skinny']}")
    return lines


def _file(lines: Iterable[str]) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    return file.name
