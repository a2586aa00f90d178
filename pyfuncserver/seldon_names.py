"""Seldon's names for our settings: its Python server's variables and flags, read as ours.

Each means one setting of ours, which wins where both are set. The facts are those of
``seldon_core.microservice``, version 1.18: names, and how the values are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyfuncserver.errors import StartupError

USAGE_STATUS = 2
HTTP, GRPC = "HTTP_JSON", "UPI_V1"
_HTTP_WORKERS, _GRPC_WORKERS = "GUNICORN_WORKERS", "GRPC_WORKERS"
_GRPC_PORT = "PREDICTIVE_UNIT_GRPC_SERVICE_PORT"
_TRUE, _FALSE = ("1", "true", "t", "yes", "on"), ("0", "false", "f", "no", "off")

Given = Mapping[str, str]
"""What is set, by Seldon's variable, also where it was set by a flag."""


@dataclass(frozen=True)
class Name:
    """One of Seldon's names."""

    variable: str
    field: str
    """Our setting's field."""
    flag: str = ""
    """Seldon's flag without its dashes, where ours is called otherwise."""
    read: Callable[[str, str], str | None] = lambda _, value: value
    """Gives our setting's value for this variable's; None where it does not say any.

    Raises: StartupError
    """

    @property
    def is_switch(self) -> bool:
        """Tell whether the flag needs no value."""
        return self.read in (_fixed_thread, _debug)


def _switch(variable: str, value: str) -> bool:
    word = value.strip().lower()
    if word not in (*_TRUE, *_FALSE):
        raise StartupError(
            f"{variable}={value[:100]!r} is not allowed; allowed: true or false, 1 or 0",
            USAGE_STATUS,
        )
    return word in _TRUE


def _fixed_thread(variable: str, value: str) -> str | None:
    return "1 fixed" if _switch(variable, value) else None


def _debug(variable: str, value: str) -> str | None:
    return "DEBUG" if _switch(variable, value) else None


def _parameters(_: str, value: str) -> str | None:
    return None if "".join(value.split()) == "[]" else value  # as Seldon's operator always sets it


def _workers(_: str, value: str) -> str | None:
    return None if _is_zero(value) else value  # that says which protocols there are


def _is_zero(value: str) -> bool:
    return value.strip().isdecimal() and int(value) == 0


NAMES = (
    Name(_HTTP_WORKERS, "workers", read=_workers),
    Name(_GRPC_WORKERS, "workers", "grpc-workers", _workers),
    Name("FLASK_SINGLE_THREADED", "threads", "single-threaded", _fixed_thread),
    Name("GUNICORN_THREADS", "threads"),
    Name("GRPC_THREADS", "grpc_concurrency", "grpc-threads"),
    Name("GUNICORN_MAX_REQUESTS", "max_requests"),
    Name("GUNICORN_MAX_REQUESTS_JITTER", "max_requests_jitter"),
    Name("GUNICORN_KEEPALIVE", "keep_alive_sec", "keepalive"),
    Name("GUNICORN_ACCESS_LOG", "access_log"),
    Name("SELDON_DEBUG", "log_level", "debug", _debug),
    Name("SELDON_LOG_LEVEL", "log_level"),
    Name("LOG_LEVEL_ENV", "log_level"),
    Name("PREDICTIVE_UNIT_PARAMETERS", "parameters", "parameters", _parameters),
    Name("PREDICTIVE_UNIT_HTTP_SERVICE_PORT", "http_port"),
    Name(_GRPC_PORT, "grpc_port"),
    Name("PREDICTIVE_UNIT_METRICS_SERVICE_PORT", "metrics_port"),
    Name("PREDICTIVE_UNIT_METRICS_ENDPOINT", "metrics_path"),
)
"""Of two for one setting the first wins; of workers, the greater number."""


@dataclass(frozen=True)
class Meaning:
    """What Seldon's names say of one of our settings."""

    field: str
    value: str
    source: str
    """The variable that says so."""
    flag: str = ""
    """The flag of the same meaning, with its dashes."""


def names_of(field: str) -> list[Name]:
    """List Seldon's names for a setting of ours."""
    return [name for name in NAMES if name.field == field]


def meanings(given: Given) -> dict[str, Meaning]:
    """Tell what Seldon's names mean, by our fields. Raises: StartupError where a switch is none.

    What they say of the protocol, :func:`protocols` tells.
    """
    found: dict[str, Meaning] = {}
    for meaning in _readings(given):
        before = found.setdefault(meaning.field, meaning)
        if meaning.field == "workers" and _is_greater(meaning.value, before.value):
            found[meaning.field] = meaning
    return found


def _readings(given: Given) -> Iterator[Meaning]:
    for name in NAMES:
        value = given.get(name.variable)
        read = name.read(name.variable, value) if value else None
        if read is not None:
            yield Meaning(name.field, read, name.variable, f"--{name.flag}")


def _is_greater(one: str, other: str) -> bool:
    if not one.strip().isdecimal():
        return True  # a bad value is to be told of
    return other.strip().isdecimal() and int(one) > int(other)


def protocols(given: Given, protocol: str | None) -> Meaning | None:
    """Tell which protocols there are; None where Seldon's names change nothing about it.

    ``protocol`` is what our own setting says, or None; a number of workers of 0 takes one away.
    Seldon's server speaks both, so where ours does not say, gRPC is there if its workers or its
    port are set, or where HTTP is off.
    Raises: StartupError where none is left.
    """
    http, grpc = given.get(_HTTP_WORKERS, ""), given.get(_GRPC_WORKERS, "")
    if protocol is None:
        wants_grpc = bool(grpc or given.get(_GRPC_PORT)) or _is_zero(http)
        asked = [HTTP, GRPC] if wants_grpc else [HTTP]
    else:
        asked = [part.strip() for part in protocol.split(",")]
    off = {HTTP: _is_zero(http), GRPC: _is_zero(grpc)}
    left = [name for name in asked if not off.get(name.upper(), False)]
    if not left:
        raise StartupError(
            f"{_HTTP_WORKERS} and {_GRPC_WORKERS} leave no protocol to speak: 0 turns one off",
            USAGE_STATUS,
        )
    if left == (asked if protocol is not None else [HTTP]):
        return None
    return Meaning("protocol", ",".join(left), _GRPC_WORKERS if grpc else _HTTP_WORKERS)


def contradiction(meaning: Meaning, ours: str, name: str) -> str | None:
    """Say that our setting, by this name, is set to something else; None where it is not."""
    if _same(meaning.value, ours):
        return None
    return f"{meaning.source} has no effect: {name}={ours[:100]} is set as well"


def _same(one: str, other: str) -> bool:
    """Compare two texts of one setting: 2 and 2.0 are the same, and true and 1."""
    for words in (_TRUE, _FALSE):
        if one.lower() in words and other.lower() in words:
            return True
    try:
        return float(one) == float(other)
    except ValueError:
        return one.strip().lower() == other.strip().lower()


def parameters(given: Sequence[Any]) -> dict[str, Any]:
    """Read Seldon's typed parameters: objects with a name, a value and its type.

    Seldon's operator writes every value as a string; one that is of its type in JSON is taken, too.
    Raises: ValueError that names the parameter which will not do.
    """
    found: dict[str, Any] = {}
    for number, one in enumerate(given, 1):
        if not isinstance(one, dict) or not isinstance(one.get("name"), str) or not one["name"]:
            raise ValueError(f"its parameter {number} is no object with a name")
        if one["name"] in found:
            raise ValueError(f"names the parameter {one['name']!r} twice")
        found[one["name"]] = _typed(one["name"], one.get("type"), one.get("value"))
    return found


def _typed(name: str, kind: object, value: object) -> Any:
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        kinds = ", ".join(_READERS)
        raise ValueError(f"the type of its parameter {name!r} is none of {kinds}")
    try:
        return read(value)
    except ValueError:
        raise ValueError(f"the value of its parameter {name!r} is no {kind}") from None


def _whole(value: object) -> int:
    if isinstance(value, str):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError


def _number(value: object) -> float:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError


def _text(value: object) -> str:
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.lower() if isinstance(value, str) else ""
    if word not in (*_TRUE, "y", *_FALSE, "n"):  # those of distutils.util.strtobool
        raise ValueError
    return word in (*_TRUE, "y")


_READERS: dict[str, Callable[[object], Any]] = {
    "INT": _whole,
    "FLOAT": _number,
    "DOUBLE": _number,
    "STRING": _text,
    "BOOL": _truth,
}
"""What ``parse_parameters`` of Seldon's server knows."""
