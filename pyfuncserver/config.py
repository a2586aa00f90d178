"""Every setting once: its type, default, bounds, and one sentence; README's table comes from here.

A setting is read from its variable and from a flag of the same meaning in lower case
(``CARAML_HTTP_PORT``, ``--http_port``); the flag wins. ``python -m pyfuncserver.config`` prints
the table; with the path of a Markdown file it rewrites the table in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from pyfuncserver import seldon_names
from pyfuncserver.errors import StartupError

USAGE_STATUS = 2
NAME_PATTERN = r"[A-Za-z0-9_.-]+"
FIXED_THREAD = "1 fixed"
ChannelArgument = int | str
MOST_ROWS = 65_536


class Protocol(str, Enum):
    """A wire that the daemon speaks."""

    HTTP_JSON = "HTTP_JSON"
    UPI_V1 = "UPI_V1"


class ModelLoading(str, Enum):
    """Who loads the model: one process that forks the workers, or each worker for itself."""

    AUTO = "auto"
    PRELOAD = "preload"
    WORKER = "worker"


class ModelKind(str, Enum):
    """Which library has saved the model; MLflow holds models of any."""

    AUTO = "auto"
    MLFLOW = "mlflow"
    SKLEARN = "sklearn"
    XGBOOST = "xgboost"
    LIGHTGBM = "lightgbm"
    ONNX = "onnx"
    HUGGINGFACE = "huggingface"


class HttpTransport(str, Enum):
    """What moves HTTP's bytes: our own transport, or Tornado's."""

    HTTPTOOLS = "httptools"
    TORNADO = "tornado"


class LogLevel(str, Enum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


def setting(default: Any, variable: str, doc: str, allowed: str, **bounds: Any) -> Any:
    """Declare a setting; one without the prefix answers to ``CARAML_<variable>`` as well."""
    names = [variable] if variable.startswith("CARAML_") else [variable, f"CARAML_{variable}"]
    return Field(
        default,
        validation_alias=AliasChoices(*names),
        description=doc,
        json_schema_extra={"allowed": allowed},
        **bounds,
    )


PORT = "0 to 65535 (0: any free port)"
BOOLEAN = "true or false"
NAME = "letters, digits, `_`, `.`, `-`"


class Variables(EnvSettingsSource):
    """The environment, with every value left as the text it is: the validators below read it."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ARG002
        return value


class Config(BaseSettings):
    """What the daemon was told. Immutable; made by :func:`read`."""

    model_config = SettingsConfigDict(
        case_sensitive=True,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        protected_namespaces=(),
    )

    model_dir: str = setting(
        "",
        "MODEL_DIR",
        "The model: a local directory with an MLmodel file, or where one is to be fetched from: an "
        "artifact store, a run, a model registry.",
        "a path, a `file:` URL, `s3://`, `gs://`, `http(s)://`, `mlflow-artifacts:/`, `runs:/`, "
        "`models:/` or another scheme of MLflow's",
    )
    model_repository: str = setting(
        "",
        "MODEL_REPOSITORY",
        "Several models, in the place of `MODEL_DIR`: a folder a model, and in it, where there are "
        "several, a folder a version. `CARAML_MODEL_NAME` says which is meant where a request "
        "names none.",
        "as `MODEL_DIR`",
    )
    model_cache_dir: str = setting(
        "",
        "MODEL_CACHE_DIR",
        "Where fetched models are kept, the last three and those in use; what has not changed is "
        "not fetched again. By default `$XDG_CACHE_HOME/pyfuncserver` or `~/.cache/pyfuncserver`; "
        "where neither can be written, a private directory in `$TMPDIR`.",
        "a path",
    )
    model_kind: ModelKind = setting(
        ModelKind.AUTO,
        "MODEL_KIND",
        "Which library has saved the model. `auto` looks: an `MLmodel` file, what "
        "`save_pretrained` writes, or one file with a known ending.",
        "`auto`, `mlflow`, `sklearn`, `xgboost`, `lightgbm`, `onnx` or `huggingface`",
    )
    model_task: str = setting(
        "",
        "MODEL_TASK",
        "What a model of the kind `huggingface` is used for; by default what its architecture is "
        "made for.",
        "a task of transformers' for text, as `zero-shot-classification`",
    )
    predict_proba: bool = setting(
        False,
        "PREDICT_PROBA",
        "Answer with `predict_proba` where the kind is `sklearn` and a call names no method, as "
        "KServe's server does.",
        BOOLEAN,
    )
    skops_trusted: str = setting(
        "",
        "SKOPS_TRUSTED",
        "Types that a skops file may have beside those that skops trusts by itself; a refusal to "
        "load names them.",
        "names with a comma",
    )
    protocol: tuple[Protocol, ...] = setting(
        (Protocol.HTTP_JSON,),
        "CARAML_PROTOCOL",
        "What to speak: `HTTP_JSON` is every dialect over HTTP; `UPI_V1` every one over gRPC (UPI, "
        "V2 and Seldon), and HTTP then has metrics and health alone; both, comma-separated, serves "
        "both ports from one process tree.",
        "`HTTP_JSON`, `UPI_V1`, or both with a comma",
    )
    http_port: int = setting(
        8080,
        "CARAML_HTTP_PORT",
        "HTTP port; in `UPI_V1` it answers metrics and health.",
        PORT,
        ge=0,
        le=65535,
    )
    metrics_port: int | None = setting(
        None,
        "METRICS_PORT",
        "A port for the metrics alone, which then are not on the HTTP port; a process of its own "
        "serves it, whatever the workers do.",
        PORT,
        ge=0,
        le=65535,
    )
    metrics_path: str = setting(
        "/metrics",
        "METRICS_PATH",
        "The path of the metrics.",
        "a path that begins with `/`",
        pattern=r"^(/[A-Za-z0-9_.-]+)+$",
    )
    grpc_port: int = setting(9000, "CARAML_GRPC_PORT", "gRPC port.", PORT, ge=0, le=65535)
    model_name: str = setting(
        "model", "CARAML_MODEL_NAME", "The model's name.", NAME, pattern=f"^{NAME_PATTERN}$"
    )
    model_version: str = setting(
        "1", "CARAML_MODEL_VERSION", "The model's version.", NAME, pattern=f"^{NAME_PATTERN}$"
    )
    model_full_name: str = setting(
        "",
        "CARAML_MODEL_FULL_NAME",
        "The `{model}` of the HTTP paths; by default `<name>-<version>`.",
        NAME,
        pattern=f"^({NAME_PATTERN})?$",
    )
    project: str = setting(
        "project",
        "CARAML_PROJECT",
        "The project the model belongs to; a label of `pyfuncserver_model_info`.",
        "any text",
    )
    model_schema: dict[str, Any] | None = setting(
        None,
        "CARAML_MODEL_SCHEMA",
        "The model's schema; kept with its identity, logged at start at level DEBUG.",
        "a JSON object",
    )
    parameters: dict[str, Any] = setting(
        {},
        "MODEL_CONFIG",
        "What the model is to be loaded with: it replaces what the model was saved with "
        "(`model_config` of `mlflow.pyfunc`), and the model reads it as `context.model_config`. "
        "What the model was not saved with has no effect, and is told at start.",
        "a JSON object, or Seldon's list of name, value and type",
    )
    workers: int = setting(
        1,
        "WORKERS",
        "Worker processes, each for every protocol; so of Seldon's two numbers the greater counts, "
        "and a 0 takes that protocol away.",
        "1 to 512",
        ge=1,
        le=512,
    )
    model_loading: ModelLoading = setting(
        ModelLoading.AUTO,
        "MODEL_LOADING",
        "`preload` loads once and forks the workers, which share the model's memory; `worker` "
        "loads in each; `auto` preloads unless forking is unsafe after the load.",
        "`auto`, `preload`, `worker`",
    )
    log_level: LogLevel = setting(
        LogLevel.INFO,
        "LOG_LEVEL",
        "How much is logged, in any case.",
        "`DEBUG`, `INFO`, `WARN`, `WARNING`, `ERROR`, `CRITICAL`",
    )
    access_log: bool = setting(
        False,
        "ACCESS_LOG",
        "Log a line for each prediction that was answered well; failures are always logged.",
        BOOLEAN,
    )
    filter_metrics_access_logs: bool = setting(
        True,
        "FILTER_METRICS_ACCESS_LOGS",
        "Leave out of `ACCESS_LOG` what is no prediction; `false` logs a line for each probe, "
        "scrape and question about the model over HTTP, too.",
        BOOLEAN,
    )
    tracing: bool = setting(
        False,
        "TRACING",
        "Send a span of each prediction to an OpenTelemetry collector; where it is, the standard "
        "`OTEL_...` variables say. Needs `pyfuncserver[tracing]`.",
        BOOLEAN,
    )
    grpc_options: dict[str, ChannelArgument] = setting(
        {},
        "GRPC_OPTIONS",
        'gRPC channel arguments, e.g. `{"grpc.max_concurrent_streams": 100}`.',
        "a JSON object of whole numbers, booleans and strings",
    )
    grpc_concurrency: int = setting(
        10,
        "GRPC_CONCURRENCY",
        "Predictions that one worker runs at a time over gRPC.",
        "1 to 1024",
        ge=1,
        le=1024,
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["1 fixed"] = setting(
        1,
        "THREADS",
        "Predictions that one worker runs at a time over HTTP. Those of a model that has proved "
        "short run on the thread that serves the clients; `1 fixed`: all run on one thread, "
        "always the same, also those over gRPC, for models that belong to a thread.",
        "1 to 1024, or `1 fixed`",
    )
    max_queue: int = setting(
        1000,
        "MAX_QUEUE",
        "Predictions that may wait in one worker, for each protocol; one more is refused with 429 "
        "or RESOURCE_EXHAUSTED.",
        "0 to 100000",
        ge=0,
        le=100_000,
    )
    batch_max_size: int | Literal["auto"] = setting(
        1,
        "BATCH_MAX_SIZE",
        "Rows that go to the model at once: calls that wait and differ in nothing but their rows "
        "are put together, over HTTP and gRPC, and run in `THREADS` threads. 1 for never; `auto` "
        "finds the number from measured times. For models that treat each row by itself.",
        "1 to 65536, or `auto`",
    )
    batch_max_delay_ms: float = setting(
        0,
        "BATCH_MAX_DELAY_MS",
        "Milliseconds that a call may be held until its batch is full, and at most half of the "
        "time that its client gives it. 0 puts together only what waits anyway.",
        "0 to 60000",
        ge=0,
        le=60_000,
    )
    predict_timeout_sec: float = setting(
        0,
        "PREDICT_TIMEOUT_SEC",
        "Seconds that one prediction may take; then its client gets 504 or DEADLINE_EXCEEDED, and "
        "its worker is replaced. One that has waited as long is not begun. 0 for no limit.",
        "0 to 86400",
        ge=0,
        le=86400,
    )
    max_requests: int = setting(
        0,
        "MAX_REQUESTS",
        "Predictions after which a worker is replaced, the replacement first. 0 for never.",
        "0 to 1000000000",
        ge=0,
        le=1_000_000_000,
    )
    max_requests_jitter: int = setting(
        0,
        "MAX_REQUESTS_JITTER",
        "A random number up to this is added to `MAX_REQUESTS`, for each worker anew.",
        "0 to 1000000000",
        ge=0,
        le=1_000_000_000,
    )
    heartbeat_timeout_sec: float = setting(
        30,
        "HEARTBEAT_TIMEOUT_SEC",
        "Seconds without a beat of its event loop after which a worker is killed, with its stack "
        "in the log, and replaced. 0 for never.",
        "0, or 1 to 86400",
        ge=0,
        le=86400,
    )
    max_restarts: int = setting(
        100,
        "MAX_RESTARTS",
        "Workers that may die within `RESTART_WINDOW_SEC`; one more ends the daemon with status 3.",
        "0 to 1000000",
        ge=0,
        le=1_000_000,
    )
    restart_window_sec: float = setting(
        60,
        "RESTART_WINDOW_SEC",
        "The time window of `MAX_RESTARTS`.",
        "above 0, up to 86400",
        gt=0,
        le=86400,
    )
    max_body_size: int = setting(
        100 * 1024 * 1024,
        "MAX_BODY_SIZE",
        "Bytes that a request's body or gRPC message may have; a larger one is refused with 413, "
        "before it is read, or RESOURCE_EXHAUSTED.",
        "1 to 2147483647",
        ge=1,
        le=2_147_483_647,
    )
    max_header_size: int = setting(
        64 * 1024,
        "MAX_HEADER_SIZE",
        "Bytes that a request's head, or gRPC metadata, may have; more is refused with 431 or "
        "RESOURCE_EXHAUSTED.",
        "1024 to 16777216",
        ge=1024,
        le=16_777_216,
    )
    payload_passthrough: bool = setting(
        False,
        "PAYLOAD_PASSTHROUGH",
        "Hand the model the bytes of each body as they came, in V1 and Seldon's REST, past its "
        "signature; bytes or text that it answers are sent as they are. For plain and legacy "
        "models.",
        BOOLEAN,
    )
    http_transport: HttpTransport = setting(
        HttpTransport.HTTPTOOLS,
        "HTTP_TRANSPORT",
        "What moves HTTP's bytes: httptools on uvloop, or Tornado's own parser, which costs "
        "several times as much.",
        "`httptools`, `tornado`",
    )
    keep_alive_sec: float = setting(
        75,
        "KEEP_ALIVE_SEC",
        "Seconds that an HTTP connection without a request is kept; more than a proxy in front "
        "keeps it.",
        "above 0, up to 86400",
        gt=0,
        le=86400,
    )
    request_timeout_sec: float = setting(
        60,
        "REQUEST_TIMEOUT_SEC",
        "Seconds that a client has to send a whole HTTP request, from its first byte.",
        "above 0, up to 86400",
        gt=0,
        le=86400,
    )
    tls_cert: str = setting(
        "",
        "TLS_CERT",
        "Certificate chain (PEM) for HTTP and gRPC; a renewed file is taken up without a restart.",
        "a path",
    )
    tls_key: str = setting("", "TLS_KEY", "The private key of `TLS_CERT` (PEM).", "a path")
    tls_client_ca: str = setting(
        "",
        "TLS_CLIENT_CA",
        "Authorities (PEM) whose client certificates are demanded on every connection.",
        "a path",
    )
    token_file: str = setting(
        "",
        "TOKEN_FILE",
        "Bearer tokens, one a line, of which predictions must bring one; probes and metrics need "
        "none. A renewed file is taken up without a restart.",
        "a path",
    )
    docs_enabled: bool = setting(
        True,
        "DOCS_ENABLED",
        "Document the API, with the model's own columns, at `/docs` and `/openapi.json`.",
        BOOLEAN,
    )
    ce_type: str = setting(
        "io.kserve.inference.response",
        "CE_TYPE",
        "The type of the CloudEvents that answer CloudEvents.",
        "any text",
        min_length=1,
    )
    ce_source: str = setting(
        "",
        "CE_SOURCE",
        "Their source; by default `io.kserve.inference.<full name>`.",
        "a URI reference",
    )
    ce_merge: bool = setting(
        False,
        "CE_MERGE",
        "Whether the subject and schema of a CloudEvent go back with its answer, too, as its "
        "extensions do.",
        BOOLEAN,
    )
    drain_delay_sec: float = setting(
        0,
        "DRAIN_DELAY_SEC",
        "Seconds between telling not-ready and closing the ports, when stopping.",
        "0 to 3600",
        ge=0,
        le=3600,
    )
    drain_timeout_sec: float = setting(
        30,
        "DRAIN_TIMEOUT_SEC",
        "Seconds that open requests have to finish, when stopping.",
        "0 to 3600",
        ge=0,
        le=3600,
    )
    pushgateway_enabled: bool = setting(
        False,
        "PUSHGATEWAY_ENABLED",
        "Push the metrics to a Pushgateway; only with `UPI_V1`.",
        BOOLEAN,
    )
    pushgateway_url: str = setting(
        "localhost:9091", "PUSHGATEWAY_URL", "The Pushgateway.", "host:port or URL", min_length=1
    )
    pushgateway_push_interval_sec: float = setting(
        30,
        "PUSHGATEWAY_PUSH_INTERVAL_SEC",
        "Seconds between two pushes.",
        "above 0, up to 86400",
        gt=0,
        le=86400,
    )
    publisher_enabled: bool = setting(
        False,
        "PUBLISHER_ENABLED",
        "Publish prediction logs to Kafka. Not in this version: `true` is refused at start.",
        BOOLEAN,
    )
    publisher_sampling_ratio: float = setting(
        0.01,
        "PUBLISHER_SAMPLING_RATIO",
        "Share of the predictions that are published.",
        "0 to 1",
        ge=0,
        le=1,
    )
    publisher_kafka_topic: str = setting(
        "", "PUBLISHER_KAFKA_TOPIC", "Topic of the prediction log.", "a topic's name"
    )
    publisher_kafka_brokers: str = setting(
        "", "PUBLISHER_KAFKA_BROKERS", "Kafka's bootstrap servers.", "host:port, comma-separated"
    )
    publisher_kafka_linger_ms: int = setting(
        1000,
        "PUBLISHER_KAFKA_LINGER_MS",
        "Milliseconds a message waits for others.",
        "0 to 900000",
        ge=0,
        le=900000,
    )
    publisher_kafka_acks: int = setting(
        0, "PUBLISHER_KAFKA_ACKS", "Acknowledgements asked of Kafka.", "-1, 0 or 1", ge=-1, le=1
    )
    publisher_kafka_num_partitions: int = setting(
        24,
        "PUBLISHER_KAFKA_NUM_PARTITIONS",
        "Partitions of a topic that is made.",
        "1 or more",
        ge=1,
    )
    publisher_kafka_replication_factor: int = setting(
        3,
        "PUBLISHER_KAFKA_REPLICATION_FACTOR",
        "Replicas of a topic that is made.",
        "1 or more",
        ge=1,
    )
    publisher_kafka_config: dict[str, Any] = setting(
        {}, "PUBLISHER_KAFKA_CONFIG", "Further librdkafka settings.", "a JSON object"
    )
    prometheus_multiproc_dir: str = setting(
        "",
        "PROMETHEUS_MULTIPROC_DIR",
        "Where the workers' metrics meet: made when missing; its `*.db` files are removed at "
        "start. By default a fresh private directory (where nothing else can be written, in "
        "`/dev/shm`), removed at exit. One that cannot be written is told and does no harm.",
        "a path",
    )
    pidfile: str = setting(
        "",
        "PIDFILE",
        "A file that holds the daemon's process id as long as it runs.",
        "a path",
    )
    ready_file: str = setting(
        "",
        "READY_FILE",
        "A file that holds ports and process ids, as JSON, while the daemon is ready; it is not "
        "there while no worker is.",
        "a path",
    )
    dry_run: bool = setting(False, "DRY_RUN", "Load the model, say so, and exit.", BOOLEAN)

    @field_validator("protocol", mode="before")
    @classmethod
    def _split_protocols(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        names = [part.strip().upper() for part in value.split(",") if part.strip()]
        if not names:
            raise ValueError("names no protocol")
        return tuple(dict.fromkeys(names))

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("model_loading", "model_kind", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("model_schema", "grpc_options", "publisher_kafka_config", mode="before")
    @classmethod
    def _parse_json_object(cls, value: object) -> object:
        if isinstance(value, str):
            value = _parse_json(value)
            if not isinstance(value, dict):
                raise ValueError("is not a JSON object")
        return value

    @field_validator("parameters", mode="before")
    @classmethod
    def _parse_parameters(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        found = _parse_json(value, _refuse_duplicates)
        if isinstance(found, list):
            return seldon_names.parameters(found)
        if not isinstance(found, dict):
            raise ValueError("is neither a JSON object nor a list")
        return found

    @field_validator("tls_cert", "tls_key", "tls_client_ca", "token_file", "model_cache_dir")
    @classmethod
    def _make_absolute(cls, value: str) -> str:
        """Let the file be found again by processes in which the model has changed directory."""
        return str(Path(value).absolute()) if value else ""

    @field_validator("publisher_enabled")
    @classmethod
    def _refuse_publisher(cls, value: bool) -> bool:
        if value:
            raise ValueError("prediction logs cannot be published by this version")
        return value

    @field_validator("batch_max_size", mode="before")
    @classmethod
    def _count_or_auto(cls, value: object) -> object:
        if isinstance(value, str) and value.lower() == "auto":
            return "auto"
        try:
            rows = int(str(value))
        except ValueError:
            raise ValueError("is neither a whole number nor auto") from None
        if not 1 <= rows <= MOST_ROWS:
            raise ValueError("is out of bounds")
        return rows

    @field_validator("heartbeat_timeout_sec")
    @classmethod
    def _leave_time_to_beat(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("is shorter than a busy worker may take to beat")
        return value

    @model_validator(mode="after")
    def _demand_a_model(self) -> Config:
        if self.model_dir and self.model_repository:
            raise ValueError("MODEL_DIR and MODEL_REPOSITORY: one of them, not both")
        if not self.address:
            raise ValueError("--model_dir is required: where the model is (or --model_repository)")
        return self

    @model_validator(mode="after")
    def _leave_time_to_predict(self) -> Config:
        if 0 < self.predict_timeout_sec * 1000 <= self.batch_max_delay_ms:
            raise ValueError("BATCH_MAX_DELAY_MS is as long as PREDICT_TIMEOUT_SEC")
        return self

    @model_validator(mode="after")
    def _demand_both_halves(self) -> Config:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("TLS_CERT and TLS_KEY: one is set and the other is not")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("TLS_CLIENT_CA needs TLS_CERT and TLS_KEY")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags, then variables, ours before Seldon's; no files."""
        variables = Variables(settings_cls)
        variables.env_vars = _with_seldons(variables.env_vars)
        return init_settings, variables

    @property
    def address(self) -> str:
        """Where the models are, be it one or several."""
        return self.model_dir or self.model_repository

    @property
    def title(self) -> str:
        """Name what is served."""
        return self.model_repository or self.full_name

    @property
    def full_name(self) -> str:
        return self.model_full_name or f"{self.model_name}-{self.model_version}"

    @property
    def has_fixed_thread(self) -> bool:
        """Tell whether every prediction is to run on one and the same thread."""
        return self.threads == FIXED_THREAD

    @property
    def batches(self) -> bool:
        return self.batch_max_size != 1

    @property
    def speaks_http(self) -> bool:
        return Protocol.HTTP_JSON in self.protocol

    @property
    def speaks_upi(self) -> bool:
        return Protocol.UPI_V1 in self.protocol

    @property
    def http_metrics_path(self) -> str | None:
        """Give the path of the metrics on the HTTP port; None where they have another."""
        return self.metrics_path if self.metrics_port is None else None

    @property
    def logs_pages(self) -> bool:
        """Tell whether a line is logged for what is no prediction."""
        return self.access_log and not self.filter_metrics_access_logs

    @property
    def pushes_metrics(self) -> bool:
        return self.pushgateway_enabled and self.speaks_upi

    @property
    def needs_monitor(self) -> bool:
        """Tell whether the workers leave anything to do.

        HTTP, where they speak none; the metrics' own port; pushes.
        """
        return self.pushes_metrics or not self.speaks_http or self.metrics_port is not None


class _NamedTwice(Exception):
    """A JSON object has a name twice."""


def _parse_json(
    text: str, hook: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None
) -> Any:
    try:
        return json.loads(text, object_pairs_hook=hook)
    except _NamedTwice as error:
        raise ValueError(f"has {error} twice") from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _NamedTwice(repr(name))
        found[name] = value
    return found


class Setting(NamedTuple):
    """One row of the documentation."""

    field: str
    variable: str
    aliases: tuple[str, ...]
    default: str
    allowed: str
    doc: str
    seldons: tuple[seldon_names.Name, ...]
    """Seldon's names for it."""

    @property
    def flag(self) -> str:
        """Name the flag of the same meaning, without its dashes."""
        return self.variable.removeprefix("CARAML_").lower()


def settings() -> list[Setting]:
    """List every setting in the order of :class:`Config`."""
    return [_describe(name, info) for name, info in Config.model_fields.items()]


def _describe(name: str, info: FieldInfo) -> Setting:
    alias = info.validation_alias
    assert isinstance(alias, AliasChoices)
    variable, *others = (str(choice) for choice in alias.choices)
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    doc, seldons = info.description or "", tuple(seldon_names.names_of(name))
    return Setting(name, variable, tuple(others), _shown(info), str(extra["allowed"]), doc, seldons)


def _shown(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = info.default
    if isinstance(default, tuple):
        default = ",".join(item.value for item in default)
    elif isinstance(default, Enum):
        default = default.value
    elif isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, dict):
        default = json.dumps(default)
    return "unset" if default in ("", None) else str(default)


def read(argv: list[str]) -> Config:
    """Read flags and variables.

    Raises: StartupError with exit status 2 that names each bad setting, its value, what is allowed.
    """
    flags, seldons = _parse_flags(argv)
    variables = {row.field: row.variable for row in settings()}
    sources = {row.field: f"--{row.flag}" for row in settings()}
    for field, meaning in seldon_names.meanings(seldons).items():
        if field not in flags:
            flags[field], sources[field] = meaning.value, meaning.flag
    protocol = flags.get("protocol") or _set_by(os.environ, "protocol")[1]
    left = seldon_names.protocols({**_seldons_of(os.environ), **seldons}, protocol or None)
    if left is not None:
        flags["protocol"], sources["protocol"] = left.value, left.source
    try:
        return Config(**{variables[field]: value for field, value in flags.items()})
    except ValidationError as error:
        raise StartupError(_explain(error, flags, sources), USAGE_STATUS) from None


def _set_by(given: Mapping[str, str | None], field: str) -> tuple[str, str]:
    """Give the variable of ours by which a setting is set, and its text; empty where it is not."""
    row = next(row for row in settings() if row.field == field)
    found = ((name, given.get(name) or "") for name in (row.variable, *row.aliases))
    return next((pair for pair in found if pair[1]), ("", ""))


def _with_seldons(given: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """Add, by our names, what Seldon's say where ours do not. Raises: StartupError"""
    variables = {row.field: row.variable for row in settings()}
    meanings = seldon_names.meanings(_seldons_of(given))
    return {
        **given,
        **{
            variables[field]: meaning.value
            for field, meaning in meanings.items()
            if not _set_by(given, field)[1]
        },
    }


def _seldons_of(given: Mapping[str, str | None]) -> dict[str, str]:
    return {name.variable: given.get(name.variable) or "" for name in seldon_names.NAMES}


def contradictions(argv: list[str], environ: Mapping[str, str]) -> list[str]:
    """Say, in a line each, which of Seldon's names have no effect since ours say something else.

    Variables are compared with variables, and flags with flags, for a flag beats any variable.
    """
    flags, seldons = _parse_flags(argv)
    names = {row.field: row.flag for row in settings()}
    lines = []
    for meaning in seldon_names.meanings(_seldons_of(environ)).values():
        name, text = _set_by(environ, meaning.field)
        lines.append(seldon_names.contradiction(meaning, text, name) if text else None)
    for meaning in seldon_names.meanings(seldons).values():
        text = flags.get(meaning.field, "")
        name = f"--{names[meaning.field]}"
        lines.append(seldon_names.contradiction(meaning, text, name) if text else None)
    return [line for line in lines if line is not None]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise StartupError(f"{message}; see --help", USAGE_STATUS)


def _parse_flags(argv: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Give what our flags say, by field, and what Seldon's do, by its variables."""
    parser = _Parser(
        prog="pyfuncserver",
        description="Serve an MLflow model over HTTP (KServe V1) and gRPC (caraml UPI v1).",
        epilog="Each flag has an environment variable of the same meaning; the flag wins.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for row in settings():
        annotation = Config.model_fields[row.field].annotation
        extra: dict[str, Any] = {"nargs": "?", "const": "true"} if annotation is bool else {}
        doc = f"{row.doc} {row.variable}; default {row.default}; {row.allowed}."
        names = dict.fromkeys((f"--{row.flag}", f"--{row.flag.replace('_', '-')}"))
        parser.add_argument(
            *names,
            dest=row.field,
            help=doc.replace("%", "%%"),
            metavar=row.flag.upper(),
            **extra,
        )
    flags = {row.field: row.flag for row in settings()}
    for name in filter(lambda name: name.flag, seldon_names.NAMES):
        extra = {"nargs": "?", "const": "1"} if name.is_switch else {}
        doc = f"Seldon's name for what {flags[name.field]} says."
        parser.add_argument(f"--{name.flag}", dest=name.variable, help=doc, **extra)
    found = vars(parser.parse_args(argv))
    seldons = {name.variable for name in seldon_names.NAMES} & found.keys()
    return found, {variable: found.pop(variable) for variable in seldons}


def _explain(error: ValidationError, flags: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """Say of each bad setting by which name it was set; ``sources`` names those of the flags."""
    rows = {row.field: row for row in settings()}
    names = {name: row for row in rows.values() for name in (row.field, row.variable, *row.aliases)}
    lines: dict[str, str] = {}
    for problem in error.errors():
        if not problem["loc"]:  # of settings that do not go together
            lines[""] = problem["msg"].removeprefix("Value error, ")
            continue
        row = names[str(problem["loc"][0])]
        if row.field in lines:
            continue
        if problem["type"] == "missing":
            lines[row.field] = f"--{row.flag} is required: {row.doc}"
            continue
        given = flags.get(row.field)
        source = sources[row.field] if given is not None else _variable_in_use(row)
        raw = given if given is not None else os.environ.get(source, "")
        why = problem["msg"].removeprefix("Value error, ")
        lines[row.field] = (
            f"{source}={_short(raw)} is not allowed: {why}; allowed: {row.allowed}".replace("`", "")
        )
    return "; ".join(lines.values())


def _variable_in_use(row: Setting) -> str:
    own = _set_by(os.environ, row.field)[0]
    if own:
        return own
    meanings = seldon_names.meanings(_seldons_of(os.environ))
    return meanings[row.field].source if row.field in meanings else row.variable


def _short(raw: str, limit: int = 120) -> str:
    shown = repr(raw)
    return shown if len(shown) <= limit else shown[:limit] + "...'"


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """List the ``CARAML_*`` variables that are no setting, which are most often a typing error."""
    known = {name for row in settings() for name in (row.variable, *row.aliases)}
    return sorted(name for name in environ if name.startswith("CARAML_") and name not in known)


TABLE_BEGIN, TABLE_END = "<!-- settings:begin -->", "<!-- settings:end -->"


def table() -> str:
    """Render the settings as a Markdown table."""
    lines = ["| variable | flag | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{row.variable}` | `--{row.flag}` | {row.default} | {row.allowed} "
        f"| {row.doc}{_seldons_shown(row)} |"
        for row in settings()
    ]
    return "\n".join(lines) + "\n"


def _seldons_shown(row: Setting) -> str:
    shown = [f"`{name.variable}`" for name in row.seldons]
    shown += [f"`--{name.flag}`" for name in row.seldons if name.flag]
    return f" Seldon's: {', '.join(shown)}." if shown else ""


def with_table(text: str) -> str:
    """Put the table between its marks in a Markdown text."""
    before, _, rest = text.partition(TABLE_BEGIN)
    _, mark, after = rest.partition(TABLE_END)
    if not mark:
        raise ValueError(f"the text has no {TABLE_BEGIN} ... {TABLE_END}")
    return f"{before}{TABLE_BEGIN}\n{table()}{TABLE_END}{after}"


def _main(argv: list[str]) -> None:
    if not argv:
        sys.stdout.write(table())
        return
    page = Path(argv[0])
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    _main(sys.argv[1:])
