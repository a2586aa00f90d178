"""CONTRACTS, section 9: Seldon's names for our settings, and which wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pyfuncserver import config, seldon_names, server
from pyfuncserver.config import Config, LogLevel, Protocol
from pyfuncserver.errors import StartupError

HTTP, GRPC = Protocol.HTTP_JSON, Protocol.UPI_V1

# Seldon's variable, its flag, what is given, our setting, and what that is then.
SAME: list[tuple[str, str, str, str, Any]] = [
    ("GUNICORN_WORKERS", "workers", "3", "workers", 3),
    ("GRPC_WORKERS", "grpc-workers", "2", "workers", 2),
    ("GUNICORN_THREADS", "threads", "4", "threads", 4),
    ("FLASK_SINGLE_THREADED", "single-threaded", "1", "threads", "1 fixed"),
    ("FLASK_SINGLE_THREADED", "single-threaded", "0", "threads", 1),
    ("GRPC_THREADS", "grpc-threads", "7", "grpc_concurrency", 7),
    ("GUNICORN_MAX_REQUESTS", "max-requests", "100", "max_requests", 100),
    ("GUNICORN_MAX_REQUESTS_JITTER", "max-requests-jitter", "9", "max_requests_jitter", 9),
    ("GUNICORN_KEEPALIVE", "keepalive", "2", "keep_alive_sec", 2),
    ("GUNICORN_ACCESS_LOG", "access-log", "true", "access_log", True),
    ("FILTER_METRICS_ACCESS_LOGS", "filter-metrics-access-logs", "false",
     "filter_metrics_access_logs", False),
    ("PIDFILE", "pidfile", "/run/it", "pidfile", "/run/it"),
    ("SELDON_DEBUG", "debug", "true", "log_level", LogLevel.DEBUG),
    ("SELDON_DEBUG", "debug", "0", "log_level", LogLevel.INFO),
    ("SELDON_LOG_LEVEL", "log-level", "ERROR", "log_level", LogLevel.ERROR),
    ("LOG_LEVEL_ENV", "log-level", "warning", "log_level", LogLevel.WARNING),
    ("PREDICTIVE_UNIT_HTTP_SERVICE_PORT", "http-port", "81", "http_port", 81),
    ("PREDICTIVE_UNIT_GRPC_SERVICE_PORT", "grpc-port", "82", "grpc_port", 82),
    ("PREDICTIVE_UNIT_METRICS_SERVICE_PORT", "metrics-port", "83", "metrics_port", 83),
    ("PREDICTIVE_UNIT_METRICS_ENDPOINT", "metrics-path", "/prometheus", "metrics_path",
     "/prometheus"),
    ("TRACING", "tracing", "1", "tracing", True),
    ("TRACING", "tracing", "0", "tracing", False),
    ("PREDICTIVE_UNIT_PARAMETERS", "parameters",
     '[{"name": "C", "value": "0.5", "type": "FLOAT"}]', "parameters", {"C": 0.5}),
    ("PREDICTIVE_UNIT_PARAMETERS", "parameters", "[]", "parameters", {}),
    ("PAYLOAD_PASSTHROUGH", "payload-passthrough", "1", "payload_passthrough", True),
]  # fmt: skip

# GUNICORN_WORKERS, GRPC_WORKERS, CARAML_PROTOCOL; what is spoken, and by how many workers.
PROTOCOLS: list[tuple[str, str, str, tuple[Protocol, ...], int]] = [
    ("", "", "", (HTTP,), 1),
    ("2", "", "", (HTTP,), 2),
    ("2", "3", "", (HTTP, GRPC), 3),
    ("4", "1", "", (HTTP, GRPC), 4),
    ("2", "0", "", (HTTP,), 2),
    ("0", "2", "", (GRPC,), 2),
    ("0", "", "", (GRPC,), 1),
    ("", "0", "HTTP_JSON,UPI_V1", (HTTP,), 1),
    ("0", "", "UPI_V1, HTTP_JSON", (GRPC,), 1),
    ("", "2", "HTTP_JSON", (HTTP,), 2),
    ("0", "3", "http_json,upi_v1", (GRPC,), 3),
]


@pytest.fixture(autouse=True)
def _clean(clean_environ: Mapping[str, str]) -> None:
    """Read only what the test has set."""


def read(*argv: str) -> Config:
    return config.read(["--model_dir", "somewhere", *argv])


def contradictions(environ: Mapping[str, str], *argv: str) -> list[str]:
    return config.contradictions(["--model_dir", "x", *argv], environ)


@pytest.mark.parametrize(("variable", "_", "given", "field", "expected"), SAME)
def test_variable(
    variable: str, _: str, given: str, field: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, given)
    assert getattr(read(), field) == expected


@pytest.mark.parametrize(("_", "flag", "given", "field", "expected"), SAME)
def test_flag(_: str, flag: str, given: str, field: str, expected: object) -> None:
    assert getattr(read(f"--{flag}={given}"), field) == expected
    assert getattr(read(f"--{flag}", given), field) == expected


@pytest.mark.parametrize(("http", "grpc", "protocol", "spoken", "workers"), PROTOCOLS)
def test_workers_by_protocol(
    http: str,
    grpc: str,
    protocol: str,
    spoken: tuple[Protocol, ...],
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GUNICORN_WORKERS", http)
    monkeypatch.setenv("GRPC_WORKERS", grpc)
    monkeypatch.setenv("CARAML_PROTOCOL", protocol)
    found = read()
    assert (found.protocol, found.workers) == (spoken, workers)


def test_a_port_for_grpc_has_it_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREDICTIVE_UNIT_GRPC_SERVICE_PORT", "5000")
    assert read().protocol == (HTTP, GRPC)
    assert read("--grpc-workers", "0").protocol == (HTTP,)
    assert read("--protocol", "HTTP_JSON").protocol == (HTTP,)


def test_a_flag_turns_a_protocol_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("--protocol=HTTP_JSON,UPI_V1", "--grpc-workers=0").protocol == (HTTP,)
    monkeypatch.setenv("CARAML_PROTOCOL", "HTTP_JSON,UPI_V1")
    assert read("--grpc-workers=0").protocol == (HTTP,)
    monkeypatch.setenv("GRPC_WORKERS", "0")
    assert read("--grpc-workers=2").protocol == (HTTP, GRPC)


def test_a_protocol_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNICORN_WORKERS", "0")
    monkeypatch.setenv("GRPC_WORKERS", "0")
    with pytest.raises(StartupError, match="no protocol") as caught:
        read()
    assert caught.value.status == 2


# Which wins


def test_ours_wins_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"WORKERS": "2", "GUNICORN_WORKERS": "3", "GUNICORN_KEEPALIVE": "5"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert (read().workers, read().keep_alive_sec) == (2, 5)
    (line,) = contradictions(environ)
    assert "GUNICORN_WORKERS" in line
    assert "WORKERS=2" in line
    assert contradictions({**environ, "WORKERS": "3"}) == []


def test_ours_wins_among_flags() -> None:
    argv = ("--keepalive", "5", "--keep_alive_sec", "6")
    assert read(*argv).keep_alive_sec == read(*reversed_pairs(argv)).keep_alive_sec == 6
    (line,) = contradictions({}, *argv)
    assert "--keep_alive_sec=6" in line


def reversed_pairs(argv: tuple[str, ...]) -> tuple[str, ...]:
    return (*argv[2:], *argv[:2])


def test_a_flag_of_either_beats_a_variable_of_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEP_ALIVE_SEC", "7")
    monkeypatch.setenv("GUNICORN_KEEPALIVE", "8")
    assert read("--keepalive=9").keep_alive_sec == 9
    assert read("--keep-alive-sec=10").keep_alive_sec == 10
    assert read().keep_alive_sec == 7


@pytest.mark.parametrize(("ours", "seldons"), [("true", "1"), ("2", "2.0"), ("Debug", "DEBUG")])
def test_the_same_in_other_words_is_no_contradiction(ours: str, seldons: str) -> None:
    meaning = seldon_names.Meaning("x", seldons, "SELDONS")
    assert seldon_names.contradiction(meaning, ours, "OURS") is None


def test_debugging_is_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("--debug").log_level is LogLevel.DEBUG
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    monkeypatch.setenv("SELDON_DEBUG", "true")
    assert read().log_level is LogLevel.ERROR
    monkeypatch.setenv("LOG_LEVEL", "")
    monkeypatch.setenv("SELDON_LOG_LEVEL", "ERROR")
    assert read().log_level is LogLevel.DEBUG


def test_a_single_thread_beats_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNICORN_THREADS", "4")
    monkeypatch.setenv("FLASK_SINGLE_THREADED", "1")
    assert read().threads == "1 fixed"


def test_a_contradiction_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CARAML_HTTP_PORT", "1")
    monkeypatch.setenv("PREDICTIVE_UNIT_HTTP_SERVICE_PORT", "2")
    server._warn(read())
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# What is refused


@pytest.mark.parametrize(("variable", "flag", "given"), [
    ("GUNICORN_KEEPALIVE", "keepalive", "0"),
    ("GUNICORN_KEEPALIVE", "keepalive", "soon"),
    ("GRPC_WORKERS", "grpc-workers", "many"),
    ("GRPC_THREADS", "grpc-threads", "0"),
    ("FLASK_SINGLE_THREADED", "single-threaded", "perhaps"),
    ("SELDON_DEBUG", "debug", "perhaps"),
    ("PREDICTIVE_UNIT_METRICS_SERVICE_PORT", "metrics-port", "65536"),
    ("PREDICTIVE_UNIT_METRICS_ENDPOINT", "metrics-path", "metrics"),
])  # fmt: skip
def test_a_bad_value_is_named_as_it_was_given(
    variable: str, flag: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StartupError) as caught:
        read(f"--{flag}={given}")
    assert flag in str(caught.value).replace("_", "-") or variable in str(caught.value)
    monkeypatch.setenv(variable, given)
    with pytest.raises(StartupError) as caught:
        read()
    assert f"{variable}='{given}'" in str(caught.value)
    assert caught.value.status == 2


@pytest.mark.parametrize("flag", ["--persistence=1", "--service-type=MODEL"])
def test_what_does_nothing_yet_is_refused(flag: str) -> None:
    with pytest.raises(StartupError, match="unrecognized"):
        read(flag)


def test_every_name_is_in_the_table() -> None:
    table = config.table()
    for name in seldon_names.NAMES:
        assert f"`{name.variable}`" in table
        assert f"`--{name.flag}`" in table or not name.flag
    fields = {row.field for row in config.settings()}
    assert {name.field for name in seldon_names.NAMES} <= fields


# Typed parameters


def one(kind: object, value: object, name: object = "p") -> dict[str, object]:
    return {"name": name, "type": kind, "value": value}


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("INT", "5", 5),
        ("INT", -5, -5),
        ("FLOAT", "0.5", 0.5),
        ("FLOAT", 2, 2.0),
        ("DOUBLE", "1e3", 1000.0),
        ("STRING", "true", "true"),
        ("STRING", 5, "5"),
        ("BOOL", "True", True),
        ("BOOL", "y", True),
        ("BOOL", "off", False),
        ("BOOL", "0", False),
        ("BOOL", True, True),
    ],
)
def test_a_parameter(kind: str, value: object, expected: object) -> None:
    found = seldon_names.parameters([one(kind, value)])
    assert found == {"p": expected}
    assert type(found["p"]) is type(expected)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([one("INT", "5.5")], "the value of its parameter 'p' is no INT"),
        ([one("INT", 5.5)], "is no INT"),
        ([one("INT", True)], "is no INT"),
        ([one("FLOAT", "much")], "is no FLOAT"),
        ([one("DOUBLE", None)], "is no DOUBLE"),
        ([one("STRING", ["a"])], "is no STRING"),
        ([one("BOOL", "perhaps")], "is no BOOL"),
        ([one("BOOL", 1)], "is no BOOL"),
        ([one("int", "5")], "'p' is none of INT, FLOAT, DOUBLE, STRING, BOOL"),
        ([one(["INT"], "5")], "is none of"),
        ([one("INT", "5"), one("INT", "6")], "names the parameter 'p' twice"),
        ([one("INT", "5"), "q"], "its parameter 2 is no object with a name"),
        ([one("INT", "5", name=3)], "its parameter 1 is no object with a name"),
        ([one("INT", "5", name="")], "its parameter 1 is no object with a name"),
    ],
)
def test_a_parameter_that_will_not_do(given: list[Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        seldon_names.parameters(given)


def test_parameters_that_will_not_do_are_told_by_the_name_that_was_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = '[{"name": "p", "type": "LONG", "value": "1"}]'
    with pytest.raises(
        StartupError, match=r"^--parameters='.* is not allowed: the type of"
    ) as told:
        read("--parameters", given)
    assert told.value.status == 2
    monkeypatch.setenv("PREDICTIVE_UNIT_PARAMETERS", given)
    with pytest.raises(StartupError, match=r"^PREDICTIVE_UNIT_PARAMETERS='"):
        read()
    with pytest.raises(StartupError, match=r"^--model_config='1'"):
        read("--model_config", "1")


def test_ours_wins_over_parameters_and_an_empty_list_says_nothing() -> None:
    ours = {"MODEL_CONFIG": '{"a": 1}'}
    (line,) = contradictions({**ours, "PREDICTIVE_UNIT_PARAMETERS": "[1]"})
    assert line == 'PREDICTIVE_UNIT_PARAMETERS has no effect: MODEL_CONFIG={"a": 1} is set as well'
    assert contradictions({**ours, "PREDICTIVE_UNIT_PARAMETERS": " [ ]"}) == []
    (line,) = contradictions({}, "--parameters", "[1]", "--model-config", "{}")
    assert line == "PREDICTIVE_UNIT_PARAMETERS has no effect: --model_config={} is set as well"
