"""Makes the environment ``merlin-model``: first what the model asks for, then the server.

All that is there once the model's requirements are installed becomes a constraint of the server's
installation. So the model has what it was tested with, and where the server cannot do with that,
the build ends and says which two packages are in each other's way.

What conda has installed is a constraint of the model's own pip part as well. conda itself lets pip
replace its packages; but pip replaces a package's modules only, and not the libraries that came
with them, and other packages of conda's were built for the version that is then gone.
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
CONDA_TOOLS = ("py-rattler~=0.28.0", "pip>=24.2")
"""What makes conda environments; and a pip that runs on every Python that they may have."""
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
    """A virtual environment without pip, or one of conda's, worked on from outside of it."""

    prefix: Path
    out: TextIO

    @property
    def python(self) -> Path:
        return self.prefix / "bin" / "python"

    def make(self, dependencies: Dependencies) -> None:
        """Make it, by conda where the model asks for what only that has. Raises: StartupError"""
        if dependencies.variables:
            self._say(
                f"WARNING: the variables of the model's {dependencies.source} are not set here: "
                f"give the container {', '.join(dependencies.variables)}"
            )
        if dependencies.conda:
            self._make_by_conda(dependencies)
            return
        self._compare_python(dependencies)
        command = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(self.prefix)]
        status, _ = self._run(command, None)
        if status:
            raise StartupError(f"the environment {self.prefix} cannot be made: see above")

    def install_model(self, dependencies: Dependencies, model: Path) -> None:
        """Install what the model asks pip for. Raises: StartupError"""
        lines, notes = without_other_servers(dependencies.requirements)
        for note in notes:
            self._say(note)
        if not lines:
            self._say("the model asks pip for no package")
            return
        source = dependencies.source
        is_conda = bool(dependencies.conda)
        held = ["--constraint", _file(_constraints(self.packages()))] if is_conda else []
        # Paths in a requirement are meant from the model's folder on, as MLflow does it.
        status, output = self._pip_install([*held, "--requirement", _file(lines)], model)
        if status:
            found = conflict.find(output)
            raise StartupError(
                f"{found.package} and {found.opponent} cannot be installed together: change one "
                f"of them in the model's {source}"
                f"{', where pip leaves what conda has installed' if is_conda else ''}"
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
            f"{found.package}, which {self._who_needs(found.name)}, and {found.opponent} "
            "cannot be installed together: the model has to be logged with another version of "
            f"{found.name}"
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
        saved = sum(slim.slim(folder) for folder in self._site_packages())
        return saved + slim.slim_conda(self.prefix)

    def compile(self) -> None:
        """Compile what is left, on all CPUs: the container's root cannot be written.

        By the files' content and not their times, which a builder may change as it copies them.
        A file that does not compile, such as a template, is nobody's fault.
        """
        options = ["-q", "-q", "-f", "-j", "0", "--invalidation-mode", "unchecked-hash"]
        folders = [str(folder.parent) for folder in self._site_packages()]
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
        found = self.prefix.glob("lib/python3.*/site-packages")
        # conda's Python has a link python3.1 beside the folder.
        return [folder for folder in found if not folder.parent.is_symlink()]

    def _make_by_conda(self, dependencies: Dependencies) -> None:
        """Make it with the Python that the file asks for. Raises: StartupError"""
        source, minor = dependencies.source, minor_of(dependencies.python)
        if minor is not None and not OLDEST_MINOR <= minor <= NEWEST_MINOR:
            raise StartupError(
                f"the model's {source} asks for Python {dependencies.python}, and the server runs "
                f"on Python 3.{OLDEST_MINOR} to 3.{NEWEST_MINOR}"
            )
        command = [
            *(sys.executable, "-m", "pyfuncserver.image.conda", f"--prefix={self.prefix}"),
            f"--python=>=3.{OLDEST_MINOR},<3.{NEWEST_MINOR + 1}",
            *(f"--channel={channel}" for channel in dependencies.channels),
            *(f"--spec={spec}" for spec in dependencies.conda),
        ]
        # Removed here: where it fails, threads of the process write until it is gone.
        with tempfile.TemporaryDirectory() as cache:
            status, output = self._run([*command, f"--cache={cache}"], None)
        if status:
            raise StartupError(
                f"what the model's {source} asks conda for ({', '.join(dependencies.conda)}) "
                f"cannot be installed: {conflict.last_error(output) or 'see above'}"
            )

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
