from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from harness import run_daemon_expecting_exit

from pyfuncserver import config, server
from pyfuncserver.config import Config, LogLevel, ModelLoading, Protocol
from pyfuncserver.errors import StartupError

README = Path(__file__).parents[2] / "README.md"

# CONTRACTS, section 1, and DESIGN's own settings: field, variable, default.
DEFAULTS: list[tuple[str, str, Any]] = [
    ("protocol", "CARAML_PROTOCOL", (Protocol.HTTP_JSON,)),
    ("http_port", "CARAML_HTTP_PORT", 8080),
    ("grpc_port", "CARAML_GRPC_PORT", 9000),
    ("model_name", "CARAML_MODEL_NAME", "model"),
    ("model_version", "CARAML_MODEL_VERSION", "1"),
    ("full_name", "CARAML_MODEL_FULL_NAME", "model-1"),
    ("project", "CARAML_PROJECT", "project"),
    ("model_schema", "CARAML_MODEL_SCHEMA", None),
    ("workers", "WORKERS", 1),
    ("log_level", "LOG_LEVEL", LogLevel.INFO),
    ("grpc_options", "GRPC_OPTIONS", {}),
    ("grpc_concurrency", "GRPC_CONCURRENCY", 10),
    ("pushgateway_enabled", "PUSHGATEWAY_ENABLED", False),
    ("pushgateway_url", "PUSHGATEWAY_URL", "localhost:9091"),
    ("pushgateway_push_interval_sec", "PUSHGATEWAY_PUSH_INTERVAL_SEC", 30),
    ("publisher_enabled", "PUBLISHER_ENABLED", False),
    ("publisher_sampling_ratio", "PUBLISHER_SAMPLING_RATIO", 0.01),
    ("publisher_kafka_topic", "PUBLISHER_KAFKA_TOPIC", ""),
    ("publisher_kafka_brokers", "PUBLISHER_KAFKA_BROKERS", ""),
    ("publisher_kafka_linger_ms", "PUBLISHER_KAFKA_LINGER_MS", 1000),
    ("publisher_kafka_acks", "PUBLISHER_KAFKA_ACKS", 0),
    ("publisher_kafka_num_partitions", "PUBLISHER_KAFKA_NUM_PARTITIONS", 24),
    ("publisher_kafka_replication_factor", "PUBLISHER_KAFKA_REPLICATION_FACTOR", 3),
    ("publisher_kafka_config", "PUBLISHER_KAFKA_CONFIG", {}),
    ("prometheus_multiproc_dir", "PROMETHEUS_MULTIPROC_DIR", ""),
    ("model_loading", "MODEL_LOADING", ModelLoading.AUTO),
    ("dry_run", "DRY_RUN", False),
    ("threads", "THREADS", 1),
    ("access_log", "ACCESS_LOG", False),
    ("max_queue", "MAX_QUEUE", 1000),
    ("batch_max_size", "BATCH_MAX_SIZE", 1),
    ("batch_max_delay_ms", "BATCH_MAX_DELAY_MS", 0),
    ("predict_timeout_sec", "PREDICT_TIMEOUT_SEC", 0),
    ("max_requests", "MAX_REQUESTS", 0),
    ("max_requests_jitter", "MAX_REQUESTS_JITTER", 0),
    ("heartbeat_timeout_sec", "HEARTBEAT_TIMEOUT_SEC", 30),
    ("max_restarts", "MAX_RESTARTS", 100),
    ("restart_window_sec", "RESTART_WINDOW_SEC", 60),
    ("max_body_size", "MAX_BODY_SIZE", 104857600),
    ("max_header_size", "MAX_HEADER_SIZE", 65536),
    ("keep_alive_sec", "KEEP_ALIVE_SEC", 75),
    ("request_timeout_sec", "REQUEST_TIMEOUT_SEC", 60),
    ("tls_cert", "TLS_CERT", ""),
    ("tls_key", "TLS_KEY", ""),
    ("tls_client_ca", "TLS_CLIENT_CA", ""),
    ("token_file", "TOKEN_FILE", ""),
    ("tracing", "TRACING", False),
    ("parameters", "MODEL_CONFIG", {}),
]

# Variable, what is set, what it is read as; by the variable and by the flag alike.
GOOD: list[tuple[str, str, str, Any]] = [
    ("protocol", "CARAML_PROTOCOL", "UPI_V1", (Protocol.UPI_V1,)),
    ("protocol", "CARAML_PROTOCOL", "HTTP_JSON,UPI_V1", (Protocol.HTTP_JSON, Protocol.UPI_V1)),
    ("protocol", "CARAML_PROTOCOL", "UPI_V1, HTTP_JSON", (Protocol.UPI_V1, Protocol.HTTP_JSON)),
    ("protocol", "CARAML_PROTOCOL", "UPI_V1,UPI_V1,", (Protocol.UPI_V1,)),
    ("http_port", "CARAML_HTTP_PORT", "0", 0),
    ("http_port", "CARAML_HTTP_PORT", "65535", 65535),
    ("model_name", "CARAML_MODEL_NAME", "a-B_c.9", "a-B_c.9"),
    ("model_schema", "CARAML_MODEL_SCHEMA", '{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
    ("workers", "WORKERS", "4", 4),
    ("grpc_options", "GRPC_OPTIONS", '{"a.b": 100, "c": "d"}', {"a.b": 100, "c": "d"}),
    ("grpc_options", "GRPC_OPTIONS", '{"on": true, "off": false}', {"on": 1, "off": 0}),
    ("publisher_kafka_config", "PUBLISHER_KAFKA_CONFIG", '{"x": 1.5}', {"x": 1.5}),
    ("pushgateway_enabled", "PUSHGATEWAY_ENABLED", "true", True),
    ("pushgateway_enabled", "PUSHGATEWAY_ENABLED", "False", False),
    ("pushgateway_push_interval_sec", "PUSHGATEWAY_PUSH_INTERVAL_SEC", "0.5", 0.5),
    ("model_loading", "MODEL_LOADING", "Worker", ModelLoading.WORKER),
    ("publisher_kafka_acks", "PUBLISHER_KAFKA_ACKS", "-1", -1),
    ("batch_max_size", "BATCH_MAX_SIZE", "64", 64),
    ("batch_max_size", "BATCH_MAX_SIZE", "Auto", "auto"),
    ("batch_max_delay_ms", "BATCH_MAX_DELAY_MS", "2.5", 2.5),
    ("tracing", "TRACING", "1", True),
    ("parameters", "MODEL_CONFIG", '{"a": {"b": [1, null]}}', {"a": {"b": [1, None]}}),
    ("parameters", "MODEL_CONFIG", '[{"name": "a", "type": "INT", "value": "1"}]', {"a": 1}),
]

# Variable, a bad value, a word of what is allowed.
BAD: list[tuple[str, str, str, str]] = [
    ("http_port", "CARAML_HTTP_PORT", "http", "0 to 65535"),
    ("http_port", "CARAML_HTTP_PORT", "65536", "0 to 65535"),
    ("http_port", "CARAML_HTTP_PORT", "-1", "0 to 65535"),
    ("grpc_port", "CARAML_GRPC_PORT", "9000.5", "0 to 65535"),
    ("batch_max_size", "BATCH_MAX_SIZE", "0", "1 to 65536, or auto"),
    ("batch_max_size", "BATCH_MAX_SIZE", "65537", "1 to 65536, or auto"),
    ("batch_max_size", "BATCH_MAX_SIZE", "automatic", "neither a whole number nor auto"),
    ("batch_max_size", "BATCH_MAX_SIZE", "1.5", "1 to 65536, or auto"),
    ("batch_max_delay_ms", "BATCH_MAX_DELAY_MS", "-1", "0 to 60000"),
    ("workers", "WORKERS", "0", "1 to 512"),
    ("workers", "WORKERS", "many", "1 to 512"),
    ("grpc_concurrency", "GRPC_CONCURRENCY", "0", "1 to 1024"),
    ("log_level", "LOG_LEVEL", "verbose", "DEBUG, INFO, WARN, WARNING, ERROR, CRITICAL"),
    ("protocol", "CARAML_PROTOCOL", "HTTP_V2", "HTTP_JSON, UPI_V1"),
    ("protocol", "CARAML_PROTOCOL", "HTTP_JSON,grpc", "HTTP_JSON, UPI_V1"),
    ("protocol", "CARAML_PROTOCOL", ",", "HTTP_JSON, UPI_V1"),
    ("model_name", "CARAML_MODEL_NAME", "a/b", "letters, digits"),
    ("model_version", "CARAML_MODEL_VERSION", "1\n", "letters, digits"),
    ("model_full_name", "CARAML_MODEL_FULL_NAME", "ä", "letters, digits"),
    ("model_schema", "CARAML_MODEL_SCHEMA", "{", "a JSON object"),
    ("model_schema", "CARAML_MODEL_SCHEMA", "[1]", "a JSON object"),
    ("grpc_options", "GRPC_OPTIONS", "grpc.x=1", "a JSON object"),
    ("grpc_options", "GRPC_OPTIONS", "null", "a JSON object"),
    ("grpc_options", "GRPC_OPTIONS", '{"a": 1.5}', "a JSON object"),
    ("grpc_options", "GRPC_OPTIONS", '{"a": {}, "b": []}', "a JSON object"),
    ("grpc_options", "GRPC_OPTIONS", "[" * 20000, "a JSON object"),
    ("pushgateway_enabled", "PUSHGATEWAY_ENABLED", "maybe", "true or false"),
    ("pushgateway_push_interval_sec", "PUSHGATEWAY_PUSH_INTERVAL_SEC", "0", "above 0"),
    ("pushgateway_push_interval_sec", "PUSHGATEWAY_PUSH_INTERVAL_SEC", "nan", "above 0"),
    ("pushgateway_push_interval_sec", "PUSHGATEWAY_PUSH_INTERVAL_SEC", "inf", "above 0"),
    ("publisher_sampling_ratio", "PUBLISHER_SAMPLING_RATIO", "1.01", "0 to 1"),
    ("publisher_kafka_acks", "PUBLISHER_KAFKA_ACKS", "2", "-1, 0 or 1"),
    ("publisher_enabled", "PUBLISHER_ENABLED", "true", "cannot be published"),
    ("publisher_kafka_config", "PUBLISHER_KAFKA_CONFIG", "3", "a JSON object"),
    ("drain_timeout_sec", "DRAIN_TIMEOUT_SEC", "-1", "0 to 3600"),
    ("drain_delay_sec", "DRAIN_DELAY_SEC", "nan", "0 to 3600"),
    ("model_loading", "MODEL_LOADING", "lazy", "auto, preload, worker"),
    ("tracing", "TRACING", "jaeger", "true or false"),
    ("parameters", "MODEL_CONFIG", "a=1", "is not JSON"),
    ("parameters", "MODEL_CONFIG", "1", "neither a JSON object nor a list"),
    ("parameters", "MODEL_CONFIG", '{"a": {"b": 1, "b": 2}}', "has 'b' twice"),
    ("parameters", "MODEL_CONFIG", '[{"name": "a"}]', "none of INT, FLOAT"),
    ("dry_run", "DRY_RUN", "perhaps", "true or false"),
    ("threads", "THREADS", "0", "1 to 1024"),
    ("threads", "THREADS", "2 fixed", "1 to 1024, or 1 fixed"),
    ("max_queue", "MAX_QUEUE", "-1", "0 to 100000"),
    ("predict_timeout_sec", "PREDICT_TIMEOUT_SEC", "-0.1", "0 to 86400"),
    ("predict_timeout_sec", "PREDICT_TIMEOUT_SEC", "nan", "0 to 86400"),
    ("max_requests", "MAX_REQUESTS", "1.5", "0 to 1000000000"),
    ("heartbeat_timeout_sec", "HEARTBEAT_TIMEOUT_SEC", "0.5", "0, or 1 to 86400"),
    ("restart_window_sec", "RESTART_WINDOW_SEC", "0", "above 0"),
    ("max_body_size", "MAX_BODY_SIZE", "10MB", "1 to 2147483647"),
    ("max_header_size", "MAX_HEADER_SIZE", "100", "1024 to 16777216"),
    ("keep_alive_sec", "KEEP_ALIVE_SEC", "0", "above 0"),
    ("request_timeout_sec", "REQUEST_TIMEOUT_SEC", "inf", "above 0"),
]


@pytest.fixture(autouse=True)
def _clean(clean_environ: Mapping[str, str]) -> None:
    """Read only what the test has set."""


def read(*argv: str) -> Config:
    return config.read(["--model_dir", "somewhere", *argv])


def refusal(*argv: str) -> str:
    with pytest.raises(StartupError) as caught:
        read(*argv)
    assert caught.value.status == 2
    text = str(caught.value)
    assert text.splitlines() == [text], "it is one line"
    return text


# What is read


@pytest.mark.parametrize(("field", "variable", "default"), DEFAULTS)
def test_default(field: str, variable: str, default: object) -> None:
    assert getattr(read(), field) == default


@pytest.mark.parametrize(("field", "variable", "_"), DEFAULTS)
def test_documented_under_its_variable(field: str, variable: str, _: object) -> None:
    rows = {row.variable: row for row in config.settings()}
    assert rows[variable].field == {"full_name": "model_full_name"}.get(field, field)


@pytest.mark.parametrize(("field", "variable", "given", "expected"), GOOD)
def test_variable(
    field: str, variable: str, given: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, given)
    assert getattr(read(), field) == expected


@pytest.mark.parametrize(("field", "variable", "given", "expected"), GOOD)
def test_flag_beats_variable_and_alias(
    field: str, variable: str, given: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = next(row for row in config.settings() if row.field == field)
    for name in (row.variable, *row.aliases):
        monkeypatch.setenv(name, "not to be read")
    assert getattr(read(f"--{row.flag}={given}"), field) == expected


@pytest.mark.parametrize("row", config.settings(), ids=lambda row: row.field)
def test_empty_variable_counts_as_unset(
    row: config.Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = getattr(read(), row.field)
    for name in (row.variable, *row.aliases):
        monkeypatch.setenv(name, "")
    assert getattr(read(), row.field) == expected


@pytest.mark.parametrize("variable", ["WORKERS", "CARAML_WORKERS"])
def test_alias_with_the_prefix(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "3")
    assert read().workers == 3


def test_documented_variable_beats_its_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "3")
    monkeypatch.setenv("CARAML_WORKERS", "4")
    assert read().workers == 3


@pytest.mark.parametrize("level", LogLevel)
@pytest.mark.parametrize("case", [str.upper, str.lower, str.title])
def test_log_level_in_any_case(level: LogLevel, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", case(level.value))
    assert read().log_level is level
    assert logging.getLevelName(level.value) in range(logging.DEBUG, logging.CRITICAL + 1)


def test_full_name_is_made_of_name_and_version_unless_given() -> None:
    assert read("--model_name=iris", "--model_version=7").full_name == "iris-7"
    assert read("--model_name=iris", "--model_full_name=x").full_name == "x"


@pytest.mark.parametrize(
    ("protocols", "http", "upi", "pushes"),
    [
        ("HTTP_JSON", True, False, False),
        ("UPI_V1", False, True, True),
        ("HTTP_JSON,UPI_V1", True, True, True),
    ],
)
def test_pushing_needs_upi(protocols: str, http: bool, upi: bool, pushes: bool) -> None:
    given = read(f"--protocol={protocols}", "--pushgateway_enabled=true")
    assert (given.speaks_http, given.speaks_upi, given.pushes_metrics) == (http, upi, pushes)
    assert not read(f"--protocol={protocols}").pushes_metrics


@pytest.mark.parametrize(
    ("argv", "expected"),
    [([], False), (["--dry_run"], True), (["--dry_run", "false"], False)],
)
def test_boolean_flag_needs_no_value(argv: list[str], expected: bool) -> None:
    assert read(*argv).dry_run is expected


def test_model_dir_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_DIR", "there")
    assert config.read([]).model_dir == "there"


def test_config_is_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read().workers = 2


# What is refused


@pytest.mark.parametrize(("field", "variable", "given", "allowed"), BAD)
def test_bad_variable(
    field: str, variable: str, given: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, given)
    text = refusal()
    assert variable in text
    assert repr(given)[1:-1][:100] in text
    assert allowed in text


@pytest.mark.parametrize(("field", "variable", "given", "allowed"), BAD)
def test_bad_flag(field: str, variable: str, given: str, allowed: str) -> None:
    text = refusal(f"--{field}={given}")
    assert f"--{field}" in text
    assert repr(given)[1:-1][:100] in text
    assert allowed in text


def test_bad_alias_is_named_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARAML_WORKERS", "x")
    assert "CARAML_WORKERS='x'" in refusal()


def test_variable_of_another_case_is_refused_with_its_value_or_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("workers", "abc")
    try:
        assert read().workers == 1
    except StartupError as error:
        assert "'abc'" in str(error)  # noqa: PT017  either way is right, a blank value is not


def test_why_no_protocol_is_refused_is_said_in_the_protocols_terms() -> None:
    assert "JSON;" not in refusal("--protocol=,")


def test_every_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "0")
    monkeypatch.setenv("CARAML_HTTP_PORT", "x")
    text = refusal("--grpc_concurrency=-5")
    assert all(name in text for name in ("WORKERS", "CARAML_HTTP_PORT", "--grpc_concurrency"))


def test_long_value_is_cut() -> None:
    assert len(refusal(f"--log_level={'x' * 100_000}")) < 600


def test_model_dir_is_required() -> None:
    with pytest.raises(StartupError, match="--model_dir is required") as caught:
        config.read([])
    assert caught.value.status == 2


@pytest.mark.parametrize("argv", [["--wokers", "2"], ["--work", "2"], ["stray"], ["--workers"]])
def test_bad_command_line(argv: list[str]) -> None:
    assert argv[0] in refusal(*argv)


def test_help_names_every_flag_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        config.read(["--help"])
    assert not stopped.value.code
    shown = capsys.readouterr().out
    for row in config.settings():
        assert f"--{row.flag}" in shown
        assert row.variable in shown


@pytest.mark.parametrize(
    ("env", "args", "words"),
    [
        ({"LOG_LEVEL": "loud"}, ["--model_dir", "x"], ["LOG_LEVEL", "loud", "DEBUG", "WARN"]),
        ({}, ["--model_dir", "x", "--workers", "none"], ["--workers", "none", "1 to 512"]),
        ({}, [], ["--model_dir is required"]),
    ],
    ids=["variable", "flag", "missing"],
)
def test_process_says_one_line_and_ends_with_2(
    env: dict[str, str], args: list[str], words: list[str]
) -> None:
    status, output = run_daemon_expecting_exit(args, env)
    assert status == 2
    assert len(output.splitlines()) == 1
    assert all(word in output for word in words)


# What is unknown


def test_unknown_variables_are_those_with_the_prefix_only() -> None:
    environ = {"CARAML_HTTP_PROT": "1", "CARAML_WORKERS": "1", "WROKERS": "2", "CARAML_ABC": ""}
    assert config.unknown_variables(environ) == ["CARAML_ABC", "CARAML_HTTP_PROT"]


def test_unknown_variable_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CARAML_HTTP_PROT", "1")
    server._warn(read())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "CARAML_HTTP_PROT" in caplog.text


# The documentation


def test_table_has_a_row_for_every_field() -> None:
    lines = config.table().splitlines()
    assert len(lines) == len(Config.model_fields) + 2
    for row, line in zip(config.settings(), lines[2:], strict=True):
        assert line.startswith(f"| `{row.variable}` | `--{row.flag}` |")
        assert line.count("|") == 6, "no pipe in a cell"
        assert row.doc
        assert row.allowed


@pytest.mark.parametrize("row", config.settings(), ids=lambda row: row.field)
def test_shown_default_is_read_as_the_default(row: config.Setting) -> None:
    if row.default in ("required", "unset"):
        return
    assert getattr(read(f"--{row.flag}={row.default}"), row.field) == getattr(read(), row.field)


def test_with_table_replaces_what_is_between_the_marks() -> None:
    page = f"a\n{config.TABLE_BEGIN}\n~stale~\n{config.TABLE_END}\nb\n"
    once = config.with_table(page)
    assert once.startswith("a\n")
    assert once.endswith("\nb\n")
    assert config.table() in once
    assert "~stale~" not in once
    assert config.with_table(once) == once


@pytest.mark.parametrize("page", ["", config.TABLE_BEGIN, config.TABLE_END])
def test_with_table_refuses_a_page_without_the_marks(page: str) -> None:
    with pytest.raises(ValueError, match="settings:begin"):
        config.with_table(page)


def test_readme_has_the_table() -> None:
    if not README.exists():
        pytest.skip("there is no README.md here")
    page = README.read_text(encoding="utf-8")
    assert config.with_table(page) == page, f"run: python -m pyfuncserver.config {README.name}"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TLS_CERT": "a.pem"}, "TLS_CERT and TLS_KEY"),
        ({"TLS_KEY": "a.pem"}, "TLS_CERT and TLS_KEY"),
        ({"BATCH_MAX_DELAY_MS": "500", "PREDICT_TIMEOUT_SEC": "0.5"}, "BATCH_MAX_DELAY_MS"),
        ({"TLS_CLIENT_CA": "a.pem"}, "TLS_CLIENT_CA needs TLS_CERT"),
    ],
)
def test_settings_that_do_not_go_together(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartupError, match=said) as refusal:
        config.read(["--model_dir", "m"])
    assert refusal.value.status == 2


def test_files_are_found_wherever_a_model_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKEN_FILE", "tokens")
    assert config.read(["--model_dir", "m"]).token_file == str(tmp_path / "tokens")
