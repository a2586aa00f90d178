"""Code that models bring along (MLflow's ``code_paths``): each model of a process has its own.

MLflow puts each model's code first in ``sys.path`` and imports it by its name. Where two models, or
two versions of one, have modules of one name, the second would run with those of the first. So each
is loaded as if there were no others, and the modules of all are there again afterwards: an import
that a model makes only when it predicts finds the last one's, and that is logged.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

Package = dict[str, ModuleType]
"""The modules below one top-level name, by their full names."""


class OwnCode:
    """What the models of a process have brought so far."""

    def __init__(self) -> None:
        self._packages: dict[str, Package] = {}
        """By their top-level names; the last model's, where several have one."""
        self._paths: list[str] = []
        """What they have put into ``sys.path``."""
        self._files: dict[str, tuple[str, bytes]] = {}
        """What could be imported: by top-level names, the last model that has it, and a digest."""

    @contextmanager
    def of(self, model: str, folder: Path) -> Iterator[None]:
        """Load a model with its own code; what one that fails to load has imported is forgotten."""
        for package in self._packages.values():
            for name in package:
                sys.modules.pop(name, None)
        known, path = set(sys.modules), [at for at in sys.path if at not in self._paths]
        sys.path = list(path)
        try:
            yield
        except BaseException:
            _take(known, folder)
            sys.path = path
            raise
        else:
            self._packages |= _take(known, folder)
            paths = [at for at in sys.path if at not in path]
            self._paths = paths + self._paths
            try:
                self._compare(model, [Path(at) for at in paths if Path(at).is_relative_to(folder)])
            except OSError as error:
                log.debug("the code of %s cannot be compared with others': %s", model, error)
        finally:
            sys.path = self._paths + [at for at in sys.path if at not in self._paths]
            for package in self._packages.values():
                sys.modules.update(package)

    def _compare(self, model: str, paths: list[Path]) -> None:
        """Tell of names that mean one thing to this model and another to one before."""
        others: dict[str, list[str]] = {}
        for entry in sorted(entry for path in paths if path.is_dir() for entry in path.iterdir()):
            if not entry.is_dir() and entry.suffix != ".py":
                continue
            digest = _digest(entry)
            other, known = self._files.get(entry.stem, (model, digest))
            if known != digest:
                others.setdefault(other, []).append(entry.stem)
            self._files[entry.stem] = model, digest
        for other, names in others.items():
            log.warning(
                "%s and %s bring different modules %s along: each is loaded with its own, but what "
                "%s imports of these later, while it predicts, may be the other's",
                other, model, ", ".join(names), other,
            )  # fmt: skip


def _take(known: set[str], folder: Path) -> dict[str, Package]:
    """Remove the modules that are new and from a folder; give them."""
    places = (f"{folder}/", f"{folder.resolve()}/")
    packages: dict[str, Package] = {}
    for name in set(sys.modules) - known:
        module: Any = sys.modules[name]  # whatever somebody has put there
        if isinstance(module, ModuleType) and _file(module).startswith(places):
            packages.setdefault(name.partition(".")[0], {})[name] = sys.modules.pop(name)
    return packages


def _file(module: ModuleType) -> str:
    """Give where a module is from; of a package without a file, its first folder."""
    found = vars(module).get("__file__") or next(iter(vars(module).get("__path__") or ()), "")
    return found if isinstance(found, str) else ""


def _digest(entry: Path) -> bytes:
    digest = hashlib.sha256()
    for file in sorted(entry.rglob("*.py")) if entry.is_dir() else [entry]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.digest()
