"""Every server that is measured: how it is started, and what it is asked.

In commands and variables `{port}`, `{port2}` and `{port3}` are free ports, `{bin}` is the
environment's directory of programs, `{model}` the model's, `{servers}` that of `servers/`,
`{scratch}` one that is removed afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from benchmark import machine, payloads
from benchmark.environments import OURS
from benchmark.payloads import Body, IsEchoed

V1_PATH = "/v1/models/model-1:predict"
V2_PATH = "/v2/models/echo/infer"
V2_GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
UPI_PATH = "/caraml.upi.v1.UniversalPredictionService/PredictValues"


@dataclass(frozen=True)
class Target:
    """A server and its question."""

    name: str
    command: tuple[str, ...]
    environment: str
    path: str
    body: Body = payloads.v1
    is_echoed: IsEchoed = payloads.has_same_leaves
    env: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    is_grpc: bool = False
    cpus: str = machine.SERVER_CPU
    is_limit: bool = False
    """No model server: the least that its libraries need for an answer."""

    def with_env(self, name: str, **env: str) -> Target:
        """Give the same server under another name, with more variables."""
        return replace(self, name=name, env={**self.env, **env})


def _over_upi(target: Target) -> Target:
    env = {**target.env, "CARAML_PROTOCOL": "UPI_V1"}
    env |= {"CARAML_GRPC_PORT": "{port}", "CARAML_HTTP_PORT": "{port2}"}
    return replace(
        target,
        name=f"{target.name} UPI",
        path=UPI_PATH,
        body=payloads.upi,
        is_echoed=payloads.has_same_table,
        env=env,
        is_grpc=True,
    )


_PYFUNC = ("{bin}/python", "-W", "ignore", "-m", "pyfuncserver", "--model_dir", "{model}")
_CARAML = {
    "CARAML_PROTOCOL": "HTTP_JSON",
    "CARAML_HTTP_PORT": "{port}",
    "CARAML_GRPC_PORT": "{port2}",
    "CARAML_MODEL_FULL_NAME": "model-1",
    "PROMETHEUS_MULTIPROC_DIR": "{scratch}",
    "WORKERS": "1",
}

PLAIN = Target("pyfuncserver", _PYFUNC, OURS, V1_PATH, env=_CARAML, model="echo")
MERLIN_SHAPED = replace(PLAIN, name="pyfuncserver, Merlin's model", model="merlin_echo")
MERLIN_SHAPED_UPI = replace(_over_upi(MERLIN_SHAPED), name="pyfuncserver UPI")
FOREST = replace(
    PLAIN,
    name="unbatched",
    model="forest",
    body=payloads.iris,
    is_echoed=payloads.has_one_prediction,
)
HEAVY = replace(PLAIN, model="heavy", cpus=machine.BOTH_CPUS)

_WITHOUT = ("{bin}/python", "-W", "ignore", "{servers}/without.py")


def without(*parts: str) -> Target:
    """Give our server with parts of it replaced by nothing; see `servers/without.py`."""
    name = f"without {', '.join(parts)}" if parts else "whole"
    command = (*_WITHOUT, ",".join(parts), "--model_dir", "{model}")
    return replace(MERLIN_SHAPED, name=name, command=command)


MERLIN = Target("Merlin", _PYFUNC, "merlin", V1_PATH, env=_CARAML, model="merlin")
MERLIN_UPI = _over_upi(MERLIN)

MLFLOW = Target(
    "mlflow models serve",
    (
        *("{bin}/mlflow", "models", "serve", "--model-uri", "{model}", "--port", "{port}"),
        *("--env-manager", "local", "--workers", "1"),
    ),
    OURS,
    "/invocations",
    body=payloads.dataframe_split,
    model="echo",
)
KSERVE = Target(
    "KServe SDK V1",
    ("{bin}/python", "{servers}/kserve_echo.py", "--http_port={port}", "--grpc_port={port2}"),
    "kserve",
    "/v1/models/echo:predict",
)
_MLSERVER = Target(
    "MLServer V2",
    ("{bin}/mlserver", "start", "{scratch}"),
    "mlserver",
    V2_PATH,
    body=payloads.v2,
    env={
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": "{port}",
        "MLSERVER_GRPC_PORT": "{port2}",
        "MLSERVER_METRICS_PORT": "{port3}",
        "MLSERVER_DEBUG": "false",
        "MLSERVER_MODEL_NAME": "echo",
        "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_mlflow.MLflowRuntime",
        "MLSERVER_MODEL_URI": "{model}",
        "MLSERVER_MODEL_CONTENT_TYPE": "np",
    },
    model="mlserver",
)
# Its default is a process beside the one that answers; without it the model is on the loop.
MLSERVER = _MLSERVER.with_env("MLServer V2, 1 process", MLSERVER_PARALLEL_WORKERS="0")
SELDON = Target(
    "Seldon",
    (
        *("{bin}/seldon-core-microservice", "seldon_echo.Echo", "--service-type", "MODEL"),
        *("--http-port", "{port}", "--grpc-port", "{port2}", "--metrics-port", "{port3}"),
        *("--workers", "1", "--threads", "10", "--access-log", "false"),
    ),
    "seldon",
    "/api/v1.0/predictions",
    body=payloads.seldon,
    env={"PREDICTIVE_UNIT_ID": "echo", "SELDON_LOG_LEVEL": "WARNING", "PYTHONPATH": "{servers}"},
)
BENTOML = Target(
    "BentoML",
    (
        *("{bin}/bentoml", "serve", "bentoml_echo:Echo", "--host", "127.0.0.1"),
        *("--port", "{port}", "--api-workers", "1"),
    ),
    "bentoml",
    "/predict",
    env={"BENTOML_HOME": "{scratch}", "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": "{servers}"},
)
RAY = Target(
    "Ray Serve",
    ("{bin}/python", "-W", "ignore", "{servers}/ray_echo.py", "{port}"),
    "ray",
    "/predict",
    env={"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "{scratch}"},
)
LITSERVE = Target(
    "LitServe", ("{bin}/python", "{servers}/litserve_echo.py", "{port}"), "litserve", "/predict"
)


def _raw(target: Target) -> Target:
    return replace(target, name=f"{target.name}, raw", body=payloads.v2_raw)


_V2_GRPC = Target(
    "",
    (),
    "",
    V2_GRPC_PATH,
    body=payloads.v2_typed,
    is_echoed=payloads.has_same_doubles,
    is_grpc=True,
)
PLAIN_V2_GRPC = replace(
    _V2_GRPC,
    name="pyfuncserver",
    command=_PYFUNC,
    environment=OURS,
    env={**_over_upi(PLAIN).env, "CARAML_MODEL_FULL_NAME": "echo"},
    model="echo",
)
PLAIN_V2_GRPC_RAW = _raw(PLAIN_V2_GRPC)
KSERVE_V2_GRPC = replace(
    _V2_GRPC,
    name="KServe SDK",
    command=(
        *("{bin}/python", "{servers}/kserve_v2_echo.py"),
        *("--http_port={port2}", "--grpc_port={port}"),
    ),
    environment="kserve",
)
KSERVE_V2_GRPC_RAW = _raw(KSERVE_V2_GRPC)
MLSERVER_V2_GRPC = replace(
    _V2_GRPC,
    name="MLServer, 1 process",
    command=MLSERVER.command,
    environment=MLSERVER.environment,
    env={**MLSERVER.env, "MLSERVER_HTTP_PORT": "{port2}", "MLSERVER_GRPC_PORT": "{port}"},
    model=MLSERVER.model,
)
MLSERVER_V2_GRPC_RAW = _raw(MLSERVER_V2_GRPC)

ASGI_ECHO = Target(
    "bare uvicorn echo",
    (
        *("{bin}/uvicorn", "asgi_echo:application", "--port", "{port}", "--loop", "uvloop"),
        *("--http", "httptools", "--no-access-log", "--lifespan", "off"),
        *("--log-level", "warning"),
    ),
    "limits",
    V1_PATH,
    env={"PYTHONPATH": "{servers}"},
    is_limit=True,
)
GRPC_ECHO = Target(
    "bare grpcio thread pool",
    ("{bin}/python", "{servers}/grpc_echo.py", "{port}"),
    "limits",
    UPI_PATH,
    body=payloads.upi,
    is_echoed=payloads.has_same_table,
    is_grpc=True,
    is_limit=True,
)
