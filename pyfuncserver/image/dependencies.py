"""What a model asks of its environment: ``python_env.yaml``, ``requirements.txt``, ``conda.yaml``.

MLflow writes all three beside a model. A file is known by what is in it, for Merlin keeps a
model's ``conda.yaml`` under a name that is only a hash.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from pyfuncserver.errors import StartupError

CONDA, PYTHON_ENV, REQUIREMENTS = "conda.yaml", "python_env.yaml", "requirements.txt"
MERLIN_SERVER, MERLIN_SDK = "merlin-pyfunc-server", "merlin-sdk"
# What conda.yaml lists of every environment, and the environment here has without conda.
_OF_EVERY_ENVIRONMENT = {"python", "pip", "setuptools", "wheel"}
_OPERATORS_OF_RANGES = ("<", ">", "!", "~")
_CONDA_SPEC = re.compile(r"(?:.*::)?(?P<name>[A-Za-z0-9_.-]+)\s*(?P<version>.*)")
_INCLUDED = re.compile(r"(?:-r|--requirement)(?:\s*=\s*|\s*)(?P<file>\S.*)")
_COMMENT = re.compile(r"(^|\s+)#.*$")


@dataclass(frozen=True)
class Dependencies:
    """What one file asks for."""

    source: str
    """The file's name, for messages."""
    requirements: tuple[str, ...] = ()
    """Lines as pip reads them, without comments and without files that they include."""
    python: str = ""
    """The version that the model was made with; empty where the file does not say."""
    conda: tuple[str, ...] = ()
    """All that conda is asked for, where some of it only conda can install; else empty."""
    channels: tuple[str, ...] = ()
    """Where conda is to look, in this order; empty: conda's defaults."""
    variables: tuple[str, ...] = ()
    """Names of variables that conda would set."""


def of_model(model: Path) -> Dependencies:
    """Read the file that says most: conda.yaml where only conda could do what it asks.

    Raises: StartupError for a file that cannot be understood.
    """
    found = {
        name: read(model / name)
        for name in (PYTHON_ENV, REQUIREMENTS, CONDA)
        if (model / name).is_file()
    }
    conda = found.get(CONDA)
    if conda is not None and conda.conda:
        return conda
    return next(iter(found.values()), Dependencies(""))


def read(file: Path) -> Dependencies:
    """Read one file of any of the three kinds. Raises: StartupError"""
    text = _text(file)
    content = _mapping(text, file)
    if content is None:
        return Dependencies(file.name, tuple(_requirements(text.splitlines(), file)))
    if "python" in content or "build_dependencies" in content:
        return _python_env(content, file)
    return _conda(content, file)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise StartupError(f"{file.name} cannot be read: {error}") from None


def _mapping(text: str, file: Path) -> Mapping[str, Any] | None:
    """Give what YAML makes of it; None for a requirements.txt, which YAML takes for a text."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        if file.suffix not in {".yaml", ".yml"}:
            return None
        where = str(error).replace("\n", " ")
        raise StartupError(f"{file.name} is not YAML: {where}") from None
    if isinstance(content, Mapping):
        return content
    if file.suffix in {".yaml", ".yml"}:
        raise StartupError(f"{file.name} is not an environment: it has no keys")
    return None


def _python_env(content: Mapping[str, Any], file: Path) -> Dependencies:
    """Read MLflow's file (mlflow.utils.environment, ``_PythonEnv``)."""
    build = _strings(content, "build_dependencies", file)
    lines = [line for line in build if name_of(line) not in {"pip", "wheel"}]
    lines += _strings(content, "dependencies", file)
    python = str(content.get("python") or "")
    return Dependencies(file.name, tuple(_requirements(lines, file)), python)


def _conda(content: Mapping[str, Any], file: Path) -> Dependencies:
    pip: list[str] = []
    conda: list[str] = []
    names = set()
    python = ""
    for item in _list(content, "dependencies", file):
        if isinstance(item, Mapping):
            pip += _strings(item, "pip", file)
            continue
        spec = str(item).strip()
        matched = _CONDA_SPEC.fullmatch(spec)
        name, version = matched.group("name", "version") if matched else (spec, "")
        conda.append(spec)
        names.add(name)
        if name == "python" and not version.startswith(_OPERATORS_OF_RANGES):
            python = version.lstrip("= ").partition("=")[0].partition(",")[0]
    channels = tuple(_strings(content, "channels", file))
    if names <= _OF_EVERY_ENVIRONMENT:
        pip = ["setuptools", *pip] if "setuptools" in names else pip
        conda, channels = [], ()
    return Dependencies(
        file.name,
        tuple(_requirements(pip, file)),
        python,
        tuple(conda),
        channels,
        tuple(map(str, content.get("variables") or ())),
    )


def _list(content: Mapping[str, Any], key: str, file: Path) -> list[Any]:
    value = content.get(key) or []
    if not isinstance(value, list):
        raise StartupError(f"{file.name}: {key!r} is not a list")
    return value


def _strings(content: Mapping[str, Any], key: str, file: Path) -> list[str]:
    return [str(item) for item in _list(content, key, file)]


def _requirements(lines: Iterable[str], file: Path, depth: int = 0) -> Iterator[str]:
    """Give the lines without comments; a file that is included stands in its line's place."""
    for line in _joined(lines):
        included = _INCLUDED.fullmatch(line)
        if included is None or "://" in line:
            yield line
            continue
        other = file.parent / shlex.split(included["file"])[0]
        if depth > 9:
            raise StartupError(f"{file.name} includes itself by {line!r}")
        if not other.is_file():
            raise StartupError(f"{file.name} includes {line!r}, and there is no such file")
        yield from _requirements(_text(other).splitlines(), other, depth + 1)


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Give whole lines: a backslash at the end continues one (pip's requirements file format)."""
    begun = ""
    for line in lines:
        text = begun + line
        begun = text[:-1] if text.endswith("\\") else ""
        whole = _COMMENT.sub("", text).strip()
        if whole and not begun:
            yield whole
    if begun.strip():
        yield begun.strip()


def name_of(line: str) -> str:
    """Give the canonical name of the package that a line asks for; empty for a path or option."""
    requirement = _requirement(line)
    return canonicalize_name(requirement.name) if requirement else ""


def _requirement(line: str) -> Requirement | None:
    try:
        return Requirement(re.split(r"\s--", line)[0])  # options, e.g. --hash, follow
    except InvalidRequirement:
        return None


def without_other_servers(lines: Iterable[str]) -> tuple[list[str], list[str]]:
    """Leave Merlin's server out, which is a package of our name; give lines, and what was done.

    It brings Merlin's SDK of its own version along (its metadata: ``merlin-sdk==VERSION``), which
    a model may import: so that is asked for in its place.
    """
    kept, notes = [], []
    given = list(lines)
    has_sdk = any(name_of(line) == MERLIN_SDK for line in given)
    for line in given:
        name, requirement = name_of(line), _requirement(line)
        if requirement is None or name not in {MERLIN_SERVER, "pyfuncserver"}:
            kept.append(line)
        elif name == MERLIN_SERVER and not has_sdk:
            marker = f"; {requirement.marker}" if requirement.marker else ""
            kept.append(f"{MERLIN_SDK}{requirement.specifier}{marker}")
            notes.append(f"{line}: this server is in its place, with {kept[-1]}")
        else:
            notes.append(f"{line}: left out, this server is in its place")
    return kept, notes
