"""MLflow's own scoring server as an oracle, driven in this process, and ours beside it.

Both are called with one model, which keeps what it was handed, so that that can be compared, too.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.pyfunc import scoring_server

from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.call import Request
from pyfuncserver.model.lane import Lane
from pyfuncserver.model.pyfunc import PyFuncRunner
from pyfuncserver.model.service import InferenceService, Stand
from pyfuncserver.protocol.rest.scoring import Scoring

NOTHING = object()
"""What a model was handed that was not called."""


class Recorder(mlflow.pyfunc.PythonModel):
    """Keeps what it is handed, and answers it, or what it is told to."""

    def predict(self, context, model_input, params=None):
        self.seen = (model_input, params)
        answer = getattr(self, "answer", None)
        return model_input if answer is None else answer()


class HintedInts(Recorder):
    def predict(self, model_input: list[int], params=None):
        return super().predict(None, model_input, params)


class HintedRecords(Recorder):
    def predict(self, model_input: list[dict[str, str]], params=None):
        return super().predict(None, model_input, params)


class HintedMoments(Recorder):
    def predict(self, model_input: list[datetime.datetime], params=None):
        return super().predict(None, model_input, params)


class HintedBytes(Recorder):
    def predict(self, model_input: list[bytes], params=None):
        return super().predict(None, model_input, params)


@dataclass
class Outcome:
    """What a client saw, and what the model was handed."""

    status: int
    body: bytes
    content_type: str = ""
    seen: Any = field(default=NOTHING, repr=False)

    @property
    def message(self) -> str:
        try:
            found = json.loads(self.body)
        except ValueError:
            return self.body.decode()
        return str(found.get("message", "")) if isinstance(found, dict) else ""


class Oracle:
    """The application of the installed ``mlflow.pyfunc.scoring_server``."""

    def __init__(self, model: Any) -> None:
        self.app = scoring_server.init(model)
        self.loop = asyncio.new_event_loop()

    def close(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def ask(self, body: bytes, content_type: str | None, path: str = "/invocations") -> Outcome:
        return self.loop.run_until_complete(self._ask(body, content_type, path))

    async def _ask(self, body: bytes, content_type: str | None, path: str) -> Outcome:
        headers = [(b"host", b"x")]
        if content_type is not None:
            headers.append((b"content-type", content_type.encode("latin-1")))
        method = "POST" if path == "/invocations" else "GET"
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        sent: list[Any] = []
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return unread.pop() if unread else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        try:
            await self.app(scope, receive, send)
        except Exception:  # noqa: BLE001 whatever it raises, it has answered with 500
            assert sent, "nothing was answered"
        given = dict(sent[0]["headers"]).get(b"content-type", b"").decode()
        text = b"".join(message.get("body", b"") for message in sent[1:])
        return Outcome(sent[0]["status"], text, given)


class Pair:
    """One model, asked by MLflow's server and by ours."""

    def __init__(self, model: Any) -> None:
        self.recorder = model._model_impl.python_model
        self.oracle = Oracle(model)
        self.runner = PyFuncRunner(model)
        self.service = InferenceService({"m": Stand(self.runner, Lane(1, 10))}, Instruments())
        self.shortcuts = 0
        """How many requests took a shortcut."""
        plain = self.runner._plain
        assert plain is not None
        plain._shortcut = self._counted(plain._shortcut)  # type: ignore[method-assign]

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self.oracle.close()

    def _counted(self, shortcut: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
        def counted(key: str, data: Any) -> Any:
            found = shortcut(key, data)
            self.shortcuts += found is not None
            return found

        return counted

    def by_mlflow(self, body: bytes, content_type: str | None) -> Outcome:
        self.recorder.seen = NOTHING
        found = self.oracle.ask(body, content_type)
        found.seen = self.recorder.seen
        return found

    def by_us(self, body: bytes, content_type: str | None) -> Outcome:
        self.recorder.seen = NOTHING
        given = {} if content_type is None else {b"content-type": content_type.encode("latin-1")}
        reply = self.service.handle(Scoring(), Request("m", body, "id", header=given.get))
        usual = "application/json"
        return Outcome(
            int(reply.status), reply.body, reply.content_type or usual, self.recorder.seen
        )


MEANINGS: Mapping[str, str] = {
    "json": r"Ensure that input is a valid JSON formatted",
    "fields": r"exactly one of the input fields",
    "type hint": r"contains a valid type hint",
    "charset": r"only supports UTF-8",
    "content type parameters": r"Unrecognized content type parameters",
    "content type": r"only supports the following content types",
    "utf-8": r"valid UTF-8 encoded",
    "csv": r"valid CSV-formatted",
    "parquet": r"[Vv]alid Parquet",
    "records": r"records format must be|dataframe_records must be",
    "split": r"split format must|dataframe_split must be",
    "frame": r"not a valid dataframe representation",
    "params": r"Invalid parameters found|Parameters must be a dictionary",
}
"""What a message is about, by what both servers' messages say. All else is about the data."""


def meaning(message: str) -> str:
    for name, pattern in MEANINGS.items():
        if re.search(pattern, message):
            return name
    return "data"


def difference(theirs: Outcome, ours: Outcome) -> str:
    """Say how two outcomes differ, beyond what CONTRACTS, section 6, lets differ."""
    if theirs.status == 500 and ours.status in (400, 415):
        return ""  # MLflow fails at a bad request, with the bare words "Internal Server Error"
    if theirs.status == 500 and ours.status == 200 and is_same(theirs.seen, ours.seen):
        return ""  # MLflow cannot write the answer
    if theirs.status == 200 and ours.status == 200:
        return _difference_of_answers(theirs, ours)
    if theirs.status != ours.status:
        return f"status {theirs.status} and {ours.status}"
    if theirs.status == 500:
        return ""
    return _difference_of_refusals(theirs, ours)


def _difference_of_answers(theirs: Outcome, ours: Outcome) -> str:
    if not is_same(theirs.seen, ours.seen):
        return "the model was handed something else"
    if theirs.content_type != ours.content_type:
        return "another content type"
    expected, found = json.loads(theirs.body), json.loads(ours.body, parse_constant=_fail)
    if is_same(_without_nan(expected), found) or _holds_objects(theirs.seen):
        return ""
    return "another answer"


def _holds_objects(value: Any) -> bool:
    """Find objects in arrays of no dimension, in an array.

    MLflow makes such of rows without a signature. It writes of a dict in them the keys alone, and
    nothing of a null, for which it fails.
    """
    if isinstance(value, np.ndarray):
        return any(map(_holds_objects, value.ravel())) or (
            value.ndim == 0 and value.dtype == object
        )
    if isinstance(value, dict):
        return any(map(_holds_objects, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_objects, value))


def _difference_of_refusals(theirs: Outcome, ours: Outcome) -> str:
    if meaning(theirs.message) != meaning(ours.message):
        return f"another meaning: {meaning(theirs.message)} and {meaning(ours.message)}"
    if ours.status == 415:
        same = theirs.content_type == ours.content_type
        return "" if same and ours.message.rstrip(".") in theirs.message else "other words"
    found = json.loads(ours.body)
    if found.keys() != {"error_code", "message"} or found["error_code"] != "BAD_REQUEST":
        return "another shape of an error"
    return ""


def _fail(name: str) -> None:
    raise AssertionError(f"a bare {name}")


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_same(one: Any, other: Any) -> bool:
    """Compare by all that a model can see, but for the order in memory."""
    if type(one) is not type(other):
        return False
    if isinstance(one, pd.DataFrame):
        return (
            one.dtypes.tolist() == other.dtypes.tolist()
            and is_same(one.index, other.index)
            and is_same(one.columns, other.columns)
            and all(
                type(a.array) is type(b.array) and is_same(a.tolist(), b.tolist())
                for (_, a), (_, b) in zip(one.items(), other.items(), strict=True)
            )
        )
    if isinstance(one, pd.Index):
        return one.dtype == other.dtype and one.names == other.names and repr(one) == repr(other)
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape) == (other.dtype, other.shape) and repr(one.tolist()) == repr(
            other.tolist()
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return one is other or repr(one) == repr(other)


def check(pair: Pair, body: bytes, content_type: str | None) -> Outcome:
    theirs, ours = pair.by_mlflow(body, content_type), pair.by_us(body, content_type)
    problem = difference(theirs, ours)
    signature = pair.runner.description.signature
    assert not problem, f"{problem}\n{signature}\n{content_type}\n{body!r}\n{theirs}\n{ours}"
    assert b"raceback" not in ours.body
    return ours
