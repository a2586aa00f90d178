"""Small models for tests, and the functions that save them.

The Merlin-shaped ones are written against stand-ins for the SDK's base classes: the SDK itself
pins packages too old to be installed beside this server. The stand-ins keep what a server can
see of the originals: the names of the methods, the envelope, and what `predict` returns.

Import this module where warnings are not errors: MLflow warns about every `predict` without type
hints. A hint on the input would change how MLflow calls the model, so there are none.
"""

from __future__ import annotations

import atexit
import ctypes
import datetime
import importlib
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import cloudpickle
import grpc
import mlflow.pyfunc
import numpy as np
import pandas as pd
import prometheus_client
import tornado.web
from google.protobuf import message_factory
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

GATES = "PYFUNCSERVER_TEST_GATES"
"""As harness.GATES, which is not there where this module goes into an image."""

# The daemon cannot import this module, so the models carry their classes with them.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

MERLIN_PROTOCOL_MODULE = '''"""Stand-in for the SDK's module of the same name."""

import enum


class Protocol(enum.Enum):
    HTTP_JSON = "HTTP_JSON"
    UPI_V1 = "UPI_V1"
'''

LONGEST_HOLD_S = 90
SECRET = "the model's own secret"
"""The message of the error that `raise` raises; it belongs in the log and nowhere else."""


class EchoPlain(mlflow.pyfunc.PythonModel):
    """Returns what MLflow hands it."""

    def predict(self, context, model_input, params=None):
        return model_input


class Signed(mlflow.pyfunc.PythonModel):
    """Saved with the columns a (double), b (long), s (string); gives their sum and upper case."""

    def predict(self, context, model_input, params=None):
        total = model_input["a"] + model_input["b"]
        return pd.DataFrame({"total": total, "s": model_input["s"].str.upper()})


class Legacy(mlflow.pyfunc.PythonModel):
    """Takes the body and keywords, as models did before MLflow's context."""

    def predict(self, model_input, **kwargs):
        return {"echo": model_input, "headers": kwargs.get("headers")}


class Anything(mlflow.pyfunc.PythonModel):
    """Takes any JSON, in the way of Legacy, and tells only what Python made of it."""

    def predict(self, model_input, **kwargs):
        return {"type": type(model_input).__name__}


class Protocol(str, Enum):
    """What a model compares the envelope's protocol with where `merlin.protocol` is not loaded."""

    HTTP_JSON = "HTTP_JSON"
    UPI_V1 = "UPI_V1"


@dataclass
class Values:
    columns: list[str]
    data: list[list[Any]]


@dataclass
class ModelInput:
    prediction_ids: list[str]
    features: Values
    entities: Values | None = None
    session_id: str = ""


@dataclass
class ModelOutput:
    predictions: Values
    prediction_ids: list[str]


@dataclass
class PyFuncOutput:
    """What a Merlin model's `predict` returns."""

    http_response: Any = None
    upi_response: Any = None
    model_input: ModelInput | None = None
    model_output: ModelOutput | None = None


class Enveloped(mlflow.pyfunc.PythonModel):
    """Stand-in for what the SDK's base classes share: the envelope is unwrapped here."""

    protocol: Any = Protocol

    def load_context(self, context):
        self.initialize(context.artifacts)

    def initialize(self, artifacts: Mapping[str, str]) -> None:
        """Override to prepare the model once, after it was unpickled."""

    def predict(self, context, model_input):
        request = model_input["__INPUT__"]
        protocol = model_input.get("__PROTOCOL__", self.protocol.HTTP_JSON)
        if protocol == self.protocol.HTTP_JSON:
            return self.answer_http(request, **model_input.get("__EXTRA_ARGS__", {}))
        if protocol == self.protocol.UPI_V1:
            return self.answer_upi(request, model_input["__GRPC_CONTEXT__"])
        raise NotImplementedError(f"protocol {protocol!r} is not supported")


class PyFuncModel(Enveloped):
    """Stand-in for the SDK's PyFuncModel: one method a protocol."""

    def answer_http(self, request: Any, **kwargs: Any) -> PyFuncOutput:
        return PyFuncOutput(http_response=self.infer(request, **kwargs))

    def answer_upi(self, request: Any, context: grpc.ServicerContext) -> PyFuncOutput:
        return PyFuncOutput(upi_response=self.upiv1_infer(request, context))

    def infer(self, request: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("infer is not implemented")

    def upiv1_infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        raise NotImplementedError("upiv1_infer is not implemented")


class PyFuncV3Model(Enveloped):
    """Stand-in for the SDK's PyFuncV3Model: before, predict, after; its output can be logged."""

    def answer_http(self, request: Any, **kwargs: Any) -> PyFuncOutput:
        model_input = self.preprocess(request, **kwargs)
        model_output = self.ml_predict(model_input)
        response = self.postprocess(model_output, request)
        return PyFuncOutput(response, None, model_input, model_output)

    def answer_upi(self, request: Any, context: grpc.ServicerContext) -> PyFuncOutput:
        model_input = self.upiv1_preprocess(request, context)
        model_output = self.ml_predict(model_input)
        response = self.upiv1_postprocess(model_output, request)
        return PyFuncOutput(None, response, model_input, model_output)


class MerlinV2(PyFuncModel):
    """Sums each row of `instances`; knows the protocol only by the enum of `merlin.protocol`."""

    def initialize(self, artifacts: Mapping[str, str]) -> None:
        import merlin.protocol  # saved beside the model, see `save_merlin_v2`

        self.protocol = merlin.protocol.Protocol

    def infer(self, request: Any, **kwargs: Any) -> Any:
        sums = [sum(row) for row in request["instances"]]
        return {"predictions": sums, "foo": kwargs["headers"].get("Foo")}

    def upiv1_infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        return sums_response(request, table_sums(request))


class MerlinV3(PyFuncV3Model):
    """Sums each row of `instances`, or of the prediction table's doubles."""

    def preprocess(self, request: Any, **kwargs: Any) -> ModelInput:
        rows = request["instances"]
        ids = [str(number) for number in range(len(rows))]
        columns = [f"x{number}" for number in range(len(rows[0]))]
        return ModelInput(ids, Values(columns, rows), session_id=kwargs["headers"].get("Foo", ""))

    def ml_predict(self, model_input: ModelInput) -> ModelOutput:
        sums = [[sum(row)] for row in model_input.features.data]
        return ModelOutput(Values(["sum"], sums), model_input.prediction_ids)

    def postprocess(self, model_output: ModelOutput, request: Any) -> Any:
        return {"predictions": [row[0] for row in model_output.predictions.data]}

    def upiv1_preprocess(self, request: Any, context: grpc.ServicerContext) -> ModelInput:
        table = request.prediction_table
        rows = [[value.double_value for value in row.values] for row in table.rows]
        columns = [column.name for column in table.columns]
        return ModelInput([row.row_id for row in table.rows], Values(columns, rows))

    def upiv1_postprocess(self, model_output: ModelOutput, request: Any) -> Any:
        return sums_response(request, [row[0] for row in model_output.predictions.data])


class Controlled(PyFuncModel):
    """Does what the request says: `{"do": NAME, ...}` over HTTP, `target_name` over UPI.

    Over UPI a number comes in a variable of `prediction_context`, and so does the answer.
    """

    def initialize(self, artifacts: Mapping[str, str]) -> None:
        self.calls = prometheus_client.Counter("model_calls", "Calls of the command count.")

    def infer(self, request: Any, **kwargs: Any) -> Any:
        commands: dict[str, Callable[[], Any]] = {
            "echo": lambda: {"echo": request},
            "pid": lambda: {"pid": os.getpid()},
            "thread": lambda: {"thread": threading.get_native_id()},
            "count": self.count,
            "sleep": lambda: sleep(request["seconds"]),
            "hold": lambda: hold(request["gate"]),
            "headers": lambda: {"headers": kwargs["headers"]},
            "types": types,
            "unjsonable": lambda: {"value": object()},
            "raise": fail,
            "http_error": refuse,
            "odd_reason": refuse_oddly,
            "system_exit": sys.exit,
            "exit": leave,
        }
        return commands[request["do"]]()

    def upiv1_infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        numbers = {v.name: v.double_value or v.integer_value for v in request.prediction_context}
        commands: dict[str, Callable[[], Any]] = {
            "echo": lambda: echo_response(request),
            "pid": lambda: variables_response(request, {"pid": os.getpid()}),
            "thread": lambda: variables_response(request, {"thread": threading.get_native_id()}),
            "count": lambda: variables_response(request, self.count()),
            "sleep": lambda: variables_response(request, sleep(numbers["seconds"])),
            "hold": lambda: variables_response(request, hold(numbers["gate"])),
            "headers": lambda: variables_response(request, dict(context.invocation_metadata())),
            "abort": lambda: context.abort(grpc.StatusCode.FAILED_PRECONDITION, "model says no"),
            "unjsonable": object,
            "raise": fail,
            "http_error": refuse,
            "system_exit": sys.exit,
            "exit": leave,
        }
        return commands[request.target_name]()

    def count(self) -> dict[str, int]:
        self.calls.inc()
        return {"pid": os.getpid()}


def sleep(seconds: float) -> dict[str, Any]:
    time.sleep(seconds)
    return {"slept": seconds, "pid": os.getpid()}


def hold(gate: float) -> dict[str, Any]:
    """Wait until a test has opened its gate of this number."""
    path = Path(os.environ[GATES], str(int(gate)))
    give_up_at = time.monotonic() + LONGEST_HOLD_S
    while not path.exists() and time.monotonic() < give_up_at:
        time.sleep(0.005)
    return {"held": gate, "pid": os.getpid()}


def fail() -> None:
    raise RuntimeError(SECRET)


def refuse() -> None:
    raise tornado.web.HTTPError(422, reason="no such user")


def refuse_oddly() -> None:
    error = tornado.web.HTTPError(409)
    error.reason = "nein: größer\r\nX-Evil: 1"
    raise error


def leave() -> None:
    os._exit(3)


def types() -> dict[str, Any]:
    """Give what models answer and `json` cannot write."""
    moment = datetime.datetime(2024, 2, 29, 12, 30, 15, tzinfo=datetime.timezone.utc)
    return {
        "float32": np.float32(1.5),
        "int64": np.int64(7),
        "bool": np.bool_(True),
        "array": np.arange(6, dtype=np.int32).reshape(2, 3),
        "array_with_nan": np.array([1.0, np.nan, np.inf]),
        "frame": pd.DataFrame({"n": [1, 2], "s": ["x", None], "f": [0.5, np.nan]}),
        "series": pd.Series([1.5, 2.5]),
        "date": moment.date(),
        "datetime": moment,
        "timestamp": pd.Timestamp(moment),
        "datetime64": np.datetime64("2024-02-29T12:30:15"),
        "nan": float("nan"),
        "infinity": float("inf"),
        "minus_infinity": float("-inf"),
        "nat": pd.NaT,
        "na": pd.NA,
        "bytes": b"\x00\xff",
        "tuple": (1, 2),
        "none": None,
    }


def new_response(request: Any) -> Any:
    """Make an empty PredictValuesResponse of the same family of classes as the request."""
    # Not by an import: whose copy of the messages the daemon uses is what tests vary.
    response = request.DESCRIPTOR.file.message_types_by_name["PredictValuesResponse"]
    return message_factory.GetMessageClass(response)(target_name=request.target_name)


def echo_response(request: Any) -> Any:
    response = new_response(request)
    response.prediction_result_table.CopyFrom(request.prediction_table)
    response.prediction_context.MergeFrom(request.prediction_context)
    response.metadata.prediction_id = request.metadata.prediction_id
    return response


def variables_response(request: Any, values: Mapping[str, Any]) -> Any:
    """Answer in `prediction_context`; the types are numbered as in the .proto file."""
    response = new_response(request)
    for name, value in values.items():
        if isinstance(value, int):
            response.prediction_context.add(name=name, type=2, integer_value=value)
        elif isinstance(value, float):
            response.prediction_context.add(name=name, type=1, double_value=value)
        else:
            response.prediction_context.add(name=name, type=3, string_value=str(value))
    return response


def table_sums(request: Any) -> list[float]:
    rows = request.prediction_table.rows
    return [sum(value.double_value for value in row.values) for row in rows]


def sums_response(request: Any, sums: list[float]) -> Any:
    response = new_response(request)
    table = response.prediction_result_table
    table.name = request.prediction_table.name
    table.columns.add(name="sum", type=1)
    for row, total in zip(request.prediction_table.rows, sums, strict=True):
        table.rows.add(row_id=row.row_id).values.add(double_value=total)
    return response


def save(model: mlflow.pyfunc.PythonModel, path: Path, **options: Any) -> Path:
    # Without requirements given, MLflow starts a process to find them out.
    mlflow.pyfunc.save_model(str(path), python_model=model, pip_requirements=[], **options)
    return path


def save_signed(path: Path) -> Path:
    columns = [
        ColSpec(DataType.double, "a"),
        ColSpec(DataType.long, "b"),
        ColSpec(DataType.string, "s"),
    ]
    return save(Signed(), path, signature=ModelSignature(inputs=Schema(columns)))


def save_merlin_v2(path: Path) -> Path:
    """Save it with a `merlin` package that holds only `merlin.protocol`."""
    package = path.parent / f"{path.name}_code" / "merlin"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "protocol.py").write_text(MERLIN_PROTOCOL_MODULE, encoding="utf-8")
    return save(MerlinV2(), path, code_paths=[str(package)])


def save_iris(path: Path) -> Path:
    """Save a scikit-learn classifier with a signature, and no type hints or code of ours."""
    import mlflow.sklearn
    from mlflow.models import infer_signature
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    features, species = load_iris(return_X_y=True, as_frame=True)
    classifier = LogisticRegression(max_iter=500).fit(features, species)
    signature = infer_signature(features, classifier.predict(features))
    mlflow.sklearn.save_model(classifier, str(path), signature=signature, pip_requirements=[])
    return path


class Rows(mlflow.pyfunc.PythonModel):
    """Doubles the column x, and tells of each row how many were handed over with it.

    A negative x fails. What is above 1000 is a number of seconds that it takes, what is above 2000
    the number of a gate that it waits for.
    """

    def predict(self, context, model_input, params=None):
        x = model_input["x"]
        if (x < 0).any():
            raise RuntimeError(SECRET)
        if x.max() > 2000:
            hold(x.max() - 2000)
        else:
            time.sleep(max(0.0, x.max() - 1000))
        if params["cut"]:
            return [0.0]
        return pd.DataFrame({"y": x * 2, "rows": len(x), "tag": params["tag"]})


def save_rows(path: Path) -> Path:
    params = [ParamSpec("tag", DataType.string, ""), ParamSpec("cut", DataType.boolean, False)]
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.double, "x")]), params=ParamSchema(params)
    )
    return save(Rows(), path, signature=signature)


def save_forest(path: Path) -> Path:
    """Save a scikit-learn model whose calls cost much and whose rows cost little."""
    import mlflow.sklearn
    from mlflow.models import infer_signature
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier

    features, species = load_iris(return_X_y=True, as_frame=True)
    forest = RandomForestClassifier(100, random_state=0).fit(features, species)
    signature = infer_signature(features, forest.predict(features))
    mlflow.sklearn.save_model(
        forest,
        str(path),
        signature=signature,
        pip_requirements=[],
        serialization_format="cloudpickle",  # the default of some versions refuses trees
    )
    return path


class Threaded(mlflow.pyfunc.PythonModel):
    """Leaves a thread running after its load, which no fork would survive."""

    def load_context(self, context):
        threading.Thread(
            target=threading.Event().wait, name="the-models-own-thread", daemon=True
        ).start()

    def predict(self, context, model_input, params=None):
        return model_input


class Parent(mlflow.pyfunc.PythonModel):
    """Starts a process that nobody waits for, and answers its pid."""

    def predict(self, context, model_input, params=None):
        return subprocess.Popen(["sleep", "600"]).pid


class Tidy(mlflow.pyfunc.PythonModel):
    """Makes a file while it loads, and removes it when the process that loaded it ends."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def load_context(self, context):
        Path(self.mark).touch()
        atexit.register(os.remove, self.mark)

    def predict(self, context, model_input, params=None):
        return Path(self.mark).exists()


class Broken(mlflow.pyfunc.PythonModel):
    """Fails to load."""

    def load_context(self, context):
        raise KeyError("weights are missing")

    def predict(self, context, model_input, params=None):
        return model_input


class Crashing(mlflow.pyfunc.PythonModel):
    """Takes its process with it while it loads."""

    def load_context(self, context):
        os.kill(os.getpid(), signal.SIGSEGV)

    def predict(self, context, model_input, params=None):
        return model_input


class PublicUpi(mlflow.pyfunc.PythonModel):
    """Answers with messages of the public UPI package, imported at load, or call, or from a path.

    It says in `prediction_context` whether the request was of the package's own class.
    """

    def __init__(self, when: str) -> None:
        self.when = when

    def load_context(self, context):
        if self.when == "load":
            importlib.import_module("caraml.upi.v1.upi_pb2")

    def infer(self, request, **kwargs):
        return {}

    def upiv1_infer(self, request, context):
        if self.when not in {"load", "call"}:
            sys.path.insert(0, self.when)
        upi_pb2 = importlib.import_module("caraml.upi.v1.upi_pb2")
        is_same = isinstance(request, upi_pb2.PredictValuesRequest)
        response = upi_pb2.PredictValuesResponse(target_name=request.target_name)
        response.prediction_context.add(
            name="class", type=3, string_value="same" if is_same else "another"
        )
        return response

    def predict(self, context, model_input):
        return self.upiv1_infer(model_input["__INPUT__"], model_input["__GRPC_CONTEXT__"])


class Accuser(mlflow.pyfunc.PythonModel):
    """Raises what MLflow raises for a bad input, although its input is good."""

    def predict(self, context, model_input, params=None):
        raise MlflowException.invalid_parameter_value("the model found something")


class Slow(mlflow.pyfunc.PythonModel):
    """Makes the file that it is told to when its load begins, and never ends that load."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def load_context(self, context):
        Path(self.mark).touch()
        time.sleep(600)

    def predict(self, context, model_input, params=None):
        return model_input


class Hostile(mlflow.pyfunc.PythonModel):
    """Does to its process what models do, while it loads and when it is called."""

    def load_context(self, context):
        subprocess.Popen(["sleep", "600"])
        os.chdir("/")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        logging.basicConfig(level="ERROR", format="not ours: %(message)s", force=True)

    def predict(self, context, model_input, params=None):
        fork = multiprocessing.get_context("fork")
        with fork.Pool(2) as pool:
            squares = pool.map(abs, [-1, -2])
        sleeper = fork.Process(target=time.sleep, args=(600,))
        sleeper.start()
        sleeper.terminate()
        sleeper.join(10)
        return {"squares": squares, "exitcode": sleeper.exitcode}


class Witness(PyFuncModel):
    """Answers its process, the request's number, and the value that it was saved with.

    Before that it does what the request says in `do`, or over UPI in `target_name`, which may be
    the end of its process. Numbers come in `prediction_context` over UPI, and so do the answers.
    """

    def __init__(self, value: int) -> None:
        self.value = value

    def infer(self, request: Any, **kwargs: Any) -> Any:
        return self.witness(request.get("do", ""), request)

    def upiv1_infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        numbers = {v.name: v.double_value or v.integer_value for v in request.prediction_context}
        return variables_response(request, self.witness(request.target_name, numbers))

    def witness(self, do: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
        acts: dict[str, Callable[[], None]] = {
            "sleep": lambda: time.sleep(numbers["seconds"]),
            "hang": hang,
            "hold_the_gil": hold_the_gil,
            "segfault": segfault,
            "exit": leave,
            "eat": eat,
        }
        if do:
            acts[do]()
        return {"pid": os.getpid(), "number": numbers.get("number", 0), "value": self.value}


def hang() -> None:
    threading.Event().wait()


def hold_the_gil() -> None:
    """Keep every other thread of the process from running, as an extension in a loop does."""
    re.match(r"(a+)+$", "a" * 64 + "b")


def segfault() -> None:
    ctypes.string_at(0)


def eat() -> None:
    eaten = []
    while True:
        eaten.append(b"x" * 8_000_000)


class Heavy(mlflow.pyfunc.PythonModel):
    """Holds so many MB of weights."""

    def __init__(self, megabytes: int) -> None:
        self.megabytes = megabytes

    def load_context(self, context):
        self.weights = np.ones(self.megabytes << 17)

    def predict(self, context, model_input, params=None):
        return [float(self.weights[0])]


class Weights(mlflow.pyfunc.PythonModel):
    """Holds a GiB of weights beside objects of Python's; answers one of each, and its process."""

    def load_context(self, context):
        self.weights = np.arange(1 << 27, dtype=np.float64)
        self.names = {number: f"feature-{number}" for number in range(10_000)}

    def predict(self, context, model_input, params=None):
        number = int(model_input[0][0])
        return [float(self.weights[number]), self.names[number % len(self.names)], os.getpid()]


class Rehearsed(mlflow.pyfunc.PythonModel):
    """Notes the process that each call ran in, in a file."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def predict(self, context, model_input, params=None):
        with open(self.mark, "a", encoding="ascii") as mark:
            mark.write(f"{os.getpid()}\n")
        return model_input


def save_rehearsed(path: Path, mark: Path) -> Path:
    """Save it with an input example, which it has to answer before it serves."""
    return save(Rehearsed(str(mark)), path, input_example=pd.DataFrame({"a": [1.0, 2.0]}))


class Surrounded(mlflow.pyfunc.PythonModel):
    """Answers the variables of its environment as they were when it was loaded."""

    def load_context(self, context):
        self.environment = dict(os.environ)

    def predict(self, context, model_input, params=None):
        return [self.environment]


class Uneven(mlflow.pyfunc.PythonModel):
    """Counts its loads in a directory; one of them takes ten minutes. Answers after a while."""

    def __init__(self, marks: str, slow_one: int) -> None:
        self.marks = marks
        self.slow_one = slow_one

    def load_context(self, context):
        number = 1
        while True:  # several loads at once: each number is taken once
            try:
                Path(self.marks, str(number)).touch(exist_ok=False)
                break
            except FileExistsError:
                number += 1
        if number == self.slow_one:
            time.sleep(600)

    def predict(self, context, model_input, params=None):
        time.sleep(1)
        return os.getpid()


class LateFailure(mlflow.pyfunc.PythonModel):
    """Says that its load has begun, takes two seconds for it, and fails."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def load_context(self, context):
        Path(self.mark).touch()
        time.sleep(2)
        raise KeyError("weights are missing")

    def predict(self, context, model_input, params=None):
        return model_input
