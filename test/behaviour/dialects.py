"""One client for each dialect, all with the same verbs: the same rows, each in its own words.

They are small on purpose, and speak by hand what the specifications say; the real clients of these
dialects are in `test/clients`.
"""

from __future__ import annotations

import contextlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, ClassVar, Protocol

import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness import Daemon

from pyfuncserver.codec import inference, seldon_proto, upi

ANSWER, FAIL, REFUSE, NONSENSE, HOLD, COUNT, MISSING = range(7)
"""What a row's first column can say."""
COLUMNS = ("do", "x")
SECRET = "the model's own secret"
"""What the model raises with FAIL; it belongs in the log and nowhere else."""
REFUSED = "no such user"
"""What the model says with REFUSE, by an HTTP error of its own: 422."""
GATE = "PYFUNCSERVER_TEST_GATE"
"""The variable that names the directory in which HOLD waits for a file of the name x."""

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Outcome:
    """What a client saw."""

    status: int | str
    """HTTP's, or the name of gRPC's."""
    values: list[float | None]
    """The column total of the answer, None where a number is missing; empty where there is none."""
    text: str
    """What was wrong; empty where nothing was."""
    request_id: str | None = None
    retry_after: str | None = None


class Call(Protocol):
    """A request that was sent."""

    def outcome(self) -> Outcome: ...

    def hang_up(self) -> None: ...


class Client(ABC):
    """Speaks one dialect with a daemon whose model is called ``model``, version 1."""

    dialect: ClassVar[str]
    """As the metrics name it."""
    wire: ClassVar[str]
    malformed: ClassVar[bytes]
    """What is no request at all."""
    names_model: ClassVar[bool] = False

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.resources = contextlib.ExitStack()

    def close(self) -> None:
        self.resources.close()

    @abstractmethod
    def body(self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> bytes:
        """Write a request; a cell is a number or a text."""

    @abstractmethod
    def start(self, body: bytes, timeout_s: float | None = None, request_id: str = "") -> Call: ...

    @abstractmethod
    def is_ready(self) -> bool:
        """Ask, in the dialect's own way."""

    def ask_another(self) -> Outcome:
        """Ask a model that is not there, where the dialect names one."""
        raise NotImplementedError

    def ask(self, *rows: Row, timeout_s: float | None = None) -> Outcome:
        return self.start(self.body(rows), timeout_s).outcome()


# HTTP


class HttpCall:
    def __init__(self, client: HttpClient, path: str, body: bytes, headers: dict[str, str]) -> None:
        self.client = client
        self.connection = client.daemon.connection()
        self.connection.request("POST", path, body, headers)

    def outcome(self) -> Outcome:
        with contextlib.closing(self.connection):
            response = self.connection.getresponse()
            return self.client.outcome(response, response.read())

    def hang_up(self) -> None:
        self.connection.close()


class HttpClient(Client):
    wire = "http"
    path: ClassVar[str]
    other_path: ClassVar[str]
    """Of a model that is not there, where the dialect names one."""
    ready_path: ClassVar[str]
    content_type: ClassVar[str] = "application/json"
    error_type: ClassVar[str] = "application/json"

    def headers(self, body: bytes) -> dict[str, str]:
        return {"Content-Type": self.content_type}

    def values(self, response: HTTPResponse, body: bytes) -> Sequence[Any]:
        return [row["total"] for row in _parsed(body)["predictions"]]

    @abstractmethod
    def reason(self, status: int, problem: Any) -> str:
        """Give what an error's body says, which has to be all that it holds."""

    def ask_another(self) -> Outcome:
        return self.start(self.body([(ANSWER, 1)]), path=self.other_path).outcome()

    def start(
        self,
        body: bytes,
        timeout_s: float | None = None,
        request_id: str = "",
        path: str | None = None,
    ) -> Call:
        headers = self.headers(body)
        if timeout_s is not None:
            headers["X-Request-Timeout"] = str(timeout_s)
        if request_id:
            headers["X-Request-Id"] = request_id
        return HttpCall(self, path or self.path, body, headers)

    def outcome(self, response: HTTPResponse, body: bytes) -> Outcome:
        given = response.headers["X-Request-Id"]
        if response.status == 200:
            return Outcome(200, _plain(self.values(response, body)), "", given)
        text = self.refusal(response.status, response.headers["Content-Type"], body)
        return Outcome(response.status, [], text, given, response.headers["Retry-After"])

    def refusal(self, status: int, content_type: str, body: bytes) -> str:
        assert content_type == self.error_type
        return self.reason(status, _parsed(body))

    def is_ready(self) -> bool:
        answer = self.daemon.http("GET", self.ready_path)
        if answer.status == 200:
            return True
        assert answer.status == 503
        assert "ready" in self.refusal(503, answer.headers["Content-Type"], answer.body)
        return False


class V1(HttpClient):
    dialect = "v1"
    names_model = True
    path = "/v1/models/model-1:predict"
    other_path = "/v1/models/other:predict"
    ready_path = "/v1/models/model-1"
    error_type = "application/json; charset=UTF-8"
    malformed = b'{"instances": ['

    def body(self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> bytes:
        return json.dumps({"instances": _records(rows, columns)}).encode()

    def reason(self, status: int, problem: Any) -> str:
        assert problem == {"status_code": status, "reason": problem["reason"]}
        return str(problem["reason"])


class V2(HttpClient):
    dialect = "v2"
    names_model = True
    path = "/v2/models/model/infer"
    other_path = "/v2/models/other/infer"
    ready_path = "/v2/models/model/ready"
    malformed = b'{"inputs": ['

    def body(self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> bytes:
        inputs = [
            {**_head(name, cells), "data": cells} for name, cells in _columns(rows, columns).items()
        ]
        return json.dumps({"inputs": inputs}).encode()

    def values(self, response: HTTPResponse, body: bytes) -> Sequence[Any]:
        (output,) = _parsed(body)["outputs"]
        assert (output["name"], output["datatype"]) == ("total", "FP64")
        assert output["shape"] == [len(output["data"])]
        return list(output["data"])

    def reason(self, status: int, problem: Any) -> str:
        assert list(problem) == ["error"]
        return str(problem["error"])

    def is_ready(self) -> bool:
        """See its body: it is no error's."""
        answer = self.daemon.http("GET", self.ready_path)
        server = self.daemon.http("GET", "/v2/health/ready")
        is_ready = answer.status == 200
        assert answer.status == server.status == (200 if is_ready else 503)
        assert answer.json() == {"name": "model", "ready": is_ready}
        assert server.json() == {"ready": is_ready}
        return is_ready


class V2Binary(V2):
    """Raw values both ways."""

    content_type = "application/octet-stream"
    length = "Inference-Header-Content-Length"
    malformed = b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": [1]}]}1234567'

    def headers(self, body: bytes) -> dict[str, str]:
        length = json.JSONDecoder().raw_decode(body.decode("latin-1"))[1] if body else 0
        return {**super().headers(body), self.length: str(length)}

    def body(self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> bytes:
        inputs, tail = [], []
        for name, cells in _columns(rows, columns).items():
            tail.append(_raw(cells))
            parameters = {"binary_data_size": len(tail[-1])}
            inputs.append({**_head(name, cells), "parameters": parameters})
        head = {"inputs": inputs, "parameters": {"binary_data_output": True}}
        return b"".join([json.dumps(head).encode(), *tail])

    def values(self, response: HTTPResponse, body: bytes) -> Sequence[Any]:
        length = int(response.headers[self.length])
        (output,) = _parsed(body[:length])["outputs"]
        raw = body[length:]
        assert output["parameters"] == {"binary_data_size": len(raw)}
        assert (output["name"], output["datatype"]) == ("total", "FP64")
        return np.frombuffer(raw, "<f8").reshape(output["shape"]).tolist()


class Mlflow(HttpClient):
    dialect = "scoring"
    path = "/invocations"
    ready_path = "/ping"
    malformed = b'{"dataframe_split": ['

    def body(self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> bytes:
        return json.dumps({"dataframe_split": {"columns": columns, "data": rows}}).encode()

    def reason(self, status: int, problem: Any) -> str:
        codes = {429: "REQUEST_LIMIT_EXCEEDED", 500: "INTERNAL_ERROR"}
        codes |= {501: "NOT_IMPLEMENTED", 503: "TEMPORARILY_UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
        code = codes.get(status, "BAD_REQUEST")
        assert problem == {"error_code": code, "message": problem["message"]}
        return str(problem["message"])


class MlflowCsv(Mlflow):
    content_type = "text/csv"
    malformed = b'do,x\n"1,2'

    def body(self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> bytes:
        lines = [",".join(map(str, row)) for row in [columns, *rows]]
        return "\n".join(lines).encode()


class Seldon(HttpClient):
    dialect = "seldon"
    path = "/api/v1.0/predictions"
    ready_path = "/health/status"
    malformed = b'{"data": {'

    def body(self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> bytes:
        return json.dumps({"data": {"names": columns, "ndarray": rows}}).encode()

    def values(self, response: HTTPResponse, body: bytes) -> Sequence[Any]:
        data = _parsed(body)["data"]
        assert data["names"] == ["total"]
        return [value for (value,) in data["ndarray"]]

    def reason(self, status: int, problem: Any) -> str:
        reason = "MICROSERVICE_BAD_DATA" if status < 500 else "MICROSERVICE_INTERNAL_ERROR"
        info = problem["status"]["info"]
        assert problem == {"status": {"status": 1, "info": info, "code": -1, "reason": reason}}
        return str(info)


# gRPC


class GrpcCall:
    def __init__(self, client: GrpcClient, future: Any) -> None:
        self.client = client
        self.future = future

    def outcome(self) -> Outcome:
        code = self.future.code().name
        given = dict(self.future.trailing_metadata()).get("x-request-id")
        if code == "OK":
            return Outcome(code, _plain(self.client.values(self.future.result())), "", given)
        return Outcome(code, [], self.future.details(), given)

    def hang_up(self) -> None:
        self.future.cancel()


class GrpcClient(Client):
    wire = "grpc"
    service: ClassVar[str]
    method: ClassVar[str]
    malformed = b"\xff\xff\xff"

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon)
        self.channel = self.resources.enter_context(daemon.channel())
        self.call = self.channel.unary_unary(f"/{self.service}/{self.method}")

    @abstractmethod
    def values(self, body: bytes) -> Sequence[Any]: ...

    def start(self, body: bytes, timeout_s: float | None = None, request_id: str = "") -> Call:
        metadata = [("x-request-id", request_id)] if request_id else []
        return GrpcCall(self, self.call.future(body, timeout=timeout_s or 30, metadata=metadata))

    def is_ready(self) -> bool:
        question = health_pb2.HealthCheckRequest(service=self.service)
        found = health_pb2_grpc.HealthStub(self.channel).Check(question, timeout=30).status
        return bool(found == health_pb2.HealthCheckResponse.SERVING)


class Upi(GrpcClient):
    dialect = "upi"
    service, method = upi.SERVICE, upi.METHOD

    def body(self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> bytes:
        request = upi.messages().PredictValuesRequest(target_name="total")
        table = request.prediction_table
        for name, cells in _columns(rows, columns).items():
            table.columns.add(name=name, type=3 if _is_text(cells) else 1)
        for number, row in enumerate(rows):
            kept = table.rows.add(row_id=str(number))
            for cell in row:
                key = "string_value" if isinstance(cell, str) else "double_value"
                kept.values.add(**{key: cell})
        body: bytes = request.SerializeToString()
        return body

    def values(self, body: bytes) -> Sequence[Any]:
        table = upi.messages().PredictValuesResponse.FromString(body).prediction_result_table
        assert [(column.name, column.type) for column in table.columns] == [("total", 1)]
        cells = [row.values[0] for row in table.rows]
        return [None if cell.is_null else cell.double_value for cell in cells]


class V2Raw(GrpcClient):
    dialect = "v2_grpc"
    names_model = True
    service, method = inference.SERVICE, inference.METHOD

    def body(
        self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS, model: str = "model"
    ) -> bytes:
        request = inference.messages().ModelInferRequest(model_name=model)
        for name, cells in _columns(rows, columns).items():
            self.put(request, request.inputs.add(**_head(name, cells)), cells)
        body: bytes = request.SerializeToString()
        return body

    def put(self, request: Any, head: Any, cells: list[Any]) -> None:
        request.raw_input_contents.append(_raw(cells))

    def taken(self, response: Any) -> Any:
        assert not response.outputs[0].HasField("contents")
        return np.frombuffer(response.raw_output_contents[0], "<f8").tolist()

    def values(self, body: bytes) -> Sequence[Any]:
        response = inference.messages().ModelInferResponse.FromString(body)
        assert (response.model_name, response.model_version) == ("model", "1")
        (output,) = response.outputs
        assert (output.name, output.datatype) == ("total", "FP64")
        found: Sequence[Any] = self.taken(response)
        assert list(output.shape) == [len(found)]
        return found

    def ask_another(self) -> Outcome:
        return self.start(self.body([(ANSWER, 1)], model="other")).outcome()

    def is_ready(self) -> bool:
        for name, fields in (("ServerReady", {}), ("ModelReady", {"name": "model"})):
            question = getattr(inference.messages(), f"{name}Request")(**fields)
            call = self.channel.unary_unary(f"/{self.service}/{name}")
            answer = inference.parse(f"{name}Response", call(question.SerializeToString()))
            assert answer.ready == super().is_ready()
        return super().is_ready()


class V2Typed(V2Raw):
    def put(self, request: Any, head: Any, cells: list[Any]) -> None:
        if _is_text(cells):
            head.contents.bytes_contents.extend(cell.encode() for cell in cells)
        else:
            head.contents.fp64_contents.extend(cells)

    def taken(self, response: Any) -> Any:
        assert not response.raw_output_contents
        return response.outputs[0].contents.fp64_contents


class SeldonGrpc(GrpcClient):
    dialect = "seldon_grpc"
    service, method = f"{seldon_proto.PACKAGE}.Model", "Predict"

    def body(self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> bytes:
        message = seldon_proto.classes().SeldonMessage()
        message.data.names.extend(columns)
        message.data.ndarray.SetInParent()
        for row in rows:
            message.data.ndarray.add_list().extend(row)
        body: bytes = message.SerializeToString()
        return body

    def values(self, body: bytes) -> Sequence[Any]:
        data = seldon_proto.classes().SeldonMessage.FromString(body).data
        assert list(data.names) == ["total"]
        cells = [row.list_value.values[0] for row in data.ndarray.values]
        return [cell.number_value if cell.HasField("number_value") else None for cell in cells]


CLIENTS: dict[str, type[Client]] = {
    "v1": V1,
    "v2": V2,
    "v2-binary": V2Binary,
    "mlflow": Mlflow,
    "mlflow-csv": MlflowCsv,
    "seldon": Seldon,
    "grpc:upi": Upi,
    "grpc:v2-raw": V2Raw,
    "grpc:v2-typed": V2Typed,
    "grpc:seldon": SeldonGrpc,
}


def _parsed(body: bytes) -> Any:
    """Parse JSON that is JSON: a bare NaN is none."""
    return json.loads(body, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def _plain(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None or math.isnan(value) else value for value in values]


def _columns(rows: Sequence[Row], columns: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [row[place] for row in rows] for place, name in enumerate(columns)}


def _records(rows: Sequence[Row], columns: Sequence[str]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _is_text(cells: Sequence[Any]) -> bool:
    return bool(cells) and isinstance(cells[0], str)


def _head(name: str, cells: Sequence[Any]) -> dict[str, Any]:
    datatype = "BYTES" if _is_text(cells) else "FP64"
    return {"name": name, "datatype": datatype, "shape": [len(cells)]}


def _raw(cells: Sequence[Any]) -> bytes:
    if not _is_text(cells):
        return np.array(cells, "<f8").tobytes()
    coded = [cell.encode() for cell in cells]
    return b"".join(len(cell).to_bytes(4, "little") + cell for cell in coded)
