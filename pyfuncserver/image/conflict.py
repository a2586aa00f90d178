"""What pip says when packages cannot be installed together, in one line that names two of them."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

# pip's own lines (pip/_internal/resolution/resolvelib/factory.py, get_installation_error).
_NEEDS = re.compile(r"\s+(?P<who>\S+ \S+) depends on (?P<what>.+)")
_ASKED = re.compile(r"\s+The user requested (?:\(constraint\) )?(?P<what>.+)")
_CAUSES = "The conflict is caused by:"
_ERROR = re.compile(r"ERROR: (?P<text>.+)")


@dataclass(frozen=True)
class Conflict:
    """A package that is there or asked for, and another that needs another version of it."""

    package: str
    """As it is asked for, e.g. ``tornado==5.1``."""
    other: str
    """Name and version, e.g. ``pyfuncserver 0.1.0``."""
    needs: str = ""
    """What the other one needs, e.g. ``tornado>=6.2``; empty where it is the same package."""

    @property
    def name(self) -> str:
        return _name(self.package)

    @property
    def opponent(self) -> str:
        return f"{self.other}, which needs {self.needs}," if self.needs else self.other


def find(output: str) -> Conflict | None:
    """Find the first two in pip's output that want different versions of one package."""
    _, _, causes = output.partition(_CAUSES)
    asked = [match["what"].strip() for match in _ASKED.finditer(causes)]
    needs = [(match["who"], match["what"].strip()) for match in _NEEDS.finditer(causes)]
    for package in asked:
        for who, what in needs:
            if _name(what) == _name(package):
                return Conflict(package, who, what)
    for index, (first, wanted) in enumerate(needs):
        for who, what in needs[index + 1 :]:
            if _name(what) == _name(wanted) and who.split()[0] != first.split()[0]:
                return Conflict(f"{first} (needs {wanted})", who, what)
    for package, other in itertools.combinations(asked, 2):
        if _name(package) == _name(other):
            return Conflict(package, other)
    return None


def last_error(output: str) -> str:
    """Give the last line that pip marks as an error; empty where there is none."""
    errors = _ERROR.findall(output)
    return errors[-1].strip() if errors else ""


def _name(requirement: str) -> str:
    try:
        return canonicalize_name(Requirement(requirement).name)
    except InvalidRequirement:
        return canonicalize_name(re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0])
